"""TrainConfig: the frozen dataclass behind the CLI options, the MLproject parameters and the
MLflow params.

pydantic validates the values. It is imported on first use, so that `--help` stays fast.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, get_args, get_origin

from runback.decoding import decode
from runback.errors import ConfigError
from runback.limits import MAX_OPTIONS, MAX_PARAM, MAX_RUN_NAME, text_problem

if TYPE_CHECKING:
    from pydantic import TypeAdapter
    from pydantic_core import ErrorDetails

AUTO = "auto"
# Its defaults are those of the regression that it is the example of.
EXAMPLE_DATA = "data/non_linear.csv"
MAX_INT = 2**63 - 1
MAX_SHOWN = 80
# Far above the cores of any machine; libgomp aborts the process when it cannot start a thread.
MAX_PARALLEL = 1024
DEFAULT_RATIO = "8:1:1"


@dataclass(frozen=True)
class Limits:
    """Constraints on an annotated type, named as in pydantic's core schemas."""

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
_RATIO = "0{0,8}[1-9][0-9]{0,8}:[0-9]{1,9}:[0-9]{1,9}"
# A ratio, or a rule that names a column or classes, most of them with a ratio behind it.
SplitRule = Annotated[
    str,
    Limits(
        pattern=f"^({_RATIO}|column:(?s:.+)|(time|group):(?s:.+?)(:{_RATIO})?|stratified(:{_RATIO})?)$"
    ),
]
ColumnKind = Literal["number", "boolean", "category", "date", "ignore"]
# The built-in models, in `model.builtin`.
MODEL_NAMES = ("linear", "polynomial", "mlp")
LOSSES = ("auto", "mse", "l1", "huber", "cross_entropy", "bce")
# file.py:name or package.module:name
_OWN = "(?s:.+):[A-Za-z_][A-Za-z0-9_]{0,99}"
OwnName = Annotated[str, Limits(pattern=f"^{_OWN}$")]
LossName = Annotated[str, Limits(pattern=f"^({'|'.join(LOSSES)}|{_OWN})$")]
ClassWeights = Literal["none", "balanced"]
# These are compiled and fused; others are classes of torch by their names.
OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULERS = ("none", "step", "cosine", "plateau")
OptimizerName = Annotated[str, Limits(pattern=f"^([A-Za-z]{{1,64}}|{_OWN})$")]
SchedulerName = Annotated[str, Limits(pattern="^[A-Za-z]{1,64}$")]
Normalization = Literal["none", "standard", "minmax", "quantile"]
TargetNormalization = Literal["auto", "none", "standard"]
MissingTarget = Literal["refuse", "drop"]
StoreData = Literal["auto", "true", "false"]
Precision = Literal["float32", "bf16", "float64"]
CompileMode = Literal["none", "default", "reduce-overhead", "max-autotune"]


class _Unset:
    """The value of an option that is not given; `default_in` replaces it."""


_UNSET = _Unset()


def _option(default: Any, text: str, **by_model: Any) -> Any:
    """A field with its help text, its default, and the defaults of some models."""
    return field(default=_UNSET, metadata={"help": text, "default": default, "by_model": by_model})


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The options of a training run. The defaults are the non-linear regression example.

    Without `model`, another table than that of the example is trained with an mlp; some options
    have other defaults for an mlp.

    Raises:
        ConfigError: on construction, if a value has the wrong type, is out of range, or
            contradicts another option; the message names the option.
    """

    data: str = _option(
        EXAMPLE_DATA,
        "table to train on: .csv (also .csv.gz, .csv.zst), .parquet, or a dataset of your own, "
        "file.py:Class",
    )
    model: str = _option(
        "polynomial",
        "linear, polynomial, mlp, package.module:Class or file.py:Class; mlp for other tables than "
        "the example's",
    )
    target: ColumnNames = _option((), "target column(s), comma-separated; empty: the last column")
    features: ColumnNames = _option(
        (), "feature columns, comma-separated, with * patterns and -name to leave out; empty: all"
    )
    columns: Arguments = _option(
        {},
        'kinds of columns as JSON, e.g. \'{"zip": "category", "id*": "ignore"}\': number, boolean, '
        "category, date, ignore",
    )
    csv: Arguments = _option(
        {},
        'form of a CSV file as JSON, e.g. \'{"delimiter": ";"}\': delimiter, quote, decimal, '
        "encoding, null_values",
    )
    missing_target: MissingTarget = _option(
        "refuse", "rows of a table without a target; drop: leave them out"
    )
    store_data: StoreData = _option(
        "auto",
        "keep the table with the run, so that its ID is enough elsewhere; auto: up to 8 MB compressed",
    )
    data_args: Arguments = _option(
        {}, "arguments of a dataset of your own as JSON, e.g. '{\"train\": true}'"
    )
    model_args: Arguments = _option({}, "arguments of the model as JSON, e.g. '{\"degree\": 2}'")
    loss: LossName = _option(
        "mse",
        f"cost function: {', '.join(LOSSES)}, or your own, file.py:function; auto, for other tables "
        "than the example's: by the target",
    )
    metrics: tuple[OwnName, ...] = _option(
        (),
        "scores of your own, file.py:function, comma-separated, logged as val_NAME and test_NAME",
    )
    class_weights: ClassWeights = _option(
        "none", "weights of the classes in the cost; balanced: all classes count alike"
    )
    optimizer: OptimizerName = _option(
        "sgd",
        "sgd, adam, adamw, the name of a class in torch.optim, or your own, file.py:Class",
        mlp="adamw",
    )
    optimizer_args: Arguments = _option(
        {}, "further arguments of the optimizer as JSON, e.g. '{\"nesterov\": true}'"
    )
    lr: NonNegativeFloat = _option(1e-4, "learning rate", mlp=1e-3)
    weight_decay: NonNegativeFloat = _option(0.0, "weight decay")
    momentum: NonNegativeFloat = _option(0.0, "momentum (sgd only)")
    scheduler: SchedulerName = _option(
        "none",
        "learning-rate schedule, stepped once an epoch: none, step, cosine, plateau, or the name of a "
        "class in torch.optim.lr_scheduler",
        mlp="cosine",
    )
    scheduler_args: Arguments = _option(
        {},
        "arguments of the schedule as JSON: step_size, gamma (step); T_max, eta_min (cosine); "
        "factor, patience (plateau); those of the class",
    )
    epochs: PositiveInt = _option(10_000, "epochs to train", mlp=1000)
    batch_size: PositiveInt = _option(128, "rows in a batch")
    drop_last: bool = _option(True, "leave out the last, smaller batch of an epoch", mlp=False)
    shuffle: bool = _option(True, "new order of rows each epoch, derived from seed and epoch")
    num_workers: Parallelism = _option(0, "processes of a DataLoader; 0: gather from memory")
    split: SplitRule = _option(
        "8:1:1",
        "ratio train:validation:test, or column:NAME, time:COLUMN[:8:1:1], group:COLUMN[:8:1:1], "
        "stratified[:8:1:1]",
    )
    seed: NonNegativeInt = _option(
        0, "seed of the split, the initial weights, the order and all randomness"
    )
    normalize: Normalization = _option(
        "none",
        "scale features inside the module, fitted on training rows only; quantile: ranks from -1 to 1",
        mlp="standard",
    )
    normalize_target: TargetNormalization = _option(
        "none",
        "train on scaled targets, undone in the module's output; auto: standard for numbers, none for "
        "classes",
        mlp=AUTO,
    )
    checkpoint_every: PositiveInt = _option(1000, "epochs between checkpoints")
    checkpoint_minutes: NonNegativeFloat = _option(
        5.0, "minutes between checkpoints, also inside an epoch; 0: off"
    )
    keep_checkpoints: NonNegativeInt = _option(
        0, "checkpoints to keep, at least two and the best; 0: all"
    )
    patience: NonNegativeInt = _option(
        0, "stop after so many epochs without a better val_cost; 0: never", mlp=100
    )
    clip_norm: NonNegativeFloat = _option(0.0, "largest norm of the gradient; 0: unlimited")
    device: Device = _option("auto", "auto, cpu, cuda, cuda:1 or mps")
    precision: Precision = _option("float32", "arithmetic")
    compile: CompileMode = _option("none", "torch.compile mode of the training steps")
    threads: Parallelism = _option(
        0, "CPU threads; 0: one for small models, torch's own choice otherwise"
    )
    register: str = _option(
        "", "registered model name; empty: the data file's name; none: do not register"
    )
    name: str = _option("", "name of the run; empty: model, data, and options of other values")
    key: str = _option(
        "", "continue the unfinished run with this key in the experiment, or begin one with it"
    )

    def __post_init__(self) -> None:
        for name in OPTION_NAMES:  # data and model come first: the other defaults depend on them
            value = getattr(self, name)
            if value is _UNSET:
                value = default_in(self, name)
            object.__setattr__(self, name, _validated(name, value, strict=True))
        _check_lengths(self)
        _check_combinations(self)
        _check_total(self)

    @property
    def split_rule(self) -> "SplitParts":
        """`split` in its parts."""
        return parse_split(self.split)

    def as_params(self) -> dict[str, str]:
        """The options as MLflow params: strings by option name."""
        return dict(self._texts)

    @cached_property
    def _texts(self) -> dict[str, str]:
        return {name: render(getattr(self, name)) for name in OPTION_NAMES}

    def as_json(self) -> str:
        """The options as one JSON object with sorted keys."""
        return json.dumps(self.as_params(), sort_keys=True)

    def identity(self) -> str:
        """SHA-256 over the options that determine the results; a resume may not change them.

        Defaults are left out, so that checkpoints stay valid when later versions add options.
        """
        import hashlib  # imported late to keep --help fast

        default = _default_params()
        decisive = {n: v for n, v in self.as_params().items() if n not in MUTABLE_ON_RESUME}
        text = json.dumps({n: v for n, v in decisive.items() if v != default[n]})
        return hashlib.sha256(text.encode()).hexdigest()

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], *, where: str = "") -> Self:
        """Builds a configuration from names and values; text is parsed as on the command line.

        Raises:
            ConfigError: an unknown name (the message suggests the nearest one) or an invalid value.
        """
        with _errors_in(where):
            return cls(**parse_all(values))

    @classmethod
    def from_recorded(cls, values: Mapping[str, Any]) -> Self:
        """The configuration of a run; options that its version did not have are as they were then.

        Raises:
            ConfigError: as in `from_mapping`.
        """
        return cls.from_mapping({**_WITHOUT_THE_OPTION, **values})


# The values of later options that have no effect. The default of a model may be another one.
_WITHOUT_THE_OPTION = {"normalize_target": "none"}
# Options that do not affect the computed values; a resume may change them.
MUTABLE_ON_RESUME = frozenset(
    {
        "data",
        "epochs",
        "key",
        "patience",
        "device",
        "register",
        "checkpoint_every",
        "checkpoint_minutes",
        "keep_checkpoints",
        "name",
    }
)
# Options that choose the rows, the columns and the module; a fork has those of its run.
FIXED_IN_FORK = frozenset(
    {
        "model",
        "model_args",
        "target",
        "features",
        "columns",
        "csv",
        "missing_target",
        "data_args",
        "metrics",
        "split",
        "normalize",
        "normalize_target",
    }
)
FIELDS: dict[str, dataclasses.Field[Any]] = {f.name: f for f in dataclasses.fields(TrainConfig)}
OPTION_NAMES: tuple[str, ...] = tuple(FIELDS)


def is_example(data: str) -> bool:
    """Whether a path is that of the example's table, in any folder."""
    return data == EXAMPLE_DATA or data.replace("\\", "/").endswith(f"/{EXAMPLE_DATA}")


def own_references(config: TrainConfig) -> dict[str, tuple[str, ...]]:
    """The user's own code besides the model, by option: file.py:name or package.module:name."""
    found = {
        "loss": (config.loss,) if config.loss not in LOSSES else (),
        "metrics": config.metrics,
        "optimizer": (config.optimizer,) if ":" in config.optimizer else (),
    }
    return {option: references for option, references in found.items() if references}


def default_in(config: TrainConfig, name: str) -> Any:
    """The default of an option, as it depends on the data, the model and the split."""
    if name in ("model", "loss") and not is_example(config.data):
        return "mlp" if name == "model" else AUTO
    if name == "patience" and config.split_rule.ratio and not config.split_rule.shares[1]:
        return 0  # there is no val_cost
    about = FIELDS[name].metadata
    model = "" if name in ("data", "model") else config.model
    default = about["by_model"].get(model, about["default"])
    return dict(default) if isinstance(default, dict) else default


def parse_all(values: Mapping[str, Any], *, where: str = "") -> dict[str, Any]:
    """Reads options by name; text is parsed as on the command line.

    Raises:
        ConfigError: an unknown name (with the nearest known one), or a value that does not fit.
    """
    with _errors_in(where):
        for name in values:
            if name not in FIELDS:
                raise ConfigError(unknown_option(str(name)))
        return {name: parse(name, value) for name, value in values.items()}


def unknown_option(name: str) -> str:
    """The error message for an unknown option, with the nearest known one."""
    import difflib

    near = difflib.get_close_matches(name, OPTION_NAMES, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "; see runback train --help"
    return f"unknown option {name!r}{hint}"


def render(value: Any) -> str:
    """An option's value as text; `parse` is the inverse."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return json.dumps(value, sort_keys=True)
    if isinstance(value, tuple):
        plain = all(v == v.strip() and "," not in v and not v.startswith("[") and v for v in value)
        return ",".join(value) if plain else json.dumps(list(value))
    return repr(value) if isinstance(value, float) else str(value)


def parse(name: str, value: Any) -> Any:
    """Converts a value to the type of option `name`; text is parsed as on the command line.

    Raises:
        ConfigError: the value is invalid for the option.
    """
    if isinstance(value, str):
        return _validated(name, _from_text(name, value), strict=False)
    return _validated(name, value, strict=True)


def check_option(name: str, value: Any) -> None:
    """Checks a value that comes from elsewhere than a TrainConfig.

    Raises:
        ConfigError: the value does not fit option `name`.
    """
    _validated(name, value, strict=True)


def choices(name: str) -> tuple[str, ...]:
    """The allowed values of option `name`; empty if they are not a fixed list."""
    kind = FIELDS[name].type
    return get_args(kind) if get_origin(kind) is Literal else ()


@dataclass(frozen=True)
class SplitParts:
    """A split rule.

    Attributes:
        how: "ratio", "column", "time", "group" or "stratified".
        column: its column; empty if the rule has none.
        ratio: "train:validation:test"; empty for "column".
        shares: the ratio as three integers; zeros for "column".
    """

    how: str
    column: str = ""
    ratio: str = ""

    @property
    def shares(self) -> tuple[int, int, int]:
        """See the attribute."""
        train, validation, test = (self.ratio or "0:0:0").split(":")
        return int(train), int(validation), int(test)


def parse_split(text: str) -> SplitParts:
    """Parses a split rule such as "8:1:1" or "time:when:8:1:1".

    Raises:
        ConfigError: not a split rule, or no training part.
    """
    rule = _validated("split", text, strict=True)
    if re.fullmatch(_RATIO, rule):
        return SplitParts("ratio", ratio=rule)
    how, _, rest = rule.partition(":")
    if how == "column":
        return SplitParts(how, rest)
    match = re.fullmatch(f"(?s)(?:(.*):)?({_RATIO})", rest)
    column, ratio = (match[1] or "", match[2]) if match else (rest, DEFAULT_RATIO)
    return SplitParts(how, column, ratio)


_EXPECTED: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    dict: "a JSON object such as {}",
    tuple: "a list of column names",
    LossName: f"one of {', '.join(LOSSES)}, file.py:function or package.module:function",
    OptimizerName: "the name of an optimizer, file.py:Class or package.module:Class",
    SchedulerName: "the name of a schedule",
    tuple[OwnName, ...]: "a list of file.py:function or package.module:function",
    Device: "one of auto, cpu, cuda, cuda:N, mps",
    SplitRule: "a ratio train:validation:test of whole numbers with a training part, such as 8:1:1, or "
    "column:NAME, time:COLUMN, group:COLUMN or stratified",
}
_PROBLEMS = {
    "finite_number": "{number} is not a finite number",
    "greater_than_equal": "{number} is less than {ge}",
    "less_than_equal": "{number} is more than {le}",
}


def _kind(name: str) -> type:
    return type(FIELDS[name].metadata["default"])


def _from_text(name: str, text: str) -> Any:
    """Parses JSON and comma-separated names; pydantic parses the other types from text."""
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
    """The value in the option's type. Strict validation converts a list to a tuple and an int to a
    float, but does not parse text. Containers are copied.
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
    """The message for a pydantic error."""
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
    """The text, truncated to `MAX_SHOWN` characters."""
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "..."


@contextmanager
def _errors_in(where: str) -> Iterator[None]:
    """Puts the name of a file in front of the errors of its options."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}" if where else str(error)) from None


@cache
def _default_params() -> dict[str, str]:
    return TrainConfig().as_params()


def _check_lengths(config: TrainConfig) -> None:
    for name, text in config.as_params().items():
        problem = text_problem(text, MAX_RUN_NAME if name == "name" else MAX_PARAM)
        if problem:
            raise ConfigError(f"option {name}: {problem}")


def _check_combinations(config: TrainConfig) -> None:
    rule = config.split_rule
    if config.patience and rule.ratio and not rule.shares[1]:
        raise ConfigError(
            f"option patience: early stopping needs validation rows, but split is {config.split!r}"
        )
    if config.momentum and config.optimizer != "sgd":
        raise ConfigError(f"option momentum: {config.optimizer} has no momentum; use sgd")
    both = set(config.target) & set(config.features)
    if both:
        raise ConfigError(f"option features: {sorted(both)[0]!r} is also a target")
    if config.class_weights != "none" and config.loss not in LOSSES:
        raise ConfigError(
            "option class_weights: a loss of your own has its own weights of the classes; use none"
        )
    if config.scheduler_args and config.scheduler == "none":
        raise ConfigError("option scheduler_args: scheduler none takes no arguments")
    _check_own_options(config)
    for name, kind in config.columns.items():
        if kind not in get_args(ColumnKind):
            raise ConfigError(
                f"option columns: the kind of {_shown(name)} is {_shown(kind)}, not one of "
                f"{', '.join(get_args(ColumnKind))}"
            )


def _check_own_options(config: TrainConfig) -> None:
    """Checks that arguments have no options of their own, and that what is compiled can be."""
    for name in ("params", "lr", "weight_decay", "momentum")[
        : 4 if config.optimizer == "sgd" else 3
    ]:
        if name in config.optimizer_args:
            raise ConfigError(
                f"option optimizer_args: {name} is not an argument here; use the option"
            )
    if config.compile == "none":
        return
    if config.optimizer not in OPTIMIZERS or config.scheduler not in SCHEDULERS:
        raise ConfigError(
            f"option compile: needs an optimizer of {', '.join(OPTIMIZERS)} and a scheduler of "
            f"{', '.join(SCHEDULERS)}"
        )
    if config.optimizer_args:
        raise ConfigError("option compile: compiled steps take no optimizer_args")


def _check_total(config: TrainConfig) -> None:
    length = len(config.as_json())
    if length > MAX_OPTIONS:  # all are stored in one tag
        raise ConfigError(
            f"the options have {length} characters in total, and the limit is "
            f"{MAX_OPTIONS}; list fewer columns (by default all non-target columns are features)"
        )
