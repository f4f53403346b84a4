"""`runback compare`: what differs between runs, and whether one is better."""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runback.commands.recorded import config_of
from runback.commands.show import RunDetails, details_of
from runback.commands.versions import COMMIT, Differences, differing, versions_of
from runback.errors import RunbackError, TrackingError, UsageError
from runback.storage.atomic import sha256_of
from runback.tracking import artifacts
from runback.tracking.connection import connect
from runback.tracking.find_run import find_run
from runback.tracking.record import RunRecord

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from runback.commands.rank import Ranking

DIGITS = 12  # shown of a digest
# They name a run or its data, which is compared by its content.
NOT_COMPARED = ("name", "data")


@dataclass(frozen=True)
class Comparison:
    """Runs beside each other.

    Attributes:
        runs: as `show` gives them.
        options: those that differ, with the value of each run; likewise the following three.
        data: the table, its content, and the test rows.
        code: the commit, the uncommitted changes, and the code of an own module.
        versions: of Python, the libraries, and the machine.
        ranking: on the same rows, the best first; None if the runs cannot be ranked.
        not_ranked: why; empty if they are ranked.
    """

    runs: tuple[RunDetails, ...]
    options: Differences
    data: Differences
    code: Differences
    versions: Differences
    ranking: Ranking | None
    not_ranked: str

    def as_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self)


def compare(*runs: str, data: str | None = None, trust: bool = False) -> Comparison:
    """Compares runs, also of different experiments, and those that have failed or are in training.

    They are ranked by the primary metric of their task if they have the same test rows, or on a
    table. The difference of each model from the best one has an interval by a paired bootstrap over
    the rows: if it includes 0, the rows do not tell which model is better.

    Args:
        runs: two or more, each RUN in any of its forms.
        data: a table on which the models are ranked; none of them should be trained on it.
        trust: as in `load_model`.

    Raises:
        UsageError: fewer than two runs, or `data` is given and the models cannot be ranked on it.
        RunNotFoundError, TrackingError: as in `show`.
        DataError, TrustError, ModelError, CheckpointError: `data` is given, and the table does not
            fit, or a model cannot be loaded.
    """
    if len(runs) < 2:
        raise UsageError("give two runs or more to compare")
    client = connect()
    records = list({r.run_id: r for r in (find_run(client, run) for run in runs)}.values())
    if len(records) < 2:
        raise UsageError(f"all of the given runs are {records[0].run_id}; give another one")
    details = [details_of(client, record) for record in records]
    rows = [_test_rows(client, record) for record in records]
    ranking, reason = _ranked(details, rows, data, trust)
    return Comparison(
        runs=tuple(details),
        options=differing([_options(record) for record in records]),
        data=differing([_data(*found) for found in zip(records, details, rows, strict=True)]),
        **_environments(client, records),
        ranking=ranking,
        not_ranked=reason,
    )


def _ranked(
    details: Sequence[RunDetails], rows: Sequence[str], data: str | None, trust: bool
) -> tuple[Ranking | None, str]:
    """The ranking, or the reason why there is none.

    Raises:
        RunbackError: `data` is given, and the models cannot be ranked on it.
    """
    run_ids = [run.run_id for run in details]
    if data is None:
        scored = [i for i, run in enumerate(details) if run.scores and rows[i]]
        if len(scored) < 2:
            return None, "fewer than two of the runs have scores of test rows"
        if len({rows[i] for i in scored}) > 1:
            return None, (
                "the test rows of the runs differ, and so their scores cannot be compared; rank the "
                "models with --data FILE, on a table that none of them was trained on"
            )
        run_ids = [run_ids[i] for i in scored]
    from runback.commands.rank import rank  # imports torch

    try:
        return rank(run_ids, data, trust), ""
    except RunbackError as error:
        if data is not None:
            raise
        return None, str(error)


def _options(record: RunRecord) -> dict[str, str]:
    """The options, however they were given; all params of a run of other programs."""
    found = record.params if record.tags.options is None else config_of(record).as_params()
    return {name: text for name, text in found.items() if name not in NOT_COMPARED}


def _data(record: RunRecord, details: RunDetails, test_rows: str) -> dict[str, str]:
    return {
        "table": record.tags.data_path,
        "content": record.tags.data_fingerprint[:DIGITS],
        "rows": ", ".join(f"{number} {part}" for part, number in details.rows.items()),
        "test rows": test_rows[:DIGITS],
    }


def _test_rows(client: MlflowClient, record: RunRecord) -> str:
    """A digest of the table and the numbers of its test rows; empty if there are none."""
    try:
        split = artifacts.read_json(client, record.run_id, "split.json")
        rows = split["sha256"] if split["test"] is None else split["test"]
    except (TrackingError, TypeError, KeyError):
        return ""
    text = json.dumps([record.tags.data_fingerprint, rows])
    return hashlib.sha256(text.encode()).hexdigest() if rows else ""


def _environments(client: MlflowClient, records: Sequence[RunRecord]) -> dict[str, Differences]:
    versions = [versions_of(client, record.run_id) for record in records]
    code = [
        {
            "commit": found.pop(COMMIT, "")[:DIGITS],
            "uncommitted changes": _digest(client, record.run_id, "environment", ".patch"),
            "module": _digest(client, record.run_id, "source", ".py"),
        }
        for found, record in zip(versions, records, strict=True)
    ]
    return {"code": differing(code), "versions": differing(versions)}


def _digest(client: MlflowClient, run_id: str, folder: str, ending: str) -> str:
    """A digest of the artifacts in a folder with an ending; empty if there are none."""
    with (
        contextlib.suppress(TrackingError),
        tempfile.TemporaryDirectory(prefix="runback-") as place,
    ):
        if not artifacts.list_names(client, run_id, folder):
            return ""
        local = artifacts.download(client, run_id, folder, Path(place))
        files = sorted(file for file in local.rglob(f"*{ending}") if file.is_file())
        text = json.dumps([[str(file.relative_to(local)), sha256_of(file)] for file in files])
        return hashlib.sha256(text.encode()).hexdigest()[:DIGITS] if files else ""
    return ""
