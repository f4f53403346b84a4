"""MLflow's own functions inside the block of a run: `mlflow.log_metric` goes to the same run.

MLflow keeps the active runs of a thread in a stack, from which `mlflow.active_run` and `mlflow.log_*`
take the last. Its public functions change it only together with the run's status, by a request:
`start_run` would set a run to RUNNING that is only held yet, and `end_run` one to FINISHED that has
failed, and wait for a server that is away. So the run is put on the stack and taken off here. If MLflow
is not imported by then, nothing is.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from runback.console.progress import say
from runback.errors import first_line


@contextmanager
def active_in_mlflow(run_id: str) -> Iterator[None]:
    """Makes a run the active one of MLflow in this thread, if the user has imported MLflow."""
    stack = _stack()
    active = None if stack is None else _active(run_id)
    if stack is None or active is None:
        yield
        return
    stack.append(active)
    try:
        yield
    finally:  # the user may have ended it, or begun others
        stack[:] = [run for run in stack if run is not active]


def _stack() -> list[Any] | None:
    """The active runs of this thread; None if MLflow is not imported, or keeps them elsewhere."""
    fluent = sys.modules.get("mlflow.tracking.fluent")
    stack = getattr(fluent, "_active_run_stack", None)
    if fluent is not None and not hasattr(stack, "get"):
        say("warning: mlflow.log_* do not go to the run: this version of MLflow is not known")
    found = stack.get() if stack is not None and hasattr(stack, "get") else None
    return found if isinstance(found, list) else None


def _active(run_id: str) -> Any:
    """MLflow's object of the run; None if the user's code has another store."""
    mlflow: Any = sys.modules["mlflow"]
    try:
        return mlflow.ActiveRun(mlflow.MlflowClient().get_run(run_id))
    except Exception as error:  # of MLflow, or of the network
        say(
            f"warning: mlflow.log_* do not go to run {run_id}: {mlflow.get_tracking_uri()} does not "
            f"give it ({first_line(error)})"
        )
        return None
