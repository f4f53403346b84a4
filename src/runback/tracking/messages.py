"""The messages between a training process and its courier, each with the type of its answer.

One JSON object a line each way: `{"type": ..., "number": ..., "fields": ...}` to the courier, and
`{"number": ..., "answer": ...}` or `{"number": ..., "error": ..., "kind": ...}` back. Imports
neither mlflow nor torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any, Generic, TypeVar, get_args

import runback.errors
from runback.errors import RunbackError
from runback.tracking.record import EndStatus, Options, RunRecord
from runback.tracking.run_tag import Entry

A = TypeVar("A", covariant=True)


class Question(Generic[A]):
    """A message with an answer of type `A`."""


class Notice:
    """A message without an answer."""


@dataclass(frozen=True, kw_only=True)
class DatasetPart:
    """One part of a table, logged as an MLflow dataset.

    Attributes:
        part: "training", "validation" or "test".
        name: of the table.
        digest: of this part's rows, at most 36 characters.
        path: of the table.
        sha256: of the table.
        columns: the features and targets.
        n_rows: of this part.
        shape: of a sample with more than one dimension; otherwise empty.
        dtype: of such samples.
    """

    part: str
    name: str
    digest: str
    path: str
    sha256: str
    columns: tuple[str, ...]
    n_rows: int
    shape: tuple[int, ...] = ()
    dtype: str = ""


@dataclass(frozen=True, kw_only=True)
class RunDescription:
    """The description of a run, logged at its start.

    Attributes:
        params: MLflow params; existing ones are not changed.
        tags: MLflow tags.
        facts: entries of the tag `run_tag`.
        datasets: MLflow dataset inputs.
    """

    params: Options
    tags: dict[str, str]
    facts: dict[str, Entry] = field(default_factory=dict)
    datasets: tuple[DatasetPart, ...] = ()


@dataclass(frozen=True)
class CreateRun(Question[str]):
    """Creates, describes and attaches the run of a pending directory; the answer is its ID.

    Attributes:
        mark: of the directory (`storage.paths.RunDir.mark`), which is renamed to the ID.
        description: of the run.
        experiment: its name, created if missing; by default the one of the environment.
        experiment_id: of an experiment that exists, in the place of a name.
    """

    mark: str
    description: RunDescription
    experiment: str = ""
    experiment_id: str = ""


@dataclass(frozen=True)
class TakeOverRun(Question[None]):
    """Describes and attaches an existing run that awaits its training."""

    run_id: str
    description: RunDescription


@dataclass(frozen=True)
class FindRun(Question[RunRecord]):
    """Resolves RUN, see `find_run.find_run`."""

    name: str


@dataclass(frozen=True)
class FindKey(Question[str]):
    """Finds the newest unfinished run with a key; the answer is its ID, empty if there is none.

    Attributes:
        key: of the run.
        experiment: a name; by default the experiment of the environment.
        experiment_id: of an experiment, in the place of a name.
    """

    key: str
    experiment: str = ""
    experiment_id: str = ""


@dataclass(frozen=True)
class ReopenRun(Question[None]):
    """Sets a run to RUNNING again, with new tags, and attaches it.

    Attributes:
        run_id: of the run.
        tags: to be added.
        facts: entries of the tag `run_tag`, to be added.
        description: to be completed; None if it is complete.
    """

    run_id: str
    tags: dict[str, str]
    facts: dict[str, Entry]
    description: RunDescription | None = None


@dataclass(frozen=True)
class NestLaunch(Question[None]):
    """Nests the run created by `mlflow run -e COMMAND` under the run that the command continues."""

    launch_id: str
    run_id: str
    command: str


@dataclass(frozen=True)
class FailRun(Question[None]):
    """Ends a run that awaits its training as FAILED."""

    run_id: str
    error: str


@dataclass(frozen=True)
class FetchArtifact(Question[str]):
    """Downloads an artifact of a run into a folder; the answer is its local path."""

    run_id: str
    path: str
    folder: str


@dataclass(frozen=True)
class ListArtifacts(Question[list[str]]):
    """Lists the names of the files in an artifact folder of a run."""

    run_id: str
    folder: str


@dataclass(frozen=True)
class AdoptPoints(Question[None]):
    """Adds all published metric points of a run to its local journal, which is behind the server."""

    run_id: str


@dataclass(frozen=True)
class Delivered:
    """The result of the delivery of a finished run.

    Attributes:
        complete: whether everything was delivered.
        courier_stays: whether the courier continues, to set the status again.
    """

    complete: bool
    courier_stays: bool


@dataclass(frozen=True)
class FinishRun(Question[Delivered]):
    """Reports the end of a training; the rest and the status are delivered."""

    run_id: str
    status: EndStatus
    error: str


@dataclass(frozen=True)
class AttachRun(Notice):
    """Starts the delivery of a run's journal; idempotent."""

    run_id: str


@dataclass(frozen=True)
class SignalReceived(Notice):
    """Reports that the training process has received a signal."""


Message = Question[Any] | Notice
TYPES: dict[str, type[Message]] = {
    kind.__name__: kind
    for kind in (
        CreateRun, TakeOverRun, FindRun, FindKey, ReopenRun, NestLaunch, FailRun, FetchArtifact,
        ListArtifacts, AdoptPoints, FinishRun, AttachRun, SignalReceived,
    )
}  # fmt: skip


@dataclass(frozen=True)
class Reply:
    """The answer to one question, not yet parsed."""

    number: int
    answer: Any = None
    error: str | None = None
    kind: str = ""


def write_message(number: int, message: Message) -> bytes:
    """Encodes a message as a line."""
    fields = asdict(message)  # type: ignore[call-overload]
    return _line({"type": type(message).__name__, "number": number, "fields": fields})


def read_message(line: bytes) -> tuple[int, Message]:
    """Decodes a line to the number and the message."""
    content = json.loads(line)
    kind: Any = TYPES[content["type"]]
    message: Message = _parser(kind)(content["fields"])
    return int(content["number"]), message


def write_answer(number: int, answer: object) -> bytes:
    """Encodes an answer as a line."""
    plain = asdict(answer) if hasattr(answer, "__dataclass_fields__") else answer  # type: ignore[call-overload]
    return _line({"number": number, "answer": plain})


def write_error(number: int, error: RunbackError) -> bytes:
    """Encodes an error as a line."""
    return _line({"number": number, "error": str(error), "kind": type(error).__name__})


def read_reply(line: bytes) -> Reply:
    """Decodes a line to a reply."""
    return Reply(**json.loads(line))


def answer_of(question: Question[A], reply: Reply) -> A:
    """The answer in a reply, parsed as the question's answer type.

    Raises:
        RunbackError: the error in the reply, in its own type.
    """
    if reply.error is not None:
        kind = getattr(runback.errors, reply.kind, RunbackError)
        raise kind(reply.error)
    answer: A = _parser(answer_type(type(question)))(reply.answer)
    return answer


def answer_type(kind: type[Question[Any]]) -> Any:
    """The answer type of a question."""
    (base,) = kind.__orig_bases__  # type: ignore[attr-defined]
    return get_args(base)[0]


@cache
def _parser(kind: Any) -> Callable[[Any], Any]:
    """Validates JSON values and converts them to a type."""
    from pydantic import TypeAdapter  # imported late to keep `runback --help` fast

    return TypeAdapter(kind).validate_python


def _line(content: dict[str, Any]) -> bytes:
    return json.dumps(content).encode() + b"\n"
