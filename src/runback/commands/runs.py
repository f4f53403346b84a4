"""`runback runs`: the newest runs, with their scores and where their models are registered."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from runback.console.text import aligned, number, plain
from runback.errors import UsageError
from runback.tracking.connection import connect
from runback.tracking.list_runs import experiment_ids, listed, registered_as

if TYPE_CHECKING:
    from mlflow.entities import Run

SHORT_ID = 8
MOST_SCORES = 4
UNITS = (("d", 86_400), ("h", 3600), ("min", 60))


@dataclass(frozen=True)
class RunSummary:
    """A run in a list.

    Attributes:
        name: as in MLflow's UI.
        started_ms: in milliseconds since the Unix epoch.
        epochs: completed, None before the first.
        best_val_cost: None without validation rows, and before the end.
        scores: of the test rows, by metric.
        registered_as: "NAME/VERSION", empty if there is none.
        aliases: of that version, such as champion.
    """

    run_id: str
    name: str
    status: str
    started_ms: int
    epochs: int | None
    best_val_cost: float | None
    scores: dict[str, float]
    registered_as: str
    aliases: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self)


def runs(
    experiment: str = "", sort: str = "", last: int = 20, filter: str = ""
) -> list[RunSummary]:
    """The newest runs that runback has trained.

    Args:
        experiment: a name or an ID; empty for all.
        sort: a metric, ascending, instead of the newest first; with "-" in front, descending.
        last: the largest number of runs.
        filter: of MLflow's search, such as "params.model = 'mlp'".

    Raises:
        UsageError: no such experiment, or MLflow does not understand the filter.
        TrackingError: the server is unreachable.
    """
    if last < 1:
        raise UsageError(f"--last {last}: give a number of runs, at least 1")
    client = connect()
    ids = experiment_ids(client, experiment)
    found = listed(client, ids, filter, sort, last)
    versions = registered_as(client, [run.info.run_id for run in found])
    return [_summary(run, *versions.get(run.info.run_id, ("", ()))) for run in found]


def as_table(summaries: list[RunSummary]) -> str:
    """The runs as lines of text, one for each."""
    scores = list(dict.fromkeys(name for run in summaries for name in run.scores))[:MOST_SCORES]
    head = ["NAME", "ID", "STATUS", "AGE", "EPOCHS", "BEST_VAL_COST", *scores, "REGISTERED"]
    lines = [head, *(_cells(run, scores) for run in summaries)]
    return "\n".join(text.rstrip() for text in aligned(lines))


def _summary(run: Run, version: str, aliases: tuple[str, ...]) -> RunSummary:
    metrics = run.data.metrics
    steps = [m.step for m in run.data._metric_objs if m.key == "cost"]
    return RunSummary(
        run_id=run.info.run_id,
        name=run.info.run_name or "",
        status=run.info.status,
        started_ms=run.info.start_time,
        epochs=steps[0] if steps else None,
        best_val_cost=metrics.get("best_val_cost"),
        scores={name: value for name, value in metrics.items() if name.startswith("test_")},
        registered_as=version,
        aliases=aliases,
    )


def _cells(run: RunSummary, scores: list[str]) -> list[str]:
    numbers = map(number, [run.best_val_cost, *(run.scores.get(name) for name in scores)])
    epochs = "" if run.epochs is None else str(run.epochs)
    registered = run.registered_as + "".join(f" @{alias}" for alias in run.aliases)
    since = age(time.time() - run.started_ms / 1000)
    return [plain(run.name), run.run_id[:SHORT_ID], run.status, since, epochs, *numbers, registered]


def age(seconds: float) -> str:
    """A duration in its largest unit."""
    for unit, length in UNITS:
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{max(0, int(seconds))} s"
