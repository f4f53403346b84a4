"""The modules of runback that are stored with a model. Used by the courier; imports no torch."""

from __future__ import annotations

from pathlib import Path

from runback.model.imports import imported_modules

PACKAGE = Path(__file__).parents[1]
# The pyfunc loader module; it and its imports from runback are stored with each model.
ENTRY_MODULE = "runback.model.serving"


def travelling_files() -> list[Path]:
    """The files of runback that are stored with a model, relative to the package's folder.

    They are the entry module, its transitive imports from runback, and the `__init__.py` of their
    packages. Imports under TYPE_CHECKING are ignored.
    """
    files: dict[str, Path] = {}
    pending = [ENTRY_MODULE]
    while pending:
        module = pending.pop()
        file = _file_of(module)
        if file is None or module in files:
            continue
        files[module] = file.relative_to(PACKAGE)
        pending += [*imported_modules(file), module.rpartition(".")[0]]
    return sorted(files.values())


def _file_of(module: str) -> Path | None:
    """The file of a module of runback; None for other packages and for names in a module."""
    top, *parts = module.split(".")
    if top != PACKAGE.name:
        return None
    path = PACKAGE.joinpath(*parts)
    for file in (path / "__init__.py", path.with_suffix(".py")):
        if file.is_file():
            return file
    return None
