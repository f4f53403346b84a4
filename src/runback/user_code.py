"""User-defined modules, imported in isolation from other modules of the same name.

Importing a class executes its file. When a model is loaded, that is the file stored with the model,
never another file of the same name; no other file of a model folder is executed. Whether stored code
may run at all is decided before, in `storage.trust`.
"""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from runback.errors import Interrupted, ModelError

# Always importable where a model is loaded, so their sources are not stored with it.
LIBRARIES = frozenset({"torch", "runback"})
FUNCTIONS = "torch.nn.functional"
# Importing these a second time would break the process.
_SHARED = frozenset({"mlflow", "numpy", "pandas", "pyarrow", "scipy", "sklearn", "matplotlib"})
MAX_SHOWN = 200  # characters of a path in messages


@dataclass(frozen=True)
class UserCode:
    """The location of a user's class: `module` is importable from the folder `root`."""

    root: Path
    module: str
    name: str

    @property
    def top(self) -> str:
        """The first part of the module's name."""
        return self.module.split(".")[0]

    @property
    def reference(self) -> str:
        """`module:Class`, without the folder."""
        return f"{self.module}:{self.name}"


class Sourced(Protocol):
    """An imported class or function with its source files, which are below `code.root`."""

    @property
    def code(self) -> UserCode: ...
    @property
    def files(self) -> tuple[Path, ...]: ...


@dataclass(frozen=True)
class UserFunction:
    """An imported function, and its source files below `code.root`."""

    function: Callable[..., Any]
    code: UserCode
    files: tuple[Path, ...]


@dataclass(frozen=True)
class UserClass:
    """An imported class, its source files below `code.root`, and its modules.

    Attributes:
        modules: the entries of `sys.modules` that the import added for this code.
    """

    cls: type[Any]
    code: UserCode
    files: tuple[Path, ...]
    modules: dict[str, ModuleType]

    @contextmanager
    def importable(self) -> Iterator[None]:
        """Makes the class importable by name inside the block, for pickling and tracing."""
        hidden = {name: sys.modules[name] for name in self.modules if name in sys.modules}
        sys.modules.update(self.modules)
        try:
            yield
        finally:
            for name in self.modules:
                sys.modules.pop(name, None)
            sys.modules.update(hidden)


def is_lightning_module(cls: type[Any]) -> bool:
    """Whether a class is a LightningModule; by name, so that nothing is imported for the answer."""
    names = [(base.__module__.partition(".")[0], base.__name__) for base in cls.__mro__]
    return any((top, "LightningModule") in names for top in ("lightning", "pytorch_lightning"))


def is_user_defined(model: str) -> bool:
    """Whether a model option names a user's class rather than a built-in module."""
    return ":" in model


def is_of_library(model: str) -> bool:
    """Whether a model option names a class of `LIBRARIES`, which has no source of its own."""
    return is_user_defined(model) and model.partition(":")[0].split(".")[0] in LIBRARIES


def unknown_model(model: str, known: Iterable[str]) -> ModelError:
    """The error for a model that is neither built in nor the user's."""
    return ModelError(
        f"option model: {model!r} is not one of {', '.join(known)}, file.py:Class or "
        "package.module:Class"
    )


def locate(model: str, option: str = "model") -> UserCode:
    """Resolves `file.py:Class` or `package.module:Class` without executing the code.

    Raises:
        ModelError: an invalid form, no such file or module, or a name of another package.
    """
    location, _, name = model.rpartition(":")
    if not location or not name.isidentifier():
        raise ModelError(
            f"option {option}: {model!r} is neither file.py:Class nor package.module:Class"
        )
    if not location.endswith(".py"):
        _require_module_name(location, f"option {option}: {model!r}")
        return UserCode(_root_of(location, model, option), location, name)
    file = _existing(location)
    if file is None:
        raise ModelError(f"option {option}: {location[:MAX_SHOWN]}: no such file")
    if not file.stem.isidentifier():
        raise ModelError(f"option {option}: {location}: the file name is not a Python module name")
    if _is_taken(file.stem) or file.stem in LIBRARIES:
        raise ModelError(
            f"option {option}: {location}: {file.stem!r} is the name of another package; "
            "rename the file"
        )
    return UserCode(file.parent, file.stem, name)


def resolve(reference: str, source: Path | None, option: str = "model") -> UserCode:
    """The code that a reference names: in a folder of recorded code, or, without one, where it is.

    Raises:
        ModelError: as in `locate` and `stored_code`.
    """
    if source is None:
        return locate(reference, option)
    location = reference.rpartition(":")[0]
    module = Path(location).stem if location.endswith(".py") else location
    return stored_code(source, module, reference, option)


def source_file(code: UserCode) -> Path | None:
    """The file of a module; None if it has no source."""
    return next((file for file in _module_files(code.root, code.module) if file.is_file()), None)


def stored_code(folder: Path, module: str, model: str, option: str = "model") -> UserCode:
    """The code of a class or function that was stored with a model or a run in `folder`.

    Raises:
        ModelError: an invalid module or class name, or the folder does not contain the module.
    """
    name = model.rpartition(":")[2]
    if not name.isidentifier():
        raise ModelError(f"{option} {model!r}: {name!r} is not the name of a class or function")
    _require_module_name(module, f"{option} {model!r}")
    code = UserCode(folder.resolve(), module, name)
    files = _module_files(code.root, module)
    if code.top not in LIBRARIES and not any(file.is_file() for file in files):
        raise ModelError(f"{option} {model!r}: the source of {module} is missing from {folder}")
    return code


def import_class(code: UserCode, base: type | None = None, option: str = "model") -> UserClass:
    """Imports a class, then removes its modules from `sys.modules`: the next import is fresh.

    A class of `LIBRARIES` is taken from the modules that are loaded already: nothing is imported.

    Args:
        code: of the class.
        base: of the class; None for `torch.nn.Module`.
        option: the name in errors.

    Raises:
        ModelError: the import fails, or the module has no subclass of `base` with that name.
    """
    from torch import nn  # imported late: a location is checked before torch is imported

    base = base or nn.Module
    if code.top in LIBRARIES:
        return UserClass(_class_of(_loaded(code, option), code, base, option), code, (), {})
    module, files, modules = _import(code, option)
    return UserClass(_class_of(module, code, base, option), code, files, modules)


def import_function(code: UserCode, option: str) -> UserFunction:
    """Imports a function, or another object that can be called, as `import_class` does a class.

    Of `LIBRARIES` only functions of torch.nn.functional are taken: what a store says must not name
    any function of them.

    Raises:
        ModelError: the import fails, or the module has no function with that name.
    """
    if code.top in LIBRARIES:
        if code.module != FUNCTIONS:
            raise ModelError(
                f"option {option}: {code.module} is no module of losses; name a function of {FUNCTIONS}"
            )
        return UserFunction(_function_of(_loaded(code, option), code, option), code, ())
    module, files, _ = _import(code, option)
    return UserFunction(_function_of(module, code, option), code, files)


def _import(
    code: UserCode, option: str
) -> tuple[ModuleType, tuple[Path, ...], dict[str, ModuleType]]:
    """The module, the source files of its import, and the entries of `sys.modules` it added."""
    with _isolated(code) as before:
        module = _imported(code, option)
        added = {name: sys.modules[name] for name in sys.modules.keys() - before}
        modules = {name: m for name, m in added.items() if _is_local(code, name, m)}
    files = (Path(str(m.__file__)).resolve() for m in modules.values() if _has_source(m))
    return module, tuple(sorted(set(files))), modules


def pass_interruptions(error: BaseException) -> None:
    """Raises `error` again if it is a signal's and not one of the user code that it interrupts.

    Every handler of what user code raises begins with it: user code can raise anything, also
    `SystemExit`, while a signal can arrive at any time.
    """
    from_signal = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # Ctrl-C raises it
    is_interruption = isinstance(error, KeyboardInterrupt) and from_signal
    if is_interruption or isinstance(error, Interrupted | GeneratorExit):
        raise error


@contextmanager
def refusing_exits(what: str) -> Iterator[None]:
    """Converts `sys.exit()` and the like in user code to an error; other exceptions pass through.

    Raises:
        ModelError: the block ended with an exception that is no `Exception`.
    """
    try:
        yield
    except Exception:
        raise
    except BaseException as error:
        pass_interruptions(error)
        raise ModelError(f"the code of {what} raised {type(error).__name__}: {error}") from error


def sources_of(parts: Iterable[Sourced]) -> dict[str, Path]:
    """The source files of several objects, by their paths relative to the roots.

    Raises:
        ModelError: two different files have the same path, so that one would replace the other.
    """
    found: dict[str, Path] = {}
    for part in parts:
        for file in part.files:
            other = found.setdefault(file.relative_to(part.code.root).as_posix(), file)
            if other != file and other.read_bytes() != file.read_bytes():
                raise ModelError(
                    f"{other} and {file} are kept with the run under the same name; rename one of them"
                )
    return found


def sources_differ(one: Sourced, other: Sourced) -> bool:
    """Whether two objects have different source files."""
    contents = [
        {name: file.read_bytes() for name, file in sources_of([part]).items()}
        for part in (one, other)
    ]
    return contents[0] != contents[1]


def copy_sources(parts: Iterable[Sourced], folder: Path) -> None:
    """Copies the source files into `folder`, with their paths relative to the roots.

    Raises:
        ModelError: as in `sources_of`.
    """
    for name, file in sources_of(parts).items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)


def _root_of(module: str, model: str, option: str) -> Path:
    """The folder from which a dotted module is imported; the current folder is searched first."""
    top = module.split(".")[0]
    if _is_taken(top):
        raise ModelError(f"option {option}: {model!r}: {top!r} is not a user package")
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
    except BaseException as error:  # a user's file can raise anything
        pass_interruptions(error)
        where = f"{code.root / code.module.replace('.', '/')}.py"
        raise ModelError(
            f"option {option}: {where} does not import: {type(error).__name__}: {error}"
        ) from error


def _loaded(code: UserCode, option: str) -> ModuleType:
    if code.module not in sys.modules:
        raise ModelError(
            f"option {option}: {code.module} is not a module that importing {code.top} loads; name a "
            "class as in torch.nn:Linear"
        )
    return sys.modules[code.module]


def _existing(location: str) -> Path | None:
    """The absolute path of a file; None if there is none, or the text is not a path."""
    try:
        file = Path(location).expanduser().resolve()
        return file if file.is_file() else None
    except (OSError, ValueError, RuntimeError):
        return None


def _class_of(module: ModuleType, code: UserCode, base: type, option: str) -> type[Any]:
    cls = getattr(module, code.name, None)
    if not (isinstance(cls, type) and issubclass(cls, base)):
        kind = f"{base.__module__}.{base.__name__}".replace("torch.nn.modules.module.", "nn.")
        raise ModelError(f"option {option}: {code.module} has no {kind} class {code.name!r}")
    return cls


def _function_of(module: ModuleType, code: UserCode, option: str) -> Callable[..., Any]:
    function: Any = getattr(module, code.name, None)
    if isinstance(function, type) or not callable(function):
        raise ModelError(f"option {option}: {code.module} has no function {code.name!r}")
    found: Callable[..., Any] = function
    return found


@contextmanager
def _isolated(code: UserCode) -> Iterator[set[str]]:
    """Puts `code.root` first on the path and hides modules it shadows; restores both at the end."""
    hidden = {name: m for name, m in sys.modules.items() if _is_shadowed(code, name)}
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


def _is_shadowed(code: UserCode, name: str) -> bool:
    """Whether a module in the root has the same name as an imported module."""
    top = name.split(".")[0]
    if top == code.top:
        return True
    if _is_taken(top) or top in LIBRARIES or "site-packages" in code.root.parts:
        return False
    return any(file.is_file() for file in _module_files(code.root, top))


def _is_local(code: UserCode, name: str, module: ModuleType) -> bool:
    """Whether a module belongs to the user's code: the class's package, or a file in the root."""
    if name.split(".")[0] == code.top:
        return True
    file = getattr(module, "__file__", None)
    if not file or "site-packages" in code.root.parts or name.split(".")[0] in LIBRARIES:
        return False
    return Path(file).resolve() in _module_files(code.root, name)


def _module_files(root: Path, module: str) -> tuple[Path, Path]:
    """The two possible files of a module below a root."""
    path = root.joinpath(*module.split("."))
    return path.with_name(path.name + ".py"), path / "__init__.py"


def _has_source(module: ModuleType) -> bool:
    return str(getattr(module, "__file__", "") or "").endswith(".py")
