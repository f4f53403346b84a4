"""`runback reproduce`: trains a run again from its record, and compares the two point by point."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from runback.commands.checkout import checked_out, run_to_end
from runback.commands.fork_point import ForkPoint
from runback.commands.load import Loaded, loading, own_source, stored_file
from runback.commands.recorded import (
    STORED_FRAME,
    original_config_of,
    require_fingerprint,
    with_data,
)
from runback.commands.train import run_training
from runback.commands.versions import Differences, differing, versions_of
from runback.config import TrainConfig, own_references
from runback.console.progress import is_quiet, say, tell
from runback.data.table import fingerprint_of
from runback.decoding import decode
from runback.errors import RunbackError, TrackingError, UsageError
from runback.model.spec import SOURCE_FOLDER
from runback.open_run.forking import FORK, Start
from runback.storage.checkpoints import checkpoint_name, manifest_name
from runback.tracking import tags
from runback.tracking.client import CourierClient
from runback.tracking.connection import public_uri
from runback.tracking.points import published_points
from runback.training.optimizers import schedule_args
from runback.training.setup import dtype_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

COMPARED = ("cost", "val_cost", "lr")


@dataclass(frozen=True)
class Difference:
    """The first point at which two runs differ.

    Attributes:
        run: the value of the run; None if it has no such point.
        again: the value of its reproduction, likewise.
    """

    metric: str
    epoch: int
    run: float | None
    again: float | None


@dataclass(frozen=True)
class ReproductionResult:
    """A run compared with its reproduction.

    Attributes:
        reproduction: the new run's ID.
        equal: whether all points and all weights are equal.
        points: number of compared points.
        first_difference: the first epoch and the values at which the two part; None if all points are
            equal.
        versions: those that differ, of the run and of its reproduction, and likewise the machine and
            the git commit.
        checkout: the commit whose code was used; empty for the code that is there.
    """

    run_id: str
    reproduction: str
    equal: bool
    points: int
    weights_equal: bool
    first_difference: Difference | None
    versions: Differences = field(default_factory=dict)
    checkout: str = ""

    def as_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return dataclasses.asdict(self)


def reproduce(run: str, trust: bool = False, checkout: bool = False) -> ReproductionResult:
    """Trains a new run from RUN's recorded configuration and code, and compares the two.

    The new run is tagged `runback.reproduction_of`; it logs its model, but registers no version.

    Args:
        run: RUN in any of its forms; it must be FINISHED.
        trust: as in `load_model`; with `checkout` also for the commit and the changes.
        checkout: train in another process, in a git worktree of the recorded commit with the recorded
            uncommitted changes. The working directory must be in the repository. A commit outside
            the history of HEAD and changes that are not known on this machine need `trust`.

    Raises:
        UsageError: the run is not FINISHED, or there is no such commit here.
        DataError: the run's table has changed.
        TrackingError: the server is unreachable, or the new run was not delivered completely.
        RunNotFoundError, TrustError, ModelError, CheckpointError: as in `load_model`.
        DivergedError, Interrupted: as in `train`.
    """
    with loading(run, trust=trust) as loaded:
        if loaded.record.status != "FINISHED":
            raise UsageError(
                f"run {loaded.record.run_id} is {loaded.record.status}; only a FINISHED run can be "
                "reproduced"
            )
        result = _in_checkout(loaded, trust) if checkout else _here(loaded)
        ids = loaded.record.run_id, result.reproduction
        versions = differing([versions_of(loaded.client, run_id) for run_id in ids])
    result = dataclasses.replace(result, versions=versions)
    if not result.equal:
        say(_difference_in_words(result))
    return result


def _here(loaded: Loaded) -> ReproductionResult:
    new_id = _trained_again(loaded)
    with loading(new_id) as again:
        return _comparison(loaded, again)


def _in_checkout(loaded: Loaded, trust: bool) -> ReproductionResult:
    """The result of the same command in a checkout of the recorded commit.

    Raises:
        RunbackError: it has ended without a result; its message is printed, its exit code is that of
            the error.
    """
    run_id = loaded.record.run_id
    with (
        checked_out(loaded.client, run_id, trust) as place,
        tempfile.TemporaryFile("w+", encoding="utf-8") as output,
    ):
        tell(f"training in a worktree of commit {place.commit}")
        environment = place.environment(public_uri(loaded.client.tracking_uri))
        command = [sys.executable, "-m", "runback", "reproduce", run_id]
        command += ["--trust"] * trust + ["--quiet"] * is_quiet()
        code = run_to_end(command, place.folder, environment, output.fileno())
        output.seek(0)
        found = _parsed(output.read())
    if found is None:
        error = RunbackError(
            f"the reproduction in commit {place.commit} has ended with exit code {code}; see above"
        )
        error.exit_code = max(code, 1)  # negative: it was killed
        raise error
    return dataclasses.replace(found, checkout=place.commit)


def _parsed(text: str) -> ReproductionResult | None:
    """The result that a process has printed; None if there is none."""
    try:
        found: Any = decode(json.loads, text)
        first = found["first_difference"]
        return ReproductionResult(
            run_id=str(found["run_id"]),
            reproduction=str(found["reproduction"]),
            equal=bool(found["equal"]),
            points=int(found["points"]),
            weights_equal=bool(found["weights_equal"]),
            first_difference=None if first is None else Difference(**first),
        )
    except (ValueError, TypeError, KeyError):
        return None


def _difference_in_words(result: ReproductionResult) -> str:
    first, pairs = result.first_difference, result.versions.items()
    where = "all points are equal, but not the weights"
    if first is not None:
        where = f"{first.metric} of epoch {first.epoch} was {first.run} and is {first.again}"
    versions = "; ".join(
        f"{name}: {one or 'none'}, now {now or 'none'}" for name, (one, now) in pairs
    )
    return f"not reproduced: {where}; " + (
        f"different {versions}" if versions else "no other version"
    )


def _trained_again(loaded: Loaded) -> str:
    config = with_data(
        _as_trained(loaded), loaded.record.tags, lambda path: stored_file(loaded, path)
    )
    config = dataclasses.replace(config, register="none", key="", name="")
    _require_same_table(config, loaded)
    source, frame = loaded.folder / SOURCE_FOLDER, None  # never the file that the options name
    if own_references(config):
        source = own_source(loaded)
    if loaded.record.tags.data_path == STORED_FRAME:
        frame, config = Path(config.data), dataclasses.replace(config, data=STORED_FRAME)
    with CourierClient() as courier:
        outcome = run_training(config, courier, source, frame, None, _point(loaded))
    if not outcome.delivered:
        raise TrackingError(
            f"run {outcome.run_id} is trained, but not completely delivered to the tracking "
            f"server; deliver the rest with: runback sync {outcome.run_id}"
        )
    loaded.client.set_tag(outcome.run_id, tags.REPRODUCTION_OF, loaded.record.run_id)
    return outcome.run_id


def _point(loaded: Loaded) -> ForkPoint | None:
    """The checkpoint with which a fork begins; None for other runs.

    Raises:
        TrackingError: it is not among the run's artifacts.
    """
    fork = loaded.record.tags.fork
    if fork is None:
        return None
    name = f"{FORK}/{manifest_name(checkpoint_name(fork.epoch))}"
    start = Start(fork.run_id, fork.epoch, stored_file(loaded, name).parent)
    return ForkPoint(start, fork.kept, fork.changed)


def _as_trained(loaded: Loaded) -> TrainConfig:
    """The configuration that trains the run and its resumes in one go.

    Schedules are those of the original configuration. If a resume changed the patience, the number
    of trained epochs replaces it.
    """
    config, began_with = loaded.config, original_config_of(loaded.record)
    if config.scheduler != "none":
        config = dataclasses.replace(config, scheduler_args=schedule_args(began_with))
    if config.patience != began_with.patience:
        reached = max(epoch for epoch, _ in _points(loaded.client, loaded.record.run_id))
        config = dataclasses.replace(config, patience=0, epochs=reached)
    return config


def _require_same_table(config: TrainConfig, loaded: Loaded) -> None:
    found = fingerprint_of(config.data, dtype_of(config.precision), config.data_args)
    require_fingerprint(found, loaded.record, config.data)


def _comparison(one: Loaded, other: Loaded) -> ReproductionResult:
    points = _points(one.client, one.record.run_id), _points(other.client, other.record.run_id)
    keys = sorted(points[0].keys() | points[1].keys())
    first = next((p for p in keys if not _same(points[0].get(p), points[1].get(p))), None)
    weights_equal = weights_digest(one.module) == weights_digest(other.module)
    return ReproductionResult(
        run_id=one.record.run_id,
        reproduction=other.record.run_id,
        equal=first is None and weights_equal,
        points=len(keys),
        weights_equal=weights_equal,
        first_difference=None if first is None else _difference(first, *points),
    )


Points = dict[tuple[int, str], float]


def _points(client: MlflowClient, run_id: str) -> Points:
    """All compared points of a run by (epoch, metric)."""
    history = published_points(client, run_id)
    return {(p.step, p.key): p.value for p in history if p.key in COMPARED}


def _same(one: float | None, other: float | None) -> bool:
    both_nan = one is not None and other is not None and one != one and other != other
    return both_nan or one == other


def _difference(key: tuple[int, str], one: Points, other: Points) -> Difference:
    epoch, metric = key
    return Difference(metric, epoch, one.get(key), other.get(key))


def weights_digest(module: nn.Module) -> str:
    """SHA-256 over the names, dtypes, shapes and bytes of a module's weights and buffers."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(
            value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()
