"""The part of runback that travels with a model. Imports no torch: the courier asks."""

from __future__ import annotations

from pathlib import Path

from runback.model.imports import imported_modules

PACKAGE = Path(__file__).parents[1]
# What mlflow is told to load; it and all of runback that it imports travel with each model.
ENTRY_MODULE = "runback.model.serving"


def travelling_files() -> list[Path]:
    """The files of runback that travel with a model, relative to the package's folder.

    They are the entry module, what it imports of runback, and the `__init__.py` of each package on
    the way, at whatever depth the imports stand; those for type checkers alone do not count.
    """
    found: dict[str, Path] = {}
    waiting = [ENTRY_MODULE]
    while waiting:
        module = waiting.pop()
        file = _file_of(module)
        if file is None or module in found:
            continue
        found[module] = file.relative_to(PACKAGE)
        waiting += [*imported_modules(file), module.rpartition(".")[0]]
    return sorted(found.values())


def _file_of(module: str) -> Path | None:
    """The file of one of runback's modules; None for other packages and for names in a module."""
    top, *parts = module.split(".")
    if top != PACKAGE.name:
        return None
    place = PACKAGE.joinpath(*parts)
    for file in (place / "__init__.py", place.with_suffix(".py")):
        if file.is_file():
            return file
    return None
