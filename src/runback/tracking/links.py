"""Links to MLflow's UI. Imports no mlflow.

MLflow opens in a view of its own, the browser's last one. A link says which: that for models, with
the saved view that `views` writes.
"""

from __future__ import annotations

from urllib.parse import quote, urlsplit

VIEW = "runback"  # the ID of the saved view
_MODELS = "workflowType=machine_learning"


def experiment_link(server: str, experiment_id: str) -> str:
    """The runs of an experiment in our view: its table, and the charts beside it."""
    view = f"viewStateShareKey={VIEW}&compareRunsMode=CHART"
    return f"{_base(server)}/#/experiments/{quote(experiment_id)}/runs?{_MODELS}&{view}"


def run_link(server: str, experiment_id: str, run_id: str) -> str:
    """The page of a run."""
    return f"{_base(server)}/#/experiments/{quote(experiment_id)}/runs/{quote(run_id)}?{_MODELS}"


def is_server(uri: str) -> bool:
    """Whether a tracking URI is that of a server with a UI."""
    return urlsplit(uri).scheme in ("http", "https")


def is_store(uri: str) -> bool:
    """Whether a tracking URI is a database or a folder, of which `runback ui` can serve the UI."""
    return not is_server(uri) and not uri.startswith(("databricks", "uc:"))


def seen(uri: str, experiment_id: str, run_id: str) -> str:
    """Where a run can be seen, as the end of a sentence; empty if no UI is known.

    Args:
        uri: of the tracking server, without passwords.
        experiment_id: of the run; empty if it is not known.
        run_id: of the run.
    """
    if is_server(uri) and experiment_id:
        return f"at {experiment_link(uri, experiment_id)}"
    return f"with: runback ui {run_id}" if is_server(uri) or is_store(uri) else ""


def _base(server: str) -> str:
    return server.rstrip("/")
