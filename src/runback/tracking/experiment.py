"""The experiment of new runs."""

from __future__ import annotations

import os
from collections.abc import Callable

from mlflow import MlflowClient
from mlflow.entities import Experiment
from mlflow.exceptions import MlflowException

from runback.errors import TrackingError, UsageError
from runback.limits import experiment_name_problem
from runback.tracking.connection import describe_error, is_permanent, repeated


def experiment_of(client: MlflowClient, name: str = "", given_id: str = "") -> str:
    """The ID of an experiment by its name or, as in MLflow, from the environment.

    The given ID, else the given name (created if missing), else MLFLOW_EXPERIMENT_ID, else
    MLFLOW_EXPERIMENT_NAME (created if missing), else the default.

    Raises:
        UsageError: the experiment does not exist or is deleted.
        TrackingError: the server is unreachable or refuses.
    """
    by_id, by_name = (os.environ.get(f"MLFLOW_EXPERIMENT_{what}") for what in ("ID", "NAME"))
    if given_id:
        return _usable("experiment", given_id, lambda: client.get_experiment(given_id))
    if name:
        return _usable("experiment", name, lambda: _by_name(client, "experiment", name))
    if by_id:
        return _usable("MLFLOW_EXPERIMENT_ID", by_id, lambda: client.get_experiment(by_id))
    if by_name:
        what = "MLFLOW_EXPERIMENT_NAME"
        return _usable(what, by_name, lambda: _by_name(client, what, by_name))
    return "0"


def _usable(what: str, value: str, find: Callable[[], Experiment]) -> str:
    """The ID of an experiment; `what` names where its name or ID comes from."""
    try:
        experiment = repeated(find)
    except MlflowException as error:
        kind = UsageError if is_permanent(error) else TrackingError
        raise kind(f"{what} {value!r}: {describe_error(error)}") from error
    if experiment.lifecycle_stage != "active":
        raise UsageError(f"{what} {value!r}: the experiment has been deleted")
    return str(experiment.experiment_id)


def _by_name(client: MlflowClient, what: str, name: str) -> Experiment:
    """An experiment, created if missing; `mlflow.set_experiment` would change global state."""
    problem = experiment_name_problem(name)
    if problem:
        raise UsageError(f"{what} {name[:80]!a}: the name {problem}")
    experiment = client.get_experiment_by_name(name)
    if experiment is not None:
        return experiment
    try:
        return client.get_experiment(client.create_experiment(name))
    except MlflowException:  # created by another process meanwhile
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            raise
        return experiment
