"""TrainConfig: accepted and refused values, error messages, and text forms."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import DATA, Workspace
from runback import config as config_module
from runback.cli import main, read_config
from runback.config import FIELDS, LOSSES, OPTION_NAMES, Limits, TrainConfig, choices, parse, render
from runback.errors import ConfigError

DEFAULT = TrainConfig()
KINDS = {name: type(getattr(DEFAULT, name)) for name in OPTION_NAMES}
NUMBERS = [name for name, kind in KINDS.items() if kind in (int, float)]
CHOICES = [name for name in OPTION_NAMES if choices(name)]


def named(kind: type) -> list[str]:
    return [name for name in OPTION_NAMES if KINDS[name] is kind]


def limits(name: str) -> Limits:
    (found,) = FIELDS[name].type.__metadata__
    return found


def refused(**values: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        TrainConfig(**values)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_defaults_train_the_non_linear_regression() -> None:
    assert DEFAULT.data == "data/non_linear.csv"
    assert (DEFAULT.model, DEFAULT.loss, DEFAULT.optimizer) == ("polynomial", "mse", "sgd")
    assert (DEFAULT.lr, DEFAULT.epochs, DEFAULT.batch_size) == (1e-4, 10_000, 128)
    assert (DEFAULT.shuffle, DEFAULT.drop_last, DEFAULT.split) == (True, True, "8:1:1")
    assert (DEFAULT.split_rule.shares, DEFAULT.checkpoint_every) == ((8, 1, 1), 1000)


def test_an_mlp_has_defaults_of_its_own() -> None:
    config = TrainConfig(model="mlp")
    chosen = (config.optimizer, config.lr, config.normalize, config.scheduler, config.patience)
    assert chosen == ("adamw", 1e-3, "standard", "cosine", 100)
    assert (config.normalize_target, DEFAULT.normalize_target) == ("auto", "none")
    assert TrainConfig(model="mlp", lr=0.5, optimizer="sgd").optimizer == "sgd"
    assert TrainConfig(model="mlp", split="9:0:1").patience == 0
    restored = TrainConfig.from_mapping(config.as_params())
    assert restored == config


def test_another_table_than_the_example_gets_an_mlp() -> None:
    assert TrainConfig(data="other.csv").model == "mlp"
    assert TrainConfig(data="other.csv", model="linear").lr == DEFAULT.lr
    assert TrainConfig(data=DEFAULT.data) == DEFAULT


@pytest.mark.parametrize("name", OPTION_NAMES)
def test_a_value_of_another_type_is_refused_by_name(name: str) -> None:
    for wrong in (None, 1.5j, b"x", object(), {"a"}):
        assert refused(**{name: wrong}).startswith(f"option {name}: ")
    if KINDS[name] is not bool:
        assert refused(**{name: True}).startswith(f"option {name}: True is not ")
    if KINDS[name] is not str:
        assert refused(**{name: "auto"}).startswith(f"option {name}: 'auto' is not ")


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_outside_its_range_is_refused_by_name(name: str) -> None:
    low, high = limits(name).ge, limits(name).le
    below, above = KINDS[name](low - 1), KINDS[name](high * 2)
    assert refused(**{name: below}) == f"option {name}: {below!r} is less than {low}"
    assert refused(**{name: above}) == f"option {name}: {above!r} is more than {high}"


@pytest.mark.parametrize("name", named(float))
def test_a_number_that_is_not_finite_is_refused(name: str) -> None:
    for value in (math.nan, math.inf, -math.inf):
        assert refused(**{name: value}) == f"option {name}: {value!r} is not a finite number"
    assert refused(**{name: 10**400}) == f"option {name}: the number is too large"
    assert getattr(TrainConfig(**{name: 3}), name) == 3.0


@pytest.mark.parametrize("name", CHOICES)
def test_a_value_outside_the_choices_is_refused(name: str) -> None:
    message = refused(**{name: "other"})
    assert message.startswith(f"option {name}: 'other' is not one of ")
    assert all(choice in message for choice in choices(name))


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("lr", "abc", "'abc' is not a number"),
        ("lr", "", "'' is not a number"),
        ("lr", "nan", "nan is not a finite number"),
        ("epochs", "1e4", "'1e4' is not a whole number"),
        ("epochs", "9" * 5000, "is not a whole number"),
        ("epochs", "0", "0 is less than 1"),
        ("drop_last", "maybe", "'maybe' is not true or false"),
        ("model_args", "{degree: 2}", "is not JSON (Expecting property name"),
        ("model_args", "[2]", "is not a JSON object such as {}"),
        ("model_args", '{"degree": NaN}', "cannot be written as JSON"),
        ("model_args", '{"degree": ' + "9" * 5000 + "}", "is not JSON"),
        ("model_args", '{"a":' * 100_000, "is not JSON"),
        ("model_args", '{"a": "' + "x" * 6000 + '"}', "longer than 6000 characters"),
        ("target", '["y"', "is not JSON"),
        ("target", "[1]", "[1] is not a list of column names"),
        ("target", '[""]', "[''] is not a list of column names"),
        ("split", "8:1", "'8:1' is not a ratio train:validation:test"),
        ("split", "0:1:1", "'0:1:1' is not a ratio"),
        ("split", "8:-1:1", "'8:-1:1' is not a ratio"),
        ("split", "0.8:0.1:0.1", "is not a ratio"),
        ("device", "tpu", "'tpu' is not one of auto, cpu, cuda, cuda:N, mps"),
        ("device", "cuda:99999999999", "is not one of"),
        ("threads", "5000", "5000 is more than 1024"),
    ],
)
def test_unparsable_text_is_refused_by_name(name: str, text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TrainConfig.from_mapping({name: text})
    assert str(caught.value).startswith(f"option {name}: ")
    assert problem in str(caught.value)
    assert len(str(caught.value)) < 300


def test_options_that_contradict_each_other_are_refused() -> None:
    assert refused(patience=3, split="9:0:1").startswith("option patience: early stopping needs")
    assert refused(momentum=0.9, optimizer="adam").startswith(
        "option momentum: adam has no momentum"
    )
    assert refused(target=("y",), features=("x", "y")) == "option features: 'y' is also a target"
    assert refused(scheduler_args={"gamma": 0.5}).startswith(
        "option scheduler_args: scheduler none"
    )


def test_an_unknown_option_is_refused_with_the_nearest_one() -> None:
    for wrong, near in (("lrr", "lr"), ("batch-size", "batch_size"), ("Epochs", "epochs")):
        with pytest.raises(ConfigError, match=f"unknown option '{wrong}'; did you mean '{near}'?"):
            TrainConfig.from_mapping({wrong: 1})
    with pytest.raises(ConfigError, match="unknown option 'zzzzzzz'; see runback train --help"):
        TrainConfig.from_mapping({"zzzzzzz": 1})


@pytest.mark.parametrize(("text", "value"), [("TRUE", True), ("1", True), ("off", False)])
def test_true_and_false_have_several_spellings(text: str, value: bool) -> None:
    assert TrainConfig.from_mapping({"shuffle": text}).shuffle is value


def test_columns_are_given_with_commas_or_as_json() -> None:
    for text in ("y1, y2", "y1,y2,", '["y1", "y2"]'):
        assert TrainConfig.from_mapping({"target": text}).target == ("y1", "y2")
    assert TrainConfig.from_mapping({"target": '["a, b"]'}).target == ("a, b",)


def test_a_configuration_copies_its_arguments() -> None:
    args: dict[str, Any] = {"hidden": [8]}
    config = TrainConfig(model="mlp", model_args=args)
    args["hidden"].append(9)
    assert config.model_args == {"hidden": [8]}


@pytest.mark.parametrize(
    "value", [{1: 2}, {"a": (1,)}, {"a": math.nan}, {"a": {"b": object()}}, {"a": {"b"}}]
)
def test_arguments_that_are_not_json_are_refused(value: dict[Any, Any]) -> None:
    assert refused(model_args=value).endswith("cannot be written as JSON and read back")


def test_arguments_nested_too_deeply_are_refused() -> None:
    cyclic: dict[str, Any] = {}
    cyclic["self"] = cyclic
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"a": deep}
    for value in (cyclic, deep):
        assert refused(model_args=value).endswith("cannot be written as JSON and read back")


# Any value that an option may have, built from its own bounds and choices.
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
STORABLE = st.characters(codec="utf-8", exclude_characters="\0")  # MLflow stores no other text
NAMES = st.lists(st.text(STORABLE, min_size=1, max_size=8), max_size=4).map(tuple)
SPECIAL: dict[str, st.SearchStrategy[Any]] = {
    "split": st.tuples(st.integers(1, 99), st.integers(1, 99), st.integers(0, 99)).map(
        lambda shares: ":".join(map(str, shares))
    ),
    "device": st.sampled_from(["auto", "cpu", "cuda", "cuda:0", "cuda:12", "mps"]),
    "loss": st.sampled_from(LOSSES),
    "metrics": st.lists(
        st.text(STORABLE, min_size=1, max_size=8).map("{}:f".format), max_size=3
    ).map(tuple),
    "momentum": st.just(0.0),
    "optimizer": st.sampled_from(["sgd", "adam", "adamw"]),
    "optimizer_args": st.just({}),  # they contradict `compile`
    "scheduler": st.sampled_from(["step", "cosine", "plateau"]),
    "columns": st.dictionaries(
        st.text(max_size=8),
        st.sampled_from(["number", "boolean", "category", "date", "ignore"]),
        max_size=4,
    ),
}


def values_of(name: str) -> st.SearchStrategy[Any]:
    kind = KINDS[name]
    if name in SPECIAL:
        return SPECIAL[name]
    if choices(name):
        return st.sampled_from(choices(name))
    if kind is int:
        return st.integers(limits(name).ge, limits(name).le)
    by_kind: dict[type, st.SearchStrategy[Any]] = {
        bool: st.booleans(),
        float: st.floats(0.0, 1e18),
        str: st.text(STORABLE, max_size=20),
        dict: st.dictionaries(st.text(max_size=8), JSON_VALUES, max_size=4),
        tuple: NAMES,
    }  # fmt: skip
    return by_kind[kind]


@st.composite
def configs(draw: st.DrawFn) -> TrainConfig:
    values = {name: draw(values_of(name)) for name in OPTION_NAMES}
    values["features"] = tuple(n for n in values["features"] if n not in values["target"])
    return TrainConfig(**values)


@given(configs())
def test_every_configuration_round_trips_through_text(config: TrainConfig) -> None:
    params = config.as_params()
    again = TrainConfig.from_mapping(params)
    assert again == config
    assert again.as_params() == params
    assert TrainConfig.from_mapping(json.loads(config.as_json())) == config
    assert again.identity() == config.identity()
    for name, text in params.items():
        value = parse(name, text)
        assert render(value) == text
        assert type(value) is KINDS[name]


@given(
    st.sampled_from(OPTION_NAMES),
    st.text('01289.-+eE:,{}[]"\\ \n\tnaiftruecdps٣é\x00', max_size=12),
)
def test_any_text_is_parsed_or_refused_by_name(name: str, text: str) -> None:
    try:
        config = TrainConfig.from_mapping({name: text})
    except ConfigError as error:
        assert name in str(error)
        assert len(str(error).splitlines()) == 1
    else:
        assert TrainConfig.from_mapping(config.as_params()) == config


def test_the_identity_ignores_options_without_effect() -> None:
    changed: dict[str, Any] = {
        "data": "x.csv", "epochs": 5, "device": "cpu", "register": "m", "checkpoint_every": 2,
        "checkpoint_minutes": 1.0, "keep_checkpoints": 3, "name": "n", "key": "k",
        "target": ("y",), "features": ("x",), "columns": {"x": "category"},
        "csv": {"delimiter": ";"}, "missing_target": "drop",
        "store_data": "false", "data_args": {"n": 1},
        "model": "linear",
        "model_args": {"degree": 3},
        "loss": "l1", "metrics": ("m.py:f",), "class_weights": "balanced",
        "optimizer": "adam", "optimizer_args": {"alpha": 0.5},
        "lr": 0.5, "weight_decay": 0.1, "momentum": 0.9,
        "scheduler": "step", "batch_size": 3, "drop_last": False,
        "shuffle": False, "num_workers": 1, "split": "6:2:2", "seed": 1, "normalize": "standard",
        "normalize_target": "standard",
        "patience": 4, "clip_norm": 1.0, "precision": "float64", "compile": "default", "threads": 2,
    }  # fmt: skip
    indifferent = {
        "data", "epochs", "patience", "device", "register", "checkpoint_every",
        "checkpoint_minutes", "keep_checkpoints", "name", "key",
    }  # fmt: skip
    for name, value in changed.items():
        other = dataclasses.replace(DEFAULT, **{name: value})
        assert (other.identity() == DEFAULT.identity()) is (name in indifferent), name
    stepped = dataclasses.replace(DEFAULT, scheduler="step")
    other = dataclasses.replace(stepped, scheduler_args={"gamma": 0.5})
    assert other.identity() != stepped.identity()
    assert {*changed, "scheduler_args"} == set(OPTION_NAMES), "say here whether a new option counts"


# TOML


def toml(folder: Path, content: str | bytes) -> str:
    file = folder / "config.toml"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(file)


def test_the_command_line_overrides_the_file(tmp_path: Path) -> None:
    file = toml(
        tmp_path,
        'lr = 0.5\nepochs = 7\ntarget = ["y"]\nmodel = "mlp"\nshuffle = false\n'
        "[model_args]\nhidden = [8, 8]\ndropout = 0.25\n",
    )
    config = read_config(file, {"lr": "0.25", "batch_size": "3"})
    assert (config.lr, config.epochs, config.batch_size) == (0.25, 7, 3)
    assert (config.target, config.shuffle, config.seed) == (("y",), False, DEFAULT.seed)
    assert config.model_args == {"hidden": [8, 8], "dropout": 0.25}


@pytest.mark.parametrize(
    "content", [b"\xef\xbb\xbflr = 0.5\r\n", b'lr = "0.5"\n', b"lr = 5e-1\n# a comment\n"]
)
def test_toml_with_bom_or_crlf_is_read(tmp_path: Path, content: bytes) -> None:
    assert read_config(toml(tmp_path, content), {}).lr == 0.5


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"lr = true\n", "option lr: True is not a number"),
        (b"epochs = 10.0\n", "option epochs: 10.0 is not a whole number"),
        (b"shuffle = 1\n", "option shuffle: 1 is not true or false"),
        (b"target = [1]\n", "option target: [1] is not a list of column names"),
        (b"lr = 2026-01-01\n", "is not a number"),
        (b"[model_args]\nwhen = 2026-01-01\n", "option model_args: "),
        (b"lrr = 3\n", "unknown option 'lrr'; did you mean 'lr'?"),
        (b"batch-size = 3\n", "unknown option 'batch-size'; did you mean 'batch_size'?"),
        (b"[train]\nlr = 3\n", "unknown option 'train'"),
        (b"lr: 3\n", "not TOML: "),
        (b"\xff\xfel\x00r\x00", "not TOML: it is not UTF-8 text"),
        (b"epochs = " + b"9" * 5000, "not TOML: "),
        (b"a = " + b"[" * 100_000, "not TOML: "),
    ],
)
def test_an_invalid_toml_file_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    file = toml(tmp_path, content)
    with pytest.raises(ConfigError) as caught:
        read_config(file, {})
    assert problem in str(caught.value)
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_an_overridden_mistake_in_the_file_is_refused(
    tmp_path: Path,
) -> None:
    with pytest.raises(ConfigError, match="option lr: 'abc' is not a number"):
        read_config(toml(tmp_path, 'lr = "abc"\n'), {"lr": "0.5"})


def test_a_missing_config_file_is_refused(tmp_path: Path) -> None:
    for path, problem in ((tmp_path / "no.toml", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigError, match=f"{path}: {problem}"):
            read_config(str(path), {})


def test_options_longer_than_one_tag_are_refused() -> None:
    half = [f"column_{index}" for index in range(480)]
    with pytest.raises(ConfigError, match="limit is 6800"):
        TrainConfig(features=half, model_args={"note": "x" * 4000})


def test_options_are_parsed_and_rendered_once(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On their way from the command line to the run; the courier reads none of them."""
    import runback.commands.run_name  # noqa: F401 - binds the function that is counted below

    parsed, rendered = Counter[str](), []
    parse, render = config_module.parse, config_module.render
    TrainConfig().identity()  # the defaults are rendered once a process
    monkeypatch.setattr(config_module, "parse", lambda n, v: parsed.update([n]) or parse(n, v))
    monkeypatch.setattr(config_module, "render", lambda v: rendered.append(v) or render(v))
    options = {"data": str(DATA / "non_linear.csv"), "epochs": "3", "lr": "1e-5", "split": "7:2:1"}
    assert main(["train", *(word for n, v in options.items() for word in (f"--{n}", v))]) == 0
    assert parsed == dict.fromkeys(options, 1)
    assert len(rendered) == len(OPTION_NAMES)
    run = workspace.client.get_run(capsys.readouterr().out.strip())
    assert run.data.params["lr"] == "1e-05"
