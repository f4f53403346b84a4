"""TrainConfig: one frozen dataclass that is the CLI options, the MLproject parameters and the
MLflow params at once.

pydantic validates the values. It is imported with the first value, so that `--help` stays quick.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, get_args, get_origin

from runback.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import TypeAdapter
    from pydantic_core import ErrorDetails

# MLflow refuses longer values (mlflow.utils.validation.MAX_PARAM_VAL_LENGTH).
MAX_VALUE_LENGTH = 6000
# All options together are one tag, and MLflow truncates longer tags without an error.
MAX_TOTAL_LENGTH = 8000
MAX_INT = 2**63 - 1
MAX_SHOWN = 80
# Far above any machine's cores; libgomp ends the whole process when it cannot start a thread.
MAX_PARALLEL = 1024


@dataclass(frozen=True)
class Limits:
    """Constraints on an annotated type, under the names that pydantic's schemas give them."""

    ge: float | None = None
    le: float | None = None
    min_length: int | None = None
    pattern: str | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        limits = {name: limit for name, limit in vars(self).items() if limit is not None}
        return {**handler(source), **limits}


PositiveInt = Annotated[int, Limits(ge=1, le=MAX_INT)]
NonNegativeInt = Annotated[int, Limits(ge=0, le=MAX_INT)]
NonNegativeFloat = Annotated[float, Limits(ge=0.0, le=float(MAX_INT))]
Parallelism = Annotated[int, Limits(ge=0, le=MAX_PARALLEL)]
ColumnNames = tuple[Annotated[str, Limits(min_length=1)], ...]
Arguments = dict[str, Any]
Device = Annotated[str, Limits(pattern=r"^(auto|cpu|cuda(:[0-9]{1,2})?|mps)$")]
Ratio = Annotated[str, Limits(pattern="^0{0,8}[1-9][0-9]{0,8}:[0-9]{1,9}:[0-9]{1,9}$")]
LossName = Literal["mse", "l1", "huber"]
OptimizerName = Literal["sgd", "adam", "adamw"]
SchedulerName = Literal["none", "step", "cosine", "plateau"]
Normalization = Literal["none", "standard", "minmax"]
Precision = Literal["float32", "bf16", "float64"]
CompileMode = Literal["none", "default", "reduce-overhead", "max-autotune"]


def _option(default: Any, text: str) -> Any:
    """A field with its help text."""
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata={"help": text})
    return field(default=default, metadata={"help": text})


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
    target: ColumnNames = _option((), "target column(s), comma-separated; empty: the last column")
    features: ColumnNames = _option((), "feature columns, comma-separated; empty: all others")
    model: str = _option(
        "polynomial", "linear, polynomial, mlp, package.module:Class or file.py:Class"
    )
    model_args: Arguments = _option({}, "arguments of the model as JSON, e.g. '{\"degree\": 2}'")
    loss: LossName = _option("mse", "cost function")
    optimizer: OptimizerName = _option("sgd", "optimizer")
    lr: NonNegativeFloat = _option(1e-4, "learning rate")
    weight_decay: NonNegativeFloat = _option(0.0, "weight decay")
    momentum: NonNegativeFloat = _option(0.0, "momentum (sgd only)")
    scheduler: SchedulerName = _option("none", "learning-rate schedule, stepped once an epoch")
    scheduler_args: Arguments = _option(
        {},
        "arguments of the schedule as JSON: step_size, gamma (step); T_max, eta_min (cosine); "
        "factor, patience (plateau)",
    )
    epochs: PositiveInt = _option(10_000, "epochs to train")
    batch_size: PositiveInt = _option(128, "rows in a batch")
    drop_last: bool = _option(True, "leave out the last, smaller batch of an epoch")
    shuffle: bool = _option(True, "new order of rows each epoch, derived from seed and epoch")
    num_workers: Parallelism = _option(0, "processes of a DataLoader; 0: gather from memory")
    split: Ratio = _option("8:1:1", "ratio train:validation:test")
    seed: NonNegativeInt = _option(
        0, "seed of the split, the initial weights, the order and all randomness"
    )
    normalize: Normalization = _option(
        "none", "scale features inside the module, fitted on training rows only"
    )
    checkpoint_every: PositiveInt = _option(1000, "epochs between checkpoints")
    checkpoint_minutes: NonNegativeFloat = _option(
        5.0, "minutes between checkpoints, also inside an epoch; 0: off"
    )
    keep_checkpoints: NonNegativeInt = _option(
        0, "checkpoints to keep, at least two and the best; 0: all"
    )
    patience: NonNegativeInt = _option(
        0, "stop after so many epochs without a better val_cost; 0: never"
    )
    clip_norm: NonNegativeFloat = _option(0.0, "largest norm of the gradient; 0: unlimited")
    device: Device = _option("auto", "auto, cpu, cuda, cuda:1 or mps")
    precision: Precision = _option("float32", "arithmetic")
    compile: CompileMode = _option("none", "torch.compile mode of the training steps")
    threads: Parallelism = _option(
        0, "CPU threads; 0: one for small models, torch's own choice otherwise"
    )
    register: str = _option(
        "", "registered model name; empty: the data file's stem; none: do not register"
    )

    def __post_init__(self) -> None:
        for name in OPTION_NAMES:
            value = _validated(name, getattr(self, name), strict=True)
            _check_length(name, value)
            object.__setattr__(self, name, value)
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
    def from_json(cls, text: str) -> Self:
        """The configuration whose `as_json` gave the text.

        Raises:
            ConfigError: as in `from_mapping`.
        """
        return cls.from_mapping(json.loads(text))

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], *, where: str = "") -> Self:
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


def parse(name: str, value: Any) -> Any:
    """Returns the value of option `name` in its own type; text is read as on the command line.

    Raises:
        ConfigError: the value does not fit the option.
    """
    if isinstance(value, str):
        return _validated(name, _from_text(name, value), strict=False)
    return _validated(name, value, strict=True)


def choices(name: str) -> tuple[str, ...]:
    """All values that option `name` can have; empty where they are not a fixed list."""
    kind = FIELDS[name].type
    return get_args(kind) if get_origin(kind) is Literal else ()


def decode(decoder: Callable[[str], Any], text: str) -> Any:
    """Decodes untrusted text, by `json.loads` for instance.

    Raises:
        ValueError: the text is malformed, or nested too deeply.
    """
    try:
        return decoder(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def parse_ratio(text: str) -> tuple[int, int, int]:
    """Reads a ratio such as "8:1:1".

    Raises:
        ConfigError: not three whole numbers, or no training part.
    """
    train, validation, test = parse("split", text).split(":")
    return int(train), int(validation), int(test)


_EXPECTED: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    dict: "a JSON object such as {}",
    tuple: "a list of column names",
    Device: "one of auto, cpu, cuda, cuda:N, mps",
    Ratio: "a ratio train:validation:test of whole numbers with a training part, such as 8:1:1",
}
_PROBLEMS = {
    "finite_number": "{number} is not a finite number",
    "greater_than_equal": "{number} is less than {ge}",
    "less_than_equal": "{number} is more than {le}",
}


def _kind(name: str) -> type:
    default = FIELDS[name].default
    return dict if default is dataclasses.MISSING else type(default)


def _from_text(name: str, text: str) -> Any:
    """What pydantic cannot read from text itself: JSON, and names separated by commas."""
    kind, plain = _kind(name), text.strip()
    if kind is dict or (kind is tuple and plain.startswith("[")):
        return _from_json(name, plain or "{}")
    if kind is tuple:
        return tuple(part.strip() for part in plain.split(",") if part.strip())
    return text if kind is str else plain


def _from_json(name: str, text: str) -> Any:
    try:
        return decode(json.loads, text)
    except ValueError as error:
        raise ConfigError(f"option {name}: {_shown(text)} is not JSON ({error})") from None


@cache
def _adapter(kind: Any) -> "TypeAdapter[Any]":
    from pydantic import ConfigDict, JsonValue, TypeAdapter

    checked = dict[str, JsonValue] if kind is Arguments else kind
    return TypeAdapter(checked, config=ConfigDict(allow_inf_nan=False))


def _validated(name: str, value: Any, *, strict: bool) -> Any:
    """The value in the option's own type. Strict validation converts a list to a tuple and an int
    to a float, but no text. Containers are copied.
    """
    from pydantic import ValidationError

    kind: Any = FIELDS[name].type
    given = tuple(value) if isinstance(value, list) else value
    try:
        return _adapter(kind).validate_python(given, strict=strict)
    except ValidationError as error:
        problem = _problem(name, value, error.errors()[0])
        raise ConfigError(f"option {name}: {problem}") from None


def _problem(name: str, value: Any, error: "ErrorDetails") -> str:
    """Our own words for pydantic's error."""
    if _kind(name) is dict and error["loc"]:
        return f"the entry {_shown(error['loc'][0])} cannot be written as JSON and read back"
    if error["type"] == "float_type" and type(value) is int:
        return "the number is too large"
    if error["type"] in _PROBLEMS:
        return _PROBLEMS[error["type"]].format(number=_cut(str(value)), **error.get("ctx", {}))
    return f"{_shown(value)} is not {_expected(name)}"


def _expected(name: str) -> str:
    if choices(name):
        return f"one of {', '.join(choices(name))}"
    return _EXPECTED.get(FIELDS[name].type) or _EXPECTED[_kind(name)]


def _shown(value: Any) -> str:
    return _cut(repr(value))


def _cut(text: str) -> str:
    """The beginning of a long text."""
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "..."


def _check_length(name: str, value: Any) -> None:
    if len(render(value)) > MAX_VALUE_LENGTH:
        raise ConfigError(
            f"option {name}: longer than the {MAX_VALUE_LENGTH} characters that MLflow stores"
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
