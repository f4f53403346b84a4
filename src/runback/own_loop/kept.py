"""An object whose state a user's loop keeps."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from runback.console.progress import say
from runback.errors import UsageError, first_line
from runback.model.hidden_state import generators_of, listed
from runback.stateful import Stateful, require_loadable, snapshot


class Kept:
    """A named object; its errors name it.

    Args:
        name: in the checkpoint.
        target: a module, an optimizer, or another object with `state_dict` and `load_state_dict`.

    Raises:
        UsageError: the object lacks one of the two methods.
    """

    def __init__(self, name: str, target: Stateful) -> None:
        if not (hasattr(target, "state_dict") and hasattr(target, "load_state_dict")):
            kind = type(target).__name__
            raise UsageError(f"keep: {name}, a {kind}, has no state_dict and load_state_dict")
        self._name, self._target, self._is_checked = name, target, False
        if isinstance(target, nn.Module) and (found := generators_of(target)):
            say(
                f"warning: keep: {name} has a random generator outside its state_dict "
                f"({listed(found)}): a resumed run will differ from an uninterrupted one"
            )

    def state_dict(self) -> dict[str, Any]:
        """The object's state."""
        return self._target.state_dict()

    def snapshot(self) -> dict[str, Any]:
        """A copy of the object's state.

        Raises:
            UsageError: the state has something that cannot be loaded without pickle.
        """
        state = snapshot(self._target)
        if not self._is_checked:
            self._require_loadable(state)
            self._is_checked = True
        return state

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Loads a state.

        Raises:
            UsageError: it does not fit.
        """
        try:
            self._target.load_state_dict(state_dict)
        except Exception as error:  # a user's object can raise anything
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UsageError(
                f"keep: {self._name}: the state of the checkpoint does not fit: {reason[:300]}"
            ) from error

    def _require_loadable(self, state: dict[str, Any]) -> None:
        try:
            require_loadable(_without_tensors(state))
        except Exception as error:  # of pickle, or of weights_only
            raise UsageError(
                f"keep: {self._name}: its state_dict has something other than tensors, numbers, "
                f"texts, lists and dicts, which cannot be loaded safely: {_cause(error)}"
            ) from None


def _without_tensors(value: Any) -> Any:
    if isinstance(value, Tensor):
        return None
    if type(value) is dict:
        return {key: _without_tensors(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return [_without_tensors(item) for item in value]
    return value


def _cause(error: Exception) -> str:
    """The line that names the object, in the message of `torch.load`."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if "GLOBAL" in line), first_line(error))[:200]
