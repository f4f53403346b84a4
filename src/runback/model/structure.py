"""What a module is built from, as JSON: a class of torch.nn or of the user, and its arguments.

A module of the user's own class is built by its constructor. One of torch.nn is built by its class and
the arguments that its attributes have; a container (`nn.Sequential`, `nn.ModuleList`, `nn.ModuleDict`)
by its parts. Whether that gives the same module is not decided here: it is compared before it is
registered.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from runback.errors import ModelError, first_line
from runback.user_code import pass_interruptions

# The class of a node that is the user's own; its name is stored elsewhere.
OWN = "own"
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
# Arguments that say where and as what tensors are created; the weights say it, too.
_PLACES = ("device", "dtype")
_MISSING = inspect.Parameter.empty


def is_of_torch(cls: type) -> bool:
    """Whether a class is one of torch.nn."""
    return getattr(nn, cls.__name__, None) is cls


def structure_of(module: nn.Module, args: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The description of a module, as JSON values.

    Args:
        module: of the user's own class or of torch.nn.
        args: of the constructor of the user's own class, by name; None to find each in the attribute
            of the same name, or else take its default.

    Raises:
        ModelError: an argument is no JSON value or is not known, or a part of a module of torch.nn is
            neither of torch.nn.
    """
    cls = type(module)
    if is_of_torch(cls):
        if args is not None:
            raise ModelError(
                f"args: are for a class of your own; those of {cls.__name__} are known"
            )
        return _of_torch(module)
    given = _given(cls, args) if args is not None else _found(module, cls.__name__)
    return {"class": OWN, "args": given}


def build(structure: Any, own: type[nn.Module] | None) -> nn.Module:
    """Builds the untrained module of a description.

    Args:
        structure: from a model folder; nothing in it names code of others than torch.nn.
        own: the user's class, if the module is of it.

    Raises:
        ModelError: an invalid description, or the class refuses its arguments.
    """
    if not isinstance(structure, dict) or not isinstance(structure.get("args"), dict):
        raise ModelError("model.json: the entry 'structure' is damaged")
    name, args, parts = structure.get("class"), structure["args"], structure.get("parts")
    cls = own if name == OWN else getattr(nn, name, None) if isinstance(name, str) else None
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise ModelError(
            f"model.json: the entry 'structure' names no class of torch.nn: {name!r:.80}"
        )
    if parts is not None:
        return _container(cls, parts)
    try:
        return cls(
            **(args if name == OWN else {key: _tuples(value) for key, value in args.items()})
        )
    except BaseException as error:  # a user's __init__ can raise anything
        pass_interruptions(error)
        raise ModelError(f"{cls.__name__} refuses {args}: {first_line(error)}") from error


def _of_torch(module: nn.Module) -> dict[str, Any]:
    cls = type(module)
    if not is_of_torch(cls):
        raise ModelError(
            f"the module contains {cls.__name__}, which is not of torch.nn; register a module of a "
            "class of your own that creates it in __init__"
        )
    if cls not in CONTAINERS:
        return {"class": cls.__name__, "args": _found(module, f"nn.{cls.__name__}")}
    parts = [[name, _of_torch(part)] for name, part in module.named_children()]
    if len(parts) < len(module._modules):  # named_children gives a module that is used twice once
        raise ModelError("a container has the same module twice; write a class of your own instead")
    return {"class": cls.__name__, "args": {}, "parts": parts}


def _container(cls: type[nn.Module], parts: Any) -> nn.Module:
    is_valid = isinstance(parts, list) and all(isinstance(p, list) and len(p) == 2 for p in parts)
    if cls not in CONTAINERS or not is_valid:
        raise ModelError("model.json: the entry 'structure' is damaged")
    built = [(str(name), build(part, None)) for name, part in parts]
    if cls is nn.ModuleList:
        return nn.ModuleList(part for _, part in built)
    return cls(OrderedDict(built))


def _given(cls: type, args: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments that the user gives, checked against the constructor."""
    plain = {str(name): _plain(value, f"args[{name!r}]") for name, value in args.items()}
    try:
        inspect.signature(cls).bind(**plain)
    except TypeError as error:
        raise ModelError(
            f"args: {cls.__name__} is not called with {list(plain)}: {error}"
        ) from None
    return plain


def _found(module: nn.Module, name: str) -> dict[str, Any]:
    """The arguments of a constructor: attributes of the same names, or else the defaults."""
    found, missing = {}, []
    for parameter in _parameters(type(module)):
        key, value = parameter.name, _attribute(module, parameter)
        if value is not _MISSING:
            found[key] = value
        elif parameter.default is _MISSING:
            missing.append(key)
    if missing:
        example = ", ".join(f"{key!r}: ..." for key in missing)
        advice = f"give them: args={{{example}}}"
        if is_of_torch(type(module)):
            advice = "register a module of a class of your own that creates it in __init__"
        raise ModelError(f"the arguments {', '.join(missing)} of {name} are not known; {advice}")
    return found


def _parameters(cls: type) -> list[inspect.Parameter]:
    """The parameters of a constructor that are given by name."""
    is_recurrent = is_of_torch(cls) and issubclass(cls, nn.RNNBase)  # these take *args
    skipped = (*_PLACES, "mode") if is_recurrent else _PLACES
    parameters = inspect.signature(nn.RNNBase if is_recurrent else cls).parameters.values()
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [p for p in parameters if p.kind in by_name and p.name not in skipped]


def _attribute(module: nn.Module, parameter: inspect.Parameter) -> Any:
    """The value of the attribute of a parameter's name; `_MISSING` if it is none of JSON.

    `bias=True` of a module of torch.nn makes its attribute `bias` a tensor, and False makes it None.
    """
    value = getattr(module, parameter.name, _MISSING)
    if isinstance(parameter.default, bool) and (value is None or isinstance(value, Tensor)):
        return value is not None
    try:
        return value if value is _MISSING else _plain(value, parameter.name)
    except ModelError:
        return _MISSING


def _plain(value: Any, where: str) -> Any:
    """A value as one of JSON.

    Raises:
        ModelError: it is none; it is named.
    """
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if value is None or type(value) in (str, bool, int, float):
        return value
    raise ModelError(
        f"{where}: a {type(value).__name__} is neither text, a number, a list nor a dict; create it in "
        "__init__ from values that are"
    )


def _tuples(value: Any) -> Any:
    """Lists as tuples, which the classes of torch.nn expect."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
