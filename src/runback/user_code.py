"""Users' own modules: imported apart from everything else, so that the code that trained wins.

Importing a class runs its file, as every import does. On load that is the file that travelled with
the model, never one that merely has the same name; nothing else of a model folder is executed.
"""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from runback.errors import ModelError

# Their classes are wherever the model can be loaded at all: nothing has to travel.
LIBRARIES = frozenset({"torch", "runback"})
# Importing these a second time, apart from everything else, would break the process.
_SHARED = frozenset({"mlflow", "numpy", "pandas", "pyarrow", "scipy", "sklearn", "matplotlib"})


@dataclass(frozen=True)
class UserCode:
    """Where a user's class is_alive: `module` is importable from the folder `root`."""

    root: Path
    module: str
    name: str

    @property
    def top(self) -> str:
        """The first part of the module's name."""
        return self.module.split(".")[0]


@dataclass(frozen=True)
class UserClass:
    """An imported class, the source files below `code.root` that importing it read, and its modules.

    Attributes:
        modules: what `sys.modules` held of this code during the import.
    """

    cls: type[Any]
    code: UserCode
    files: tuple[Path, ...]
    modules: dict[str, ModuleType]

    @contextmanager
    def importable(self) -> Iterator[None]:
        """Makes the class importable by its name for a while, as pickling and tracing need it."""
        hidden = {name: sys.modules[name] for name in self.modules if name in sys.modules}
        sys.modules.update(self.modules)
        try:
            yield
        finally:
            for name in self.modules:
                sys.modules.pop(name, None)
            sys.modules.update(hidden)


def is_user_defined(model: str) -> bool:
    """Whether a model option names a user's class rather than a built-in module."""
    return ":" in model


def locate(model: str, option: str = "model") -> UserCode:
    """Finds the code behind `file.py:Class` or `package.module:Class` without running it.

    Raises:
        ModelError: neither form, no such file or module, or a name that belongs to another package.
    """
    place, _, name = model.rpartition(":")
    if not place or not name.isidentifier():
        raise ModelError(
            f"option {option}: {model!r} is neither file.py:Class nor package.module:Class"
        )
    if not place.endswith(".py"):
        _require_module_name(place, f"option {option}: {model!r}")
        return UserCode(_root_of(place, model, option), place, name)
    file = Path(place).expanduser().resolve()
    if not file.is_file():
        raise ModelError(f"option {option}: {place}: no such file")
    if not file.stem.isidentifier():
        raise ModelError(f"option {option}: {place}: the file's name is no Python module name")
    if _is_taken(file.stem) or file.stem in LIBRARIES:
        raise ModelError(
            f"option {option}: {place}: {file.stem!r} is the name of another package; rename the file"
        )
    return UserCode(file.parent, file.stem, name)


def stored_code(folder: Path, module: str, model: str) -> UserCode:
    """The code of a class that travelled with a model in `folder`.

    Raises:
        ModelError: the names are no module and class, or the folder does not hold that module.
    """
    name = model.rpartition(":")[2]
    if not name.isidentifier():
        raise ModelError(f"model {model!r}: {name!r} is not the name of a class")
    _require_module_name(module, f"model {model!r}")
    code = UserCode(folder.resolve(), module, name)
    if code.top not in LIBRARIES and not any(file.is_file() for file in _places(code.root, module)):
        raise ModelError(f"model {model!r}: the source of {module} is missing from {folder}")
    return code


def import_class(code: UserCode, base: type = nn.Module, option: str = "model") -> UserClass:
    """Imports a class, and forgets the modules that this brought in: the next import is fresh.

    Raises:
        ModelError: the code does not import, or has no class of that name derived from `base`.
    """
    if code.top in LIBRARIES:
        return UserClass(_class_of(_imported(code, option), code, base, option), code, (), {})
    with _isolated(code) as before:
        module = _imported(code, option)
        found = {name: sys.modules[name] for name in sys.modules.keys() - before}
        modules = {name: m for name, m in found.items() if _is_local(code, name, m)}
    files = (Path(str(m.__file__)).resolve() for m in modules.values() if _has_source(m))
    cls = _class_of(module, code, base, option)
    return UserClass(cls, code, tuple(sorted(set(files))), modules)


def copy_sources(own: UserClass, folder: Path) -> None:
    """Copies the class's source files below `folder`, keeping their places relative to the root."""
    for file in own.files:
        target = folder / file.relative_to(own.code.root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)


def _root_of(place: str, model: str, option: str) -> Path:
    """The folder from which a dotted module is imported; the current folder counts, as for -m."""
    top = place.split(".")[0]
    if _is_taken(top):
        raise ModelError(f"option {option}: {model!r}: {top!r} holds no module of yours")
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


def _require_module_name(module: str, what: str) -> None:
    if not all(part.isidentifier() for part in module.split(".")):
        raise ModelError(f"{what}: {module!r} is not the name of a Python module")


def _is_taken(top: str) -> bool:
    return top in sys.stdlib_module_names or top in _SHARED


def _imported(code: UserCode, option: str) -> ModuleType:
    try:
        return importlib.import_module(code.module)
    except (Exception, SystemExit) as error:  # a user's file can raise anything
        where = f"{code.root / code.module.replace('.', '/')}.py"
        raise ModelError(
            f"option {option}: {where} does not import: {type(error).__name__}: {error}"
        ) from error


def _class_of(module: ModuleType, code: UserCode, base: type, option: str) -> type[Any]:
    cls = getattr(module, code.name, None)
    if not (isinstance(cls, type) and issubclass(cls, base)):
        kind = "nn.Module" if base is nn.Module else f"{base.__module__}.{base.__name__}"
        raise ModelError(f"option {option}: {code.module} has no {kind} class {code.name!r}")
    return cls


@contextmanager
def _isolated(code: UserCode) -> Iterator[set[str]]:
    """Imports from `code.root` first, hiding modules of the names there, and restores all after."""
    hidden = {name: m for name, m in sys.modules.items() if _is_in_the_way(code, name)}
    for name in hidden:
        del sys.modules[name]
    before = set(sys.modules)
    wrote_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.path.insert(0, str(code.root))
    importlib.invalidate_caches()
    try:
        yield before
    finally:
        sys.dont_write_bytecode = wrote_bytecode
        sys.path.remove(str(code.root))
        for name in sys.modules.keys() - before:
            if _is_local(code, name, sys.modules[name]):
                del sys.modules[name]
        sys.modules.update(hidden)


def _is_in_the_way(code: UserCode, name: str) -> bool:
    """Whether an imported module has the name of one in the root, which must be imported instead."""
    top = name.split(".")[0]
    if top == code.top:
        return True
    if _is_taken(top) or top in LIBRARIES or "site-packages" in code.root.parts:
        return False
    return any(file.is_file() for file in _places(code.root, top))


def _is_local(code: UserCode, name: str, module: ModuleType) -> bool:
    """Whether a module is of the user's code: the class's own package, or a file beside it."""
    if name.split(".")[0] == code.top:
        return True
    file = getattr(module, "__file__", None)
    if not file or "site-packages" in code.root.parts or name.split(".")[0] in LIBRARIES:
        return False
    return Path(file).resolve() in _places(code.root, name)


def _places(root: Path, module: str) -> tuple[Path, Path]:
    """Where a module's file would lie below a root."""
    path = root.joinpath(*module.split("."))
    return path.with_name(path.name + ".py"), path / "__init__.py"


def _has_source(module: ModuleType) -> bool:
    return str(getattr(module, "__file__", "") or "").endswith(".py")
