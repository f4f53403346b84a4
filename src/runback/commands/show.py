"""`runback show`: one run on one screen."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from runback.commands.recorded import config_of
from runback.config import OPTION_NAMES, default_in, render
from runback.console.progress import say
from runback.decoding import decode
from runback.errors import JournalError, TrackingError
from runback.storage.journal import Point, Unsent, unsent
from runback.storage.lease import is_held
from runback.storage.paths import run_dir
from runback.tracking import artifacts, tags
from runback.tracking.connection import connect, request
from runback.tracking.find_run import find_run
from runback.tracking.list_runs import registered_as
from runback.tracking.points import sampled
from runback.tracking.record import RunRecord

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

COSTS = ("cost", "val_cost")
BASELINES = "baselines.json"
MAX_CURVE_POINTS = 200
# That are read of each metric: so many that they show the pauses of a long training.
MAX_POINTS = 1000
# A gap between two epochs is a pause if it is so long, and so many times longer than most are.
PAUSE_SECONDS, PAUSE_FACTOR = 30.0, 20.0


@dataclass(frozen=True)
class Times:
    """Where the time of a run went, in seconds; None if it has not come so far.

    Attributes:
        before: from the run's start to the end of its first epoch.
        epochs: from the first to the last epoch, without pauses.
        paused: between epochs, such as between an interruption and the resume; of a long training, not
            the short ones.
        after: from the last epoch to the end: scores, plots, the delivery of the rest.
    """

    before: float | None
    epochs: float | None
    paused: float
    after: float | None


@dataclass(frozen=True)
class RunDetails:
    """A run.

    Attributes:
        status: as on the tracking server.
        experiment: its name.
        started_ms: in milliseconds since the Unix epoch; `ended_ms` is None before the end.
        data: the path of the table.
        rows: the number of rows of each part, by its name.
        options: those that differ from the defaults, as text; all params of a run of other programs.
        epochs: completed, None before the first; `planned_epochs` is None of other programs.
        best_epoch: None without validation rows, and before the end.
        scores: of the test rows, by metric.
        baselines: the scores of simple models on the same rows, by model.
        costs: [epoch, value] of cost and val_cost, at most 200 evenly spaced ones.
        registered_as: "NAME/VERSION", empty if there is none.
        aliases: of that version, such as champion.
        notes: what is unusual, in sentences.
        waiting: the points and files in the local journal that the server does not have yet.
        commands: what can be done next.
        begins_after: the epoch after which a fork begins; 0 of other runs.
    """

    run_id: str
    name: str
    status: str
    experiment: str
    started_ms: int
    ended_ms: int | None
    data: str
    rows: dict[str, int]
    options: dict[str, str]
    epochs: int | None
    planned_epochs: int | None
    best_epoch: int | None
    best_val_cost: float | None
    scores: dict[str, float]
    baselines: dict[str, dict[str, float]]
    costs: dict[str, list[tuple[int, float]]]
    times: Times
    registered_as: str
    aliases: tuple[str, ...]
    notes: tuple[str, ...]
    waiting: int
    commands: tuple[str, ...]
    begins_after: int

    def as_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self)


def show(run: str) -> RunDetails:
    """What a run is, how it went, and what can be done next.

    Args:
        run: RUN in any of its forms; also of a run that is in training, has failed or is deleted.

    Raises:
        RunNotFoundError: no run matches, or more than one.
        TrackingError: the server is unreachable, or a tag of the run is damaged.
    """
    client = connect()
    return details_of(client, find_run(client, run))


def details_of(client: MlflowClient, record: RunRecord) -> RunDetails:
    """`show` of a run that is found."""
    what = f"run {record.run_id}"
    found = request(what, partial(client.get_run, record.run_id))
    points = {name: sampled(client, record.run_id, name, MAX_POINTS) for name in COSTS}
    experiment = request("experiment", partial(client.get_experiment, found.info.experiment_id))
    version, aliases = registered_as(client, [record.run_id]).get(record.run_id, ("", ()))
    left = _unsent(record.run_id)
    metrics, steps = record.metrics, [point.step for point in points["cost"]]
    return RunDetails(
        run_id=record.run_id,
        name=found.info.run_name or "",
        status=record.status,
        experiment=experiment.name,
        started_ms=found.info.start_time,
        ended_ms=found.info.end_time,
        data=record.tags.data_path,
        rows=_rows(found),
        options=_options(record),
        epochs=max(steps) if steps else None,
        planned_epochs=_planned(record),
        best_epoch=int(metrics["best_epoch"]) if "best_epoch" in metrics else None,
        best_val_cost=metrics.get("best_val_cost"),
        scores={n.removeprefix("test_"): v for n, v in metrics.items() if n.startswith("test_")},
        baselines=_baselines(client, record.run_id),
        costs={name: _thinned(found) for name, found in points.items() if found},
        times=_times(found, points["cost"]),
        registered_as=version,
        aliases=aliases,
        notes=tuple(_notes(record, found, left)),
        waiting=left.points + left.items + left.refused,
        commands=tuple(_commands(record, bool(version), left)),
        begins_after=record.tags.fork.epoch if record.tags.fork else 0,
    )


def _options(record: RunRecord) -> dict[str, str]:
    """The options with other values than the defaults, with the changes of resumes."""
    if record.tags.options is None:
        return dict(record.params)
    config = config_of(record)
    values = {name: getattr(config, name) for name in OPTION_NAMES if name not in ("data", "name")}
    return {
        name: render(value) for name, value in values.items() if value != default_in(config, name)
    }


def _planned(record: RunRecord) -> int | None:
    return None if record.tags.options is None else config_of(record).epochs


def _rows(run: Run) -> dict[str, int]:
    """The rows of each part, of the dataset inputs that runback logs."""
    rows: dict[str, int] = {}
    for used in run.inputs.dataset_inputs if run.inputs else ():
        parts = [tag.value for tag in used.tags if tag.key == "mlflow.data.context"]
        number = _number_of_rows(used.dataset.profile)
        if parts and number is not None:
            rows[parts[0]] = number
    return rows


def _number_of_rows(profile: str | None) -> int | None:
    try:
        number = decode(json.loads, profile or "null")["num_rows"]
    except (ValueError, TypeError, KeyError):
        return None
    return number if isinstance(number, int) else None


def _baselines(client: MlflowClient, run_id: str) -> dict[str, dict[str, float]]:
    """The scores of simple models; empty if the run has none, or its artifacts cannot be read."""
    try:
        if BASELINES not in artifacts.list_names(client, run_id, ""):
            return {}
        found = artifacts.read_json(client, run_id, BASELINES)
        return {str(m): {str(n): float(v) for n, v in s.items()} for m, s in found.items()}
    except (TrackingError, ValueError, TypeError, AttributeError) as error:
        say(f"warning: the scores of simple models cannot be read: {error}")
        return {}


def _thinned(points: Sequence[Point]) -> list[tuple[int, float]]:
    """At most `MAX_CURVE_POINTS` points, evenly spaced, the first and the last included."""
    number = min(len(points), MAX_CURVE_POINTS)
    chosen = [points[i * (len(points) - 1) // max(1, number - 1)] for i in range(number)]
    return [(point.step, point.value) for point in chosen]


def _times(run: Run, costs: list[Point]) -> Times:
    """Where the time went, from the times at which some or all epochs were completed."""
    moments = sorted(point.timestamp for point in costs)
    if not moments:
        return Times(None, None, 0.0, None)
    gaps = [(after - before) / 1000 for before, after in pairwise(moments)]
    pauses, ended = _pauses(gaps, _epochs_apart(costs)), run.info.end_time
    return Times(
        before=max(0.0, (moments[0] - run.info.start_time) / 1000),
        epochs=math.fsum(gaps) - math.fsum(pauses),
        paused=math.fsum(pauses),
        after=None if ended is None else max(0.0, (ended - moments[-1]) / 1000),
    )


def _epochs_apart(costs: list[Point]) -> float:
    """The mean number of epochs from one point to the next, at least 1."""
    steps = [point.step for point in costs]
    return max(1.0, (max(steps) - min(steps)) / max(1, len(steps) - 1))


def _pauses(gaps: list[float], epochs_apart: float) -> list[float]:
    """The pauses in the seconds between points, without those of the epochs in between."""
    usual = sorted(gaps)[(len(gaps) - 1) // 2] if gaps else 0.0
    one = usual / epochs_apart
    rest = [gap - (usual - one) for gap in gaps]
    shortest = max(PAUSE_SECONDS, PAUSE_FACTOR * one, usual)
    return [seconds for seconds in rest if seconds > shortest]


def _unsent(run_id: str) -> Unsent:
    """What the local journal of a run has still to deliver, if there is one."""
    journal = run_dir(run_id).journal
    try:
        return unsent(journal) if journal.exists() else Unsent(0, 0, 0, "")
    except (JournalError, OSError) as error:
        say(f"warning: {error}")
        return Unsent(0, 0, 0, "")


def _notes(record: RunRecord, run: Run, left: Unsent) -> list[str]:
    """What is unusual, in sentences."""
    stored, notes = run.data.tags, []
    if not record.is_active:
        notes.append("the run is deleted")
    if record.status == "RUNNING" and not is_held(record.tags.lease):
        end = f"; it has ended here as {left.status}" if left.status else ""
        notes.append(f"the status is RUNNING, but no process trains the run{end}")
    if number := left.points + left.items + left.refused:
        notes.append(f"{number} points or files here are not delivered to the tracking server yet")
    if record.tags.changes:
        notes.append(f"resumes have changed {', '.join(sorted(record.tags.changes))}")
    for tag in (tags.ERROR, tags.NON_FINITE, tags.MISMATCH):
        if stored.get(tag):
            notes.append(f"{tag.rpartition('.')[2]}: {stored[tag]}")
    if fork := record.tags.fork:
        changed = f", with {fork.changed}" if fork.changed else ""
        notes.append(f"it is a fork of run {fork.run_id} after epoch {fork.epoch}{changed}")
    if stored.get(tags.REPRODUCTION_OF):
        notes.append(f"it reproduces run {stored[tags.REPRODUCTION_OF]}")
    return notes


def _commands(record: RunRecord, is_registered: bool, left: Unsent) -> list[str]:
    """What can be done next."""
    run_id, commands = record.run_id, []
    if not record.is_active:
        return [f"mlflow runs restore --run-id {run_id}"]
    if record.tags.options is None and not record.has_own_loop:
        return []
    if record.status == "RUNNING" and is_held(record.tags.lease):
        return [f"runback show {run_id}"]
    if left.points or left.items or left.refused or (left.status and record.status == "RUNNING"):
        commands.append(f"runback sync {run_id}")
    if record.status != "FINISHED":
        return [*commands, f"runback resume {run_id}"]
    if record.has_own_loop:
        return commands
    commands += [f"runback evaluate {run_id}", f"runback predict {run_id} --data FILE"]
    commands += [f"runback promote {run_id}"] if is_registered else []
    return [*commands, f"runback resume {run_id} --epochs N", f"runback reproduce {run_id}"]
