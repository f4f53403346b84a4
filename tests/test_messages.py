"""The messages between a training process and its courier: typed, and each with its answer."""

from __future__ import annotations

from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runback.errors import RunHeldError, TrackingError, UsageError
from runback.limits import MAX_TAG
from runback.tracking import run_tag
from runback.tracking.messages import (
    TYPES,
    Delivered,
    FindRun,
    FinishRun,
    Question,
    ReopenRun,
    Reply,
    RunDescription,
    answer_of,
    answer_type,
    read_message,
    read_reply,
    write_answer,
    write_error,
    write_message,
)
from runback.tracking.record import RunRecord, Tags

text = st.text(max_size=20)
options = st.dictionaries(text, text, max_size=3)
records = st.builds(
    RunRecord,
    run_id=text,
    status=st.sampled_from(["RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"]),
    is_active=st.booleans(),
    tags=st.builds(Tags, options=st.none() | options, changes=options, lease=text),
    params=options,
    metrics=st.dictionaries(text, st.floats(), max_size=3),
    model_id=text,
    version=text,
)


@pytest.mark.parametrize("kind", TYPES.values(), ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_a_message_arrives_as_it_was_sent(kind: type[Any], data: st.DataObject) -> None:
    message = data.draw(st.from_type(kind))
    line = write_message(7, message)
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    assert read_message(line) == (7, message)


@given(records)
def test_a_record_arrives_as_it_was_sent(record: RunRecord) -> None:
    """Metrics that are not finite, too."""
    found = answer_of(FindRun("x"), read_reply(write_answer(1, record)))
    assert repr(found) == repr(record)


@pytest.mark.parametrize("kind", [RunHeldError, TrackingError, UsageError])
def test_an_error_arrives_as_its_own_kind(kind: type[Exception]) -> None:
    reply = read_reply(write_error(1, kind("what is wrong")))
    with pytest.raises(kind, match="what is wrong"):
        answer_of(FindRun("x"), reply)


def test_an_answer_of_another_type_is_refused() -> None:
    with pytest.raises(ValueError, match="Delivered"):
        answer_of(FinishRun("x", "FAILED", ""), Reply(1, {"complete": "perhaps"}))


def test_answers_have_the_type_that_the_question_names() -> None:
    assert answer_type(FindRun) is RunRecord
    assert answer_type(FinishRun) is Delivered
    assert answer_of(ReopenRun("x", {}, {}), read_reply(write_answer(1, None))) is None


def test_each_handler_answers_with_its_questions_type() -> None:
    """The type checker does not see through the table of handlers."""
    from runback.tracking.handlers import HANDLERS

    questions = {kind for kind in TYPES.values() if issubclass(kind, Question)}
    assert HANDLERS.keys() == questions - {FinishRun}
    for kind, handler in HANDLERS.items():
        hints = get_type_hints(handler)
        expected = answer_type(kind)
        assert hints["return"] == (type(None) if expected is None else expected), kind
        assert hints["question"] is kind


# Tags as a store may hold them


def test_the_config_is_what_was_given_and_changed_since() -> None:
    stored = {
        "runback.run": '{"config": {"lr": "0.1", "epochs": "5"}, "changed": {"epochs": "9"}}',
        "other": "x",
    }
    record = RunRecord(
        run_id="r",
        status="FINISHED",
        is_active=True,
        tags=Tags.parse(stored),
        params={},
        metrics={},
    )
    assert record.original_config == {"lr": "0.1", "epochs": "5"}
    assert record.config == {"lr": "0.1", "epochs": "9"}


@pytest.mark.parametrize("damaged", ["", "{", "[]", "3", '{"config": {"lr": 1}}', "[" * 100_000])
def test_a_damaged_config_tag_is_one_sentence(damaged: str) -> None:
    with pytest.raises(TrackingError, match=r"tag runback\.run is damaged"):
        Tags.parse({"runback.run": damaged})


def test_changes_of_several_resumes_add_up() -> None:
    stored = run_tag.as_tag({"config": {"lr": "1"}, "changed": {"epochs": "9"}, "creation": "m"})
    new = run_tag.merged(stored, {"changed": {"name": "n"}, "resumed": [3]})
    assert run_tag.facts_of(new) == {
        "config": {"lr": "1"},
        "changed": {"epochs": "9", "name": "n"},
        "creation": "m",
        "resumed": [3],
    }


def test_a_tag_that_is_full_loses_the_places_of_resumes() -> None:
    facts = {"config": {"features": "x" * (MAX_TAG - 100)}, "resumed": list(range(100))}
    assert run_tag.facts_of(run_tag.as_tag(facts)) == {"config": facts["config"]}
    with pytest.raises(UsageError, match=r"MLflow's limit for the tag runback\.run is 8000"):
        run_tag.as_tag({"data_path": "x" * MAX_TAG})


def test_a_description_needs_no_dataset() -> None:
    assert RunDescription(params={}, tags={}).datasets == ()
