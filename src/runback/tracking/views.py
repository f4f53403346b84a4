"""What MLflow's UI shows of an experiment: a saved view of ours, and a note.

A saved view is a tag of the experiment in a form of MLflow's own (measured with 3.17 and 3.18). It has
a fixed ID, so that it is written again, not twice; views and notes of users are left alone.
"""

from __future__ import annotations

import base64
import json
import time
import zlib
from collections.abc import Sequence
from typing import Any

from mlflow import MlflowClient

from runback.decoding import decode
from runback.tracking import tags
from runback.tracking.notes import note_tags, signed

NAME = "runback"
NOTE = (
    "Runs of PyTorch modules, trained with runback. The view `runback` (menu *Views*) has the costs "
    "over the epochs on a logarithmic scale, the lowest validation costs and the test scores. Each run "
    "has a description with the commands that evaluate, resume and reproduce it. On a terminal: "
    "`runback runs`, `runback show RUN`, `runback ui RUN`."
)
COSTS = ("cost", "val_cost")
PARAMS = ("model", "lr", "data")
BEST = "best_val_cost"
WITHOUT_CHART = ("val_cost", "best_epoch", "lr")  # else MLflow appends a chart of each
RUNS_READ = 20
MOST_SCORES = 8
_SECTIONS = ("runback-costs", "runback-scores")


def write_view(client: MlflowClient, experiment_id: str) -> None:
    """Writes our view and note of an experiment, unless they are there already.

    Raises:
        MlflowException: the server is unreachable or refuses.
    """
    stored = client.get_experiment(experiment_id).tags
    state = _packed(_state(_scores(client, experiment_id)))
    if _stored_state(stored.get(tags.VIEW, "")) != state:
        value = {"name": NAME, "createdAt": time.time_ns() // 1_000_000, "state": state}
        client.set_experiment_tag(experiment_id, tags.VIEW, json.dumps(value))
    if stored.get(tags.NOTE) != signed(NOTE):
        for key, text in note_tags(stored, NOTE).items():
            client.set_experiment_tag(experiment_id, key, text)


def _scores(client: MlflowClient, experiment_id: str) -> list[str]:
    """The test scores of the newest runs, by name."""
    runs = client.search_runs(
        [experiment_id],
        filter_string=f"tags.`{tags.VERSION}` != ''",
        max_results=RUNS_READ,
        order_by=["attributes.start_time DESC"],
    )
    names = {name for run in runs for name in run.data.metrics if name.startswith("test_")}
    return sorted(names)[:MOST_SCORES]


def _state(scores: Sequence[str]) -> dict[str, Any]:
    """The state of MLflow's page with the runs of an experiment."""
    metrics = ["val_cost", BEST, "best_epoch", *scores]
    columns = ["attributes.`Description`", *(f"metrics.`{name}`" for name in metrics)]
    return {
        "searchFilter": "",
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": [*columns, *(f"params.`{name}`" for name in PARAMS)],
        "columnOrder": [],
        "columnWidths": {},
        "runsHiddenMode": "FIRST_20_RUNS",
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": True,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "compareRunSections": [
            _section(_SECTIONS[0], "Costs", columns=2, height=400),
            _section(_SECTIONS[1], "Scores", columns=3, height=300),
        ],
        "compareRunCharts": [
            _lines(COSTS),
            _differences(),
            *(_chart("BAR", name, _SECTIONS[1]) for name in (BEST, *scores)),
            *(_chart("BAR", name, _SECTIONS[1], deleted=True) for name in WITHOUT_CHART),
        ],
        "globalLineChartConfig": {
            "xAxisKey": "step",
            "lineSmoothness": 0,
            "selectedXAxisMetricKey": "",
        },
    }


def _section(name: str, title: str, *, columns: int, height: int) -> dict[str, Any]:
    """A group of charts: `columns` in a row, each `height` pixels high."""
    flags = {"display": True, "isReordered": True, "deleted": False, "isGenerated": False}
    return {"uuid": name, "name": title, "columns": columns, "cardHeight": height, **flags}


def _chart(kind: str, metric: str, section: str, deleted: bool = False) -> dict[str, Any]:
    return {
        "uuid": f"runback-{metric}",
        "type": kind,
        "metricSectionId": section,
        "runsCountToCompare": RUNS_READ,
        "deleted": deleted,
        "isGenerated": False,
        "metricKey": metric,
    }


def _differences() -> dict[str, Any]:
    """A table with a column for each run: its metrics and parameters."""
    chart = _chart("DIFFERENCE", "", _SECTIONS[0])
    return {
        **chart,
        "uuid": "runback-differences",
        "chartName": "Metrics and parameters",
        "compareGroups": ["Model metrics", "Parameters"],
        "showChangeFromBaseline": False,
        "showDifferencesOnly": False,
        "baselineColumnUuid": "",
    }


def _lines(metrics: Sequence[str]) -> dict[str, Any]:
    """Metrics over the epochs, on a logarithmic scale."""
    return {
        **_chart("LINE", metrics[0], _SECTIONS[0]),
        "selectedMetricKeys": list(metrics),
        "lineSmoothness": 0,
        "scaleType": "log",
        "xAxisKey": "step",
        "xAxisScaleType": "linear",
        "selectedXAxisMetricKey": "",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "range": {},
        "ignoreOutliers": False,
        "useGlobalXaxisKey": False,
        "useGlobalLineSmoothing": True,
    }


def _packed(state: dict[str, Any]) -> str:
    """A state as MLflow stores it."""
    packed = zlib.compress(json.dumps(state).encode())
    return f"deflate;{base64.b64encode(packed).decode()}"


def _stored_state(text: str) -> str:
    """The state in a tag; empty if there is none, or the tag is damaged."""
    try:
        value = decode(json.loads, text or "{}")
    except ValueError:
        return ""
    return str(value.get("state", "")) if isinstance(value, dict) else ""
