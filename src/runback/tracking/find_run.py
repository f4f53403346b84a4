"""Resolves RUN to a run on the tracking server, and reads it as a `RunRecord`."""

from __future__ import annotations

from functools import partial

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from runback.errors import RunNotFoundError, TrackingError
from runback.tracking import tags
from runback.tracking.connection import describe_error, is_permanent, repeated, request
from runback.tracking.experiment import experiment_of
from runback.tracking.record import RunRecord, Tags
from runback.tracking.redaction import printable
from runback.tracking.run_forms import MODEL_URI, require_form, run_id_in

PAGE = 1000


def find_run(client: MlflowClient, name: str) -> RunRecord:
    """Resolves an ID, a prefix of one or a name that is unique, latest, runs:/ID or a models:/ URI.

    Raises:
        RunNotFoundError: no run matches, or more than one.
        TrackingError: the server is unreachable.
    """
    require_form(name)
    if name.startswith("models:/"):
        return _run_of_version(client, name)
    if name == "latest":
        return record_of(_latest(client))
    return record_of(_by_id(client, run_id_in(name)))


def find_key(client: MlflowClient, key: str, experiment: str = "", given_id: str = "") -> str:
    """The ID of the newest unfinished run with a key in an experiment (`experiment_of`), or "".

    Raises:
        TrackingError: the server is unreachable.
    """
    experiment_id = experiment_of(client, experiment, given_id)
    query = f"tags.`{tags.KEY}` = '{key}' and attributes.status != 'FINISHED'"
    newest = ["attributes.start_time DESC"]
    search = partial(client.search_runs, [experiment_id], query, max_results=1, order_by=newest)
    return next((str(run.info.run_id) for run in request("the search for runs", search)), "")


def record_of(run: Run, model_id: str = "", version: str = "") -> RunRecord:
    """Converts an MLflow run to a record.

    Raises:
        TrackingError: one of its tags is damaged.
    """
    try:
        parsed = Tags.parse(run.data.tags)
    except TrackingError as error:
        raise TrackingError(f"run {run.info.run_id}: {error}") from None
    return RunRecord(
        run_id=run.info.run_id,
        status=run.info.status,
        is_active=run.info.lifecycle_stage == "active",
        tags=parsed,
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
        last_points={m.key: (m.step, m.timestamp) for m in run.data._metric_objs},
        artifact_uri=str(run.info.artifact_uri),
        experiment_id=str(run.info.experiment_id),
        model_id=model_id,
        version=version,
    )


def _run_of_version(client: MlflowClient, name: str) -> RunRecord:
    parts = MODEL_URI.fullmatch(name)
    assert parts is not None  # `require_form`
    model, number, alias = parts.groups()
    try:
        if alias:
            version = repeated(lambda: client.get_model_version_by_alias(model, alias))
        else:
            version = repeated(lambda: client.get_model_version(model, number))
        model_id = _model_behind(client, version)
    except MlflowException as error:
        raise _not_found(name, error) from error
    if not version.run_id:
        raise RunNotFoundError(f"{name}: the version has no run")
    return record_of(_by_id(client, version.run_id), model_id, f"{version.name}/{version.version}")


def _model_behind(client: MlflowClient, version: ModelVersion) -> str:
    """The ID of a version's logged model; copies of versions are followed."""
    name, _, number = str(version.source).removeprefix("models:/").rpartition("/")
    if not name:
        return number
    return _model_behind(client, repeated(lambda: client.get_model_version(name, number)))


def _by_id(client: MlflowClient, text: str) -> Run:
    try:
        return repeated(lambda: client.get_run(text))
    except MlflowException as error:
        if not is_permanent(error):
            raise _not_found(text, error) from error
    return _by_prefix(client, text)


def _by_prefix(client: MlflowClient, text: str) -> Run:
    """The one run whose ID begins with a text, else the one that is called so."""
    runs, what = _runback_runs(client), "begin with"
    matches = [run for run in runs if run.info.run_id.startswith(text)]
    if not matches:
        matches = [run for run in runs if run.info.run_name == text]
        what = "are called"
    if not matches:
        raise RunNotFoundError(f"no run {text!r} on {printable(mlflow.get_tracking_uri())}")
    if len(matches) > 1:
        ids = ", ".join(run.info.run_id for run in matches[:4])
        raise RunNotFoundError(f"{len(matches)} runs {what} {text!r}: {ids}; give more of the ID")
    return matches[0]


def _latest(client: MlflowClient) -> Run:
    runs = _runback_runs(client, most=1)
    if not runs:
        raise RunNotFoundError(f"no run of runback on {printable(mlflow.get_tracking_uri())}")
    return runs[0]


def _runback_runs(client: MlflowClient, most: int | None = None) -> list[Run]:
    """The runs trained by runback in all experiments, newest first."""
    experiments = [e.experiment_id for e in request("experiments", client.search_experiments)]
    runs: list[Run] = []
    token = None
    while True:
        search = partial(
            client.search_runs,
            experiments,
            filter_string=f"tags.`{tags.VERSION}` != ''",
            max_results=most or PAGE,
            order_by=["attributes.start_time DESC"],
            page_token=token,
        )
        page = request("the search for runs", search)
        runs.extend(page)
        token = page.token
        if not token or (most and len(runs) >= most):
            return runs


def _not_found(name: str, error: MlflowException) -> Exception:
    if is_permanent(error):
        return RunNotFoundError(f"{name}: {describe_error(error)}")
    return TrackingError(f"{name}: {describe_error(error)}")
