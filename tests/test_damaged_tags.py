"""Damaged tags: each command that reads one says so in one sentence, with the run and the tag."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finished_runs import FinishedRuns
from runback import evaluate, load_model, promote, reproduce, resume, rollback
from runback.errors import RunbackError, RunHeldError, TrackingError
from runback.storage import lease
from runback.tracking import run_tag, tags
from runback.tracking.aliases import History
from runback.tracking.record import Tags
from tracking_parts import record

DEEP = "[" * 100_000
DAMAGED = [
    "",
    "{",
    "null",
    "[]",
    "1",
    '"text"',
    "\x00\x01",
    "é" * 8000,
]


@dataclass
class Tagged:
    """A finished run in a store of its own whose tags a test may change."""

    runs: FinishedRuns
    run_id: str

    def set(self, tag: str, value: str) -> None:
        self.runs.workspace.client.set_tag(self.run_id, tag, value)

    def record(self, **facts: Any) -> str:
        """Replaces entries of the tag with the facts; the tag as it was."""
        client = self.runs.workspace.client
        before: str = client.get_run(self.run_id).data.tags[tags.RUN]
        record(client, self.run_id, **facts)
        return before


@pytest.fixture
def tagged(finished_runs: FinishedRuns, tmp_path: Path) -> Iterator[Tagged]:
    """All changes of the store's database are undone afterwards."""
    client, run_id = finished_runs.workspace.client, finished_runs.ids["weak"]
    before = dict(client.get_run(run_id).data.tags)
    yield Tagged(finished_runs, run_id)
    for name in client.get_run(run_id).data.tags.keys() - before.keys():
        client.delete_tag(run_id, name)
    for name, value in before.items():
        if name.startswith("runback."):
            client.set_tag(run_id, name, value)


COMMANDS = {
    "load_model": load_model,
    "evaluate": evaluate,
    "reproduce": reproduce,
    "resume": lambda run: resume(run, epochs=9),
    "promote": promote,
}


def refused(command: str, run_id: str) -> RunbackError:
    with pytest.raises(RunbackError) as caught:
        COMMANDS[command](run_id)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700
    assert run_id in str(caught.value)
    return caught.value


@pytest.mark.parametrize("command", ["load_model", "resume"])
def test_a_damaged_configuration_is_one_sentence(tagged: Tagged, command: str) -> None:
    for value in DAMAGED:
        tagged.set(tags.RUN, value)
        error = refused(command, tagged.run_id)
        assert tags.RUN in str(error)
        assert error.exit_code == 1


@pytest.mark.parametrize("value", [None, [], 1, "text", {"epochs": 1}, {"a": {}}, {"lr": None}])
def test_damaged_options_are_one_sentence(tagged: Tagged, value: Any) -> None:
    for entry in (run_tag.CONFIG, run_tag.CHANGED):
        before = tagged.record(**{entry: value})
        assert f"its {entry} is not an object" in str(refused("evaluate", tagged.run_id))
        tagged.set(tags.RUN, before)


@pytest.mark.parametrize("command", COMMANDS)
def test_an_option_of_a_wrong_type_names_tag_and_run(tagged: Tagged, command: str) -> None:
    tagged.record(config={"epochs": "many", "data": "table.csv"})
    error = refused(command, tagged.run_id)
    assert f"config in tag {tags.RUN}" in str(error) and "option epochs" in str(error)
    assert error.exit_code == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", "many"),
        ("nothing", "1"),
        ("split", "1:1"),
        ("patience", ""),
        ("epochs", DEEP[:999]),
    ],
)
def test_a_damaged_change_names_tag_and_run(tagged: Tagged, name: str, value: str) -> None:
    tagged.record(changed={name: value})
    error = refused("evaluate", tagged.run_id)
    assert f"changed in tag {tags.RUN}" in str(error) and name in str(error)
    assert error.exit_code == 1


def test_changes_that_contradict_name_the_tag(tagged: Tagged) -> None:
    tagged.record(changed={"momentum": "0.5", "optimizer": "adam"})
    assert f"changed in tag {tags.RUN}" in str(refused("evaluate", tagged.run_id))


@pytest.mark.parametrize("command", ["evaluate", "reproduce", "resume", "promote"])
@pytest.mark.parametrize("value", ["", "abc", "0" * 63 + "g", "x" * 6000, 7])
def test_a_damaged_fingerprint_names_tag_and_run(tagged: Tagged, command: str, value: str) -> None:
    tagged.record(data_fingerprint=value)
    error = refused(command, tagged.run_id)
    assert f"tag {tags.RUN} is damaged: its data_fingerprint" in str(error)
    assert error.exit_code == 1


@pytest.mark.parametrize("value", ["\x00", "x" * 6000, "~nobody/x.csv", "\n", "/dev/zero", "."])
def test_a_damaged_data_path_falls_back_to_the_option(tagged: Tagged, value: str) -> None:
    shutil.copyfile(tagged.runs.workspace.folder / "table.csv", "table.csv")
    tagged.record(data_path=value)
    assert evaluate(tagged.run_id).rows > 0


@pytest.mark.parametrize("value", ["", "x", "-1", "1.5", "9" * 30, "1" * 5000, "[1]"])
def test_a_damaged_epoch_names_tag_and_run(finished_runs: FinishedRuns, value: str) -> None:
    client, run_id = finished_runs.workspace.client, finished_runs.ids["weak"]
    (output,) = client.get_run(run_id).outputs.model_outputs
    kept = client.get_logged_model(output.model_id).tags[tags.EPOCH]
    client.set_logged_model_tags(output.model_id, {tags.EPOCH: value})
    try:
        error = refused("evaluate", run_id)
    finally:
        client.set_logged_model_tags(output.model_id, {tags.EPOCH: kept})
    assert tags.EPOCH in str(error)
    assert error.exit_code == 1


@pytest.mark.parametrize(
    "value", ["{", "{}", "7", "[7]", DEEP, '[{"version": 1}]', '{"promotions": [], "dropped": -1}']
)
def test_a_damaged_history_names_tag_and_model(finished_runs: FinishedRuns, value: str) -> None:
    client = finished_runs.workspace.client
    key = tags.PROMOTIONS + "damaged"
    client.set_registered_model_tag("table", key, value[:90_000])
    with pytest.raises(TrackingError) as caught:
        rollback(finished_runs.ids["weak"], "damaged")
    client.delete_registered_model_tag("table", key)
    assert key in str(caught.value) and "'table'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_lease_is_a_warning(tagged: Tagged, capfd: pytest.CaptureFixture[str]) -> None:
    tagged.set(tags.LEASE, DEEP[:8000])
    resume(tagged.run_id, epochs=5)
    warning = f"run {tagged.run_id}: tag {tags.LEASE} is damaged, and ignored"
    assert warning in capfd.readouterr().err


VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
KEYS = ["host", "home", "pid", "until", "epochs", "dropped", "promotions", "version", "replaced"]
JSON = st.one_of(VALUES, st.dictionaries(st.sampled_from(KEYS), VALUES)).map(json.dumps)
TEXTS = st.one_of(JSON, st.text(), st.just(DEEP), st.just('{"a":' * 100_000), st.just("9" * 9999))


@given(TEXTS)
def test_any_text_as_a_lease_is_a_lease_or_an_error(text: str) -> None:
    try:
        lease.require_free(text, "run x")
    except (ValueError, RunHeldError) as error:
        assert "\n" not in str(error).partition(":")[0]


@given(TEXTS)
def test_any_text_as_a_history_is_one_or_an_error(text: str) -> None:
    try:
        found = History.from_tag(text)
    except ValueError:
        return
    assert all(entry["version"].isdigit() for entry in found.promotions)


NAMES = st.sampled_from([v for k, v in vars(tags).items() if k.isupper()])
ENTRIES = st.sampled_from(
    [v for k, v in vars(run_tag).items() if k.isupper() and "." not in str(v)]
)
FACTS = st.dictionaries(ENTRIES, VALUES | st.dictionaries(st.text(max_size=5), VALUES))
RUN = FACTS.map(lambda facts: {tags.RUN: json.dumps(facts)}) | st.just({})


@given(st.dictionaries(NAMES, TEXTS), RUN)
def test_any_tags_are_parsed_or_one_sentence(some: dict[str, str], facts: dict[str, str]) -> None:
    stored = {**some, **facts}
    try:
        parsed = Tags.parse(stored)
    except TrackingError as error:
        assert re.match(f"tag {tags.RUN} is damaged: ", str(error))
        assert "\n" not in str(error)
    else:
        assert parsed.options is None or all(isinstance(v, str) for v in parsed.options.values())
