"""Command lines: every text for every option, of every command, and every form of RUN."""

from __future__ import annotations

import json

import pytest
from fuzzing import command, inputs, own_folder, tried  # noqa: F401
from hypothesis import given
from hypothesis import strategies as st

from runback.cli import COMMANDS
from runback.config import FIELDS, OPTION_NAMES, TrainConfig

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
WORDS = st.sampled_from(
    [
        "", "0", "1", "-1", "1e-4", "nan", "inf", "1e999", "9" * 5000, "true", "false", "none", "{}",
        "[]", "null", '{"degree": 2}', '{"a":' * 500, "8:1:1", "0:0:0", "1:1", "a,b", '["a", "b"]',
        "cpu", "cuda", "adam", "linear", "mlp", "file.py:Class", "package.module:Class", "auto",
        "-", "--", "--lr", "=", "0x10", "1_000", " 1", "\uff11",
    ]
)  # fmt: skip
VALUES = st.one_of(WORDS, TEXT, st.integers().map(str), st.floats().map(str))
FLAGS = st.one_of(
    st.sampled_from([f"--{name.replace('_', '-')}" for name in OPTION_NAMES]),
    TEXT.map(lambda text: f"--{text}"),
)


# Values that are often accepted.
COUNT, SHARE = st.integers(0, 10**6).map(str), st.floats(0, 2).map(repr)
PROPER = {
    "target": TEXT, "features": st.lists(TEXT, max_size=3).map(json.dumps), "data": TEXT,
    "model": st.sampled_from(["linear", "mlp", "polynomial"]), "register": TEXT,
    "model_args": st.dictionaries(TEXT, st.integers() | TEXT, max_size=2).map(json.dumps),
    "optimizer": st.sampled_from(["adam", "adamw", "sgd"]), "lr": SHARE, "weight_decay": SHARE,
    "epochs": COUNT, "batch_size": COUNT, "seed": COUNT, "patience": COUNT, "clip_norm": SHARE,
    "split": st.lists(st.integers(0, 99), min_size=3, max_size=3).map(lambda r: ":".join(map(str, r))),
    "drop_last": st.sampled_from(["true", "False"]), "checkpoint_minutes": SHARE,
}  # fmt: skip


@inputs(0.1)
@given(options=st.lists(st.tuples(FLAGS, VALUES), max_size=3), joined=st.booleans())
def test_any_training_command_is_refused_in_one_sentence(
    capfd: pytest.CaptureFixture[str], options: list[tuple[str, str]], joined: bool
) -> None:
    """The table is missing, so that no training starts."""
    given_ = [f"{flag}={value}" if joined else [flag, value] for flag, value in options]
    words = [word for item in given_ for word in ([item] if isinstance(item, str) else item)]
    if "--help" in words or "-h" in words:
        return
    command("options", capfd, "train", *words, "--data", "missing.csv")


@inputs(0.1)
@given(
    st.dictionaries(st.sampled_from(OPTION_NAMES), VALUES, max_size=4)
    | st.fixed_dictionaries({}, optional=PROPER)
)
def test_accepted_options_keep_their_values(options: dict[str, str]) -> None:
    """A configuration comes back from its params and from its JSON."""
    config = tried("options", lambda: TrainConfig.from_mapping(options))
    if config is not None:
        assert options.keys() <= FIELDS.keys()
        assert TrainConfig.from_mapping(config.as_params()) == config
        assert TrainConfig.from_mapping(json.loads(config.as_json())) == config
        assert TrainConfig.from_mapping(options).identity() == config.identity()


NAMES = st.one_of(
    TEXT, st.sampled_from(["latest", "runs:/", "models:/", "models:/a/1", "../../etc", "abcd"]),
    TEXT.map(lambda text: f"models:/{text}"), TEXT.map(lambda text: f"runs:/{text}"),
)  # fmt: skip
STORED = [c.name for c in COMMANDS if c.name in ("evaluate", "predict", "promote")]


@inputs(0.04)
@given(name=st.sampled_from(STORED), run=NAMES, extra=st.lists(VALUES, max_size=2))
def test_any_name_of_a_run_is_refused_in_one_sentence(
    capfd: pytest.CaptureFixture[str], name: str, run: str, extra: list[str]
) -> None:
    words = [word for word in extra if word not in ("-h", "--help")]
    command("names", capfd, name, run, *words, "--data", "missing.csv")


@inputs(0.04)
@given(run=TEXT)
def test_a_name_that_no_run_has_is_refused(capfd: pytest.CaptureFixture[str], run: str) -> None:
    if run.isascii() and run.replace("_", "").replace("-", "").isalnum() and len(run) >= 4:
        return  # can be a run ID
    if run in ("-h", "--h", "--help"):
        return
    command("names", capfd, "reproduce", run)
