"""TrainConfig: one frozen dataclass that is the CLI options, the MLproject parameters and the
MLflow params at once. This module imports neither torch nor mlflow.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from runback.errors import ConfigError

# MLflow refuses longer values (mlflow.utils.validation.MAX_PARAM_VAL_LENGTH).
MAX_VALUE_LENGTH = 6000
# All options together travel in one tag, and MLflow cuts tags off here without a word.
MAX_TOTAL_LENGTH = 8000
MAX_INT = 2**63 - 1
MAX_SHOWN = 80
# Far above any machine's cores; libgomp ends the whole process when it cannot start a thread.
MAX_PARALLEL = 1024


def _option(
    default: Any,
    text: str,
    *,
    choices: tuple[str, ...] = (),
    low: float = -math.inf,
    high: float = MAX_INT,
) -> Any:
    """A field with its help text, allowed values, and bounds."""
    meta = {"help": text, "choices": choices, "low": low, "high": high}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=meta)
    return field(default=default, metadata=meta)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides a training run. The defaults are the seed's non-linear regression.

    Raises:
        ConfigError: on construction, naming the option, where a value has the wrong type, is
            outside its range, or contradicts another option.
    """

    data: str = _option(
        "data/non_linear.csv",
        "table to train on: .csv, .parquet, or a dataset of your own, file.py:Class",
    )
    target: tuple[str, ...] = _option(
        (), "target column(s), comma-separated; empty: the last column"
    )
    features: tuple[str, ...] = _option((), "feature columns, comma-separated; empty: all others")
    model: str = _option(
        "polynomial", "linear, polynomial, mlp, package.module:Class or file.py:Class"
    )
    model_args: dict[str, Any] = _option(
        {}, "arguments of the model as JSON, e.g. '{\"degree\": 2}'"
    )
    loss: str = _option("mse", "cost function", choices=("mse", "l1", "huber"))
    optimizer: str = _option("sgd", "optimizer", choices=("sgd", "adam", "adamw"))
    lr: float = _option(1e-4, "learning rate", low=0.0)
    weight_decay: float = _option(0.0, "weight decay", low=0.0)
    momentum: float = _option(0.0, "momentum (sgd only)", low=0.0)
    scheduler: str = _option(
        "none", "learning-rate schedule, stepped once an epoch",
        choices=("none", "step", "cosine", "plateau"),
    )  # fmt: skip
    scheduler_args: dict[str, Any] = _option(
        {},
        "arguments of the schedule as JSON: step_size, gamma (step); T_max, eta_min (cosine); "
        "factor, patience (plateau)",
    )  # fmt: skip
    epochs: int = _option(10_000, "epochs to train", low=1)
    batch_size: int = _option(128, "rows in a batch", low=1)
    drop_last: bool = _option(True, "leave out the last, smaller batch of an epoch")
    shuffle: bool = _option(True, "new order of rows each epoch, derived from seed and epoch")
    num_workers: int = _option(
        0, "processes of a DataLoader; 0: gather from memory", low=0, high=MAX_PARALLEL
    )
    split: str = _option("8:1:1", "ratio train:validation:test")
    seed: int = _option(
        0, "seed of the split, the initial weights, the order and all randomness", low=0
    )
    normalize: str = _option(
        "none", "scale features inside the module, fitted on training rows only",
        choices=("none", "standard", "minmax"),
    )  # fmt: skip
    checkpoint_every: int = _option(1000, "epochs between checkpoints", low=1)
    checkpoint_minutes: float = _option(
        5.0, "minutes between checkpoints, also inside an epoch; 0: off", low=0.0
    )
    keep_checkpoints: int = _option(
        0, "checkpoints to keep, at least two and the best; 0: all", low=0
    )
    patience: int = _option(
        0, "stop after so many epochs without a better val_cost; 0: never", low=0
    )
    clip_norm: float = _option(0.0, "largest norm of the gradient; 0: unlimited", low=0.0)
    device: str = _option("auto", "auto, cpu, cuda, cuda:1 or mps")
    precision: str = _option("float32", "arithmetic", choices=("float32", "bf16", "float64"))
    compile: str = _option(
        "none", "torch.compile mode of the training steps",
        choices=("none", "default", "reduce-overhead", "max-autotune"),
    )  # fmt: skip
    threads: int = _option(
        0, "CPU threads; 0: one for small models, torch's own choice otherwise",
        low=0, high=MAX_PARALLEL,
    )  # fmt: skip
    register: str = _option(
        "", "registered model name; empty: the data file's stem; none: do not register"
    )

    def __post_init__(self) -> None:
        for spec in dataclasses.fields(self):
            value = _checked(spec.name, getattr(self, spec.name))
            _check_range(spec, value)
            object.__setattr__(self, spec.name, value)
        check_device(self.device)
        _check_combinations(self)
        _check_total(self)

    @property
    def ratio(self) -> tuple[int, int, int]:
        """The three whole numbers of `split`: train, validation, test."""
        return parse_ratio(self.split)

    def as_params(self) -> dict[str, str]:
        """The options as MLflow stores them: one string each, under the same names."""
        return {name: render(getattr(self, name)) for name in OPTION_NAMES}

    def as_json(self) -> str:
        """The options as one JSON object with sorted keys."""
        return json.dumps(self.as_params(), sort_keys=True)

    def identity(self) -> str:
        """SHA-256 over the options that decide the numbers; a resume may not change any of them.

        Defaults are left out, so that checkpoints outlive the options that later versions add.
        """
        import hashlib  # here, as --help should answer at once

        default = TrainConfig().as_params()
        decisive = {n: v for n, v in self.as_params().items() if n not in MUTABLE_ON_RESUME}
        text = json.dumps({n: v for n, v in decisive.items() if v != default[n]})
        return hashlib.sha256(text.encode()).hexdigest()

    @classmethod
    def from_json(cls, text: str) -> TrainConfig:
        """The configuration whose `as_json` gave the text.

        Raises:
            ConfigError: as in `from_mapping`.
        """
        return cls.from_mapping(json.loads(text))

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], *, where: str = "") -> TrainConfig:
        """Builds a configuration from names and values; text is parsed as on the command line.

        Raises:
            ConfigError: an unknown name (with the nearest known one), or a value that does not fit.
        """
        for name in values:
            if name not in FIELDS:
                raise ConfigError(unknown_option(str(name), where))
        try:
            return cls(**{name: parse(name, value) for name, value in values.items()})
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}" if where else str(error)) from None


# These say how far, where and how often, not what is computed: a resume may change them.
MUTABLE_ON_RESUME = frozenset(
    {
        "data",
        "epochs",
        "patience",
        "device",
        "register",
        "checkpoint_every",
        "checkpoint_minutes",
        "keep_checkpoints",
    }
)
FIELDS: dict[str, dataclasses.Field[Any]] = {f.name: f for f in dataclasses.fields(TrainConfig)}
OPTION_NAMES: tuple[str, ...] = tuple(FIELDS)


def unknown_option(name: str, where: str = "") -> str:
    """The sentence for an option that does not exist, with the nearest one that does."""
    import difflib

    near = difflib.get_close_matches(name, OPTION_NAMES, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "; see runback train --help"
    return f"{where + ': ' if where else ''}unknown option {name!r}{hint}"


def render(value: Any) -> str:
    """One option value as text that `parse` reads back to the same value."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return json.dumps(value, sort_keys=True)
    if isinstance(value, tuple):
        plain = all(v == v.strip() and "," not in v and not v.startswith("[") and v for v in value)
        return ",".join(value) if plain else json.dumps(list(value))
    return repr(value) if isinstance(value, float) else str(value)


def _shown(value: Any) -> str:
    """A value as an error message shows it: its beginning, where it is long."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "..."


def parse(name: str, value: Any) -> Any:
    """Reads the value of option `name`; text is parsed, other types are checked by TrainConfig."""
    kind = _kind(name)
    if not isinstance(value, str) or kind is str:
        return value
    return _PARSERS[kind](name, value.strip())


def parse_ratio(text: str) -> tuple[int, int, int]:
    """Reads a ratio such as "8:1:1".

    Raises:
        ConfigError: not three whole numbers, or no training part.
    """
    match = re.fullmatch(r"(\d{1,9}):(\d{1,9}):(\d{1,9})", text)
    if match is None or int(match[1]) == 0:
        raise ConfigError(
            f"option split: {_shown(text)} is not a ratio train:validation:test of whole numbers "
            "with a training part, such as 8:1:1"
        )
    return int(match[1]), int(match[2]), int(match[3])


def _kind(name: str) -> type:
    default = FIELDS[name].default
    return dict if default is dataclasses.MISSING else type(default)


def _parse_bool(name: str, text: str) -> bool:
    if text.lower() in ("true", "1", "yes", "on"):
        return True
    if text.lower() in ("false", "0", "no", "off"):
        return False
    raise ConfigError(f"option {name}: {_shown(text)} is neither true nor false")


def _parse_int(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"option {name}: {_shown(text)} is not a whole number") from None


def _parse_float(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"option {name}: {_shown(text)} is not a number") from None


def _parse_json(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # nested too deeply, or a number too long
        raise ConfigError(f"option {name}: {_shown(text)} is not JSON ({error})") from None


def _parse_dict(name: str, text: str) -> dict[str, Any]:
    value = _parse_json(name, text or "{}")
    if not isinstance(value, dict):
        raise ConfigError(f"option {name}: {_shown(text)} is not a JSON object such as {{}}")
    return value


def _parse_names(name: str, text: str) -> tuple[str, ...]:
    if not text.startswith("["):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return tuple(_parse_json(name, text))


_PARSERS: dict[type, Callable[[str, str], Any]] = {
    bool: _parse_bool,
    int: _parse_int,
    float: _parse_float,
    dict: _parse_dict,
    tuple: _parse_names,
}
_EXPECTED = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    dict: "a table of names and values",
    tuple: "a list of column names",
}


def _checked(name: str, value: Any) -> Any:
    """The value in the option's own type; refuses what would only fit by guessing."""
    kind: Any = _kind(name)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = _as_float(name, value)
    if kind is tuple and isinstance(value, list):
        value = tuple(value)
    wrong_bool = isinstance(value, bool) and kind is not bool
    if wrong_bool or not isinstance(value, kind):
        raise ConfigError(f"option {name}: {_shown(value)} is not {_EXPECTED[kind]}")
    if kind is tuple and not all(isinstance(part, str) and part for part in value):
        raise ConfigError(f"option {name}: {_shown(list(value))} is not {_EXPECTED[kind]}")
    return _json_copy(name, value) if kind is dict else value


def _as_float(name: str, value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        raise ConfigError(f"option {name}: the number is too large") from None


def _json_copy(name: str, value: dict[str, Any]) -> dict[str, Any]:
    """The value as JSON gives it back; a copy, which the caller's later changes do not reach."""
    try:
        copy: dict[str, Any] = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        copy = {}
    if copy != value:
        raise ConfigError(f"option {name}: {_shown(value)} cannot be written as JSON and read back")
    return copy


def _check_range(spec: dataclasses.Field[Any], value: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"option {spec.name}: {_shown(value)} is not a finite number")
    low, high = spec.metadata["low"], spec.metadata["high"]
    if isinstance(value, int | float) and value < low:
        raise ConfigError(f"option {spec.name}: {_shown(value)} is less than {low}")
    if isinstance(value, int | float) and value > high:
        raise ConfigError(f"option {spec.name}: {_shown(value)} is more than {high}")
    choices = spec.metadata["choices"]
    if choices and value not in choices:
        raise ConfigError(f"option {spec.name}: {_shown(value)} is not one of {', '.join(choices)}")
    if len(render(value)) > MAX_VALUE_LENGTH:
        raise ConfigError(
            f"option {spec.name}: longer than the {MAX_VALUE_LENGTH} characters that MLflow stores"
        )


def check_device(device: str) -> None:
    """Refuses what is no device name; whether this machine has the device is for torch to say.

    Raises:
        ConfigError: none of the known forms.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,2})?|mps", device):
        raise ConfigError(
            f"option device: {_shown(device)} is not one of auto, cpu, cuda, cuda:N, mps"
        )


def _check_combinations(config: TrainConfig) -> None:
    _, validation, _ = config.ratio
    if config.patience and not validation:
        raise ConfigError(
            f"option patience: early stopping needs validation rows, but split is {config.split!r}"
        )
    if config.momentum and config.optimizer != "sgd":
        raise ConfigError(f"option momentum: {config.optimizer} has none; it belongs to sgd")
    both = set(config.target) & set(config.features)
    if both:
        raise ConfigError(f"option features: {sorted(both)[0]!r} is a target as well")
    if config.scheduler_args and config.scheduler == "none":
        raise ConfigError("option scheduler_args: scheduler is none, which takes no arguments")


def _check_total(config: TrainConfig) -> None:
    length = len(config.as_json())
    if length > MAX_TOTAL_LENGTH:
        raise ConfigError(
            f"the options are {length} characters long in all, and MLflow stores {MAX_TOTAL_LENGTH}; "
            "name fewer columns (all columns beside the targets are features by default)"
        )
