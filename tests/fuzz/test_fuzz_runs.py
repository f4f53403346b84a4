"""What a store says of a run: tags, params, URIs, registered names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fuzzing import inputs, own_folder, tried  # noqa: F401
from hypothesis import given
from hypothesis import strategies as st
from mlflow.entities import Run, RunData, RunInfo, RunStatus, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.validation import _validate_model_name

from runback.commands.recorded import config_of, original_config_of, with_data
from runback.config import OPTION_NAMES, TrainConfig, parse
from runback.tracking import run_tag, tags
from runback.tracking.connection import public_uri, without_secrets
from runback.tracking.find_run import record_of
from runback.training.setup import prepare

TEXT = st.text(max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
OPTIONS = st.dictionaries(st.sampled_from(OPTION_NAMES) | TEXT, TEXT | JSON, max_size=4)
VALUES = st.one_of(
    TEXT, JSON.map(json.dumps), OPTIONS.map(json.dumps), st.just(TrainConfig().as_json()),
    OPTIONS.map(lambda more: json.dumps({**json.loads(TrainConfig().as_json()), **more})),
    st.just("[" * 3000), st.integers().map(str),
)  # fmt: skip
KEYS = st.one_of(
    st.sampled_from([value for name, value in vars(tags).items() if name.isupper()]),
)
ENTRIES = st.sampled_from(
    [v for k, v in vars(run_tag).items() if k.isupper() and "." not in str(v)]
)


@inputs(0.13)
@given(
    changes=st.dictionaries(KEYS, VALUES, max_size=3),
    facts=st.dictionaries(ENTRIES, JSON | OPTIONS, max_size=4),
    usual=st.booleans(),
)
def test_any_tags_of_a_run_are_read_or_refused(
    changes: dict[str, str], facts: dict[str, Any], usual: bool
) -> None:
    """Tags as a training writes them, with none or some replaced."""
    table = Path("rows.csv")
    table.write_text("x,y\n1,2\n")
    whole = {
        run_tag.CONFIG: TrainConfig(data=str(table)).as_params(),
        run_tag.DATA_PATH: str(table),
    }
    kept = {name: value for name, value in facts.items() if name not in whole} if usual else facts
    found = {**whole, **kept}
    stored = {tags.RUN: json.dumps(found), **changes}

    def read() -> TrainConfig:
        info = RunInfo("0" * 32, "0", "", RunStatus.to_string(RunStatus.FINISHED), 0, 0, "active")
        run = record_of(Run(info, RunData(tags=[RunTag(*item) for item in stored.items()])))
        original_config_of(run)
        return with_data(config_of(run), run.tags, Path)

    config = tried("tags", read)
    if config is not None and tags.RUN not in changes:
        for name, text in found.get(run_tag.CHANGED, {}).items():
            assert getattr(config, name) in (parse(name, text), found[run_tag.DATA_PATH])


USERS = st.text("abcXYZ019._-", max_size=5)
SECRET = "Secret7"


@inputs(0.1)
@given(
    scheme=st.sampled_from(["http", "https", "postgresql", "mysql+pymysql", "file", "x"]),
    user=USERS,
    host=st.one_of(USERS, st.sampled_from(["[::1", "[::1]", "127.0.0.1:99999", "a:b", ""]), TEXT),
    rest=st.one_of(TEXT, st.sampled_from(["", "/path", "?a=b", "#f", "//x@y"])),
)
def test_no_password_of_a_uri_is_shown(scheme: str, user: str, host: str, rest: str) -> None:
    host = host.replace("@", "")
    uri = f"{scheme}://{user}:{SECRET}@{host}{rest}"
    shown = tried(
        "URIs", lambda: (public_uri(uri), without_secrets(f"no answer from {uri}: {uri}"))
    )
    assert shown is None or not any(SECRET in text for text in shown)


@inputs(0.03)
@given(name=st.one_of(st.text(max_size=6), st.sampled_from(["a" * 257, ".", "..", "../x", "none"])))
def test_a_registered_name_is_one_that_mlflow_takes(name: str) -> None:
    Path("rows.csv").write_text("x,y\n" + "".join(f"{n},{n}\n" for n in range(10)))
    options = {"data": "rows.csv", "batch_size": 2, "model": "linear", "threads": 1}
    setup = tried("names", lambda: prepare(TrainConfig.from_mapping({**options, "register": name})))
    if setup is not None and setup.register_as != "none":
        try:
            _validate_model_name(setup.register_as)
        except MlflowException as error:
            raise AssertionError(f"{name!r} would be refused after the training") from error


@inputs(0.02)
@given(st.lists(st.text(max_size=5), min_size=2, max_size=4))
def test_column_names_are_stored_as_they_are(names: list[str]) -> None:
    import csv

    with open("names.csv", "w", newline="", encoding="utf-8", errors="replace") as file:
        csv.writer(file).writerows([names, *([n] * len(names) for n in range(10))])
    config = TrainConfig(data="names.csv", batch_size=2, model="linear", threads=1)
    setup = tried("names", lambda: prepare(config))
    if setup is not None:
        spec = setup.built.spec
        again = type(spec).from_json(json.loads(json.dumps(spec.as_json())))
        assert (again.features, again.targets) == (spec.features, spec.targets)
        assert sorted([*spec.features, *spec.targets]) == sorted(name.strip() for name in names)
