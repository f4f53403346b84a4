"""Users' own modules: imported apart from everything else, so that the code that trained wins."""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from runback.errors import ModelError


@dataclass(frozen=True)
class OwnCode:
    """Where a user's class lives: `module` is importable from the folder `root`."""

    root: Path
    module: str
    name: str


@dataclass(frozen=True)
class OwnClass:
    """An imported class and the source files, below `code.root`, that importing it read."""

    cls: type[Any]
    code: OwnCode
    files: tuple[Path, ...]


def is_own(model: str) -> bool:
    """Whether a model option names a user's class rather than a built-in module."""
    return ":" in model


def locate(model: str, option: str = "model") -> OwnCode:
    """Finds the code behind `file.py:Class` or `package.module:Class` without running it.

    Raises:
        ModelError: neither form, or no such file or module.
    """
    place, _, name = model.rpartition(":")
    if not place or not name.isidentifier():
        raise ModelError(
            f"option {option}: {model!r} is neither file.py:Class nor package.module:Class"
        )
    if place.endswith(".py"):
        file = Path(place).expanduser().resolve()
        if not file.is_file():
            raise ModelError(f"option {option}: {place}: no such file")
        if not file.stem.isidentifier():
            raise ModelError(f"option {option}: {place}: the file's name is no Python module name")
        return OwnCode(file.parent, file.stem, name)
    return OwnCode(_root_of(place, model, option), place, name)


def import_class(code: OwnCode, base: type = nn.Module, option: str = "model") -> OwnClass:
    """Imports a class, and forgets the modules that this brought in: the next import is fresh.

    Raises:
        ModelError: the code does not import, or has no class of that name derived from `base`.
    """
    with _isolated(code) as fresh:
        try:
            module = importlib.import_module(code.module)
        except Exception as error:  # a user's file can raise anything
            where = f"{code.root / code.module.replace('.', '/')}.py"
            raise ModelError(
                f"option {option}: {where} does not import: {type(error).__name__}: {error}"
            ) from error
        cls = getattr(module, code.name, None)
        files = tuple(sorted(_sources(code, fresh())))
    if not (isinstance(cls, type) and issubclass(cls, base)):
        kind = f"{base.__module__}.{base.__name__}"
        raise ModelError(f"option {option}: {code.module} has no {kind} class {code.name!r}")
    return OwnClass(cls, code, files)


def copy_sources(own: OwnClass, folder: Path) -> None:
    """Copies the class's source files below `folder`, keeping their places relative to the root."""
    for file in own.files:
        target = folder / file.relative_to(own.code.root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)


def _root_of(place: str, model: str, option: str) -> Path:
    """The folder from which a dotted module is imported; the current folder counts, as for -m."""
    top = place.split(".")[0]
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        spec = None
    finally:
        sys.path.remove(here)
    if spec is None:
        raise ModelError(f"option {option}: {model!r}: no module named {top!r}")
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).resolve().parent
    return Path(str(spec.origin)).resolve().parent


@contextmanager
def _isolated(code: OwnCode) -> Iterator[_Fresh]:
    """Imports from `code.root` first, hiding same-named modules, and restores sys.modules after."""
    top = code.module.split(".")[0]
    hidden = {n: m for n, m in sys.modules.items() if n == top or n.startswith(top + ".")}
    for name in hidden:
        del sys.modules[name]
    fresh = _Fresh(set(sys.modules))
    wrote_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.path.insert(0, str(code.root))
    importlib.invalidate_caches()
    try:
        yield fresh
    finally:
        sys.dont_write_bytecode = wrote_bytecode
        sys.path.remove(str(code.root))
        for name in _local(code, fresh()):
            del sys.modules[name]
        sys.modules.update(hidden)


class _Fresh:
    """The names of the modules imported since its creation."""

    def __init__(self, before: set[str]) -> None:
        self.before = before

    def __call__(self) -> list[str]:
        return [name for name in sys.modules if name not in self.before]


def _local(code: OwnCode, names: list[str]) -> list[str]:
    """Those modules that belong to the user's code: below the root, and outside installed packages."""
    top = code.module.split(".")[0]
    local = []
    for name in names:
        file = getattr(sys.modules[name], "__file__", None)
        own = name == top or name.startswith(top + ".")
        below = file is not None and Path(file).resolve().is_relative_to(code.root)
        if own or (below and "site-packages" not in Path(str(file)).parts):
            local.append(name)
    return local


def _sources(code: OwnCode, names: list[str]) -> set[Path]:
    files = (getattr(sys.modules[name], "__file__", None) for name in _local(code, names))
    return {Path(file).resolve() for file in files if file and file.endswith(".py")}
