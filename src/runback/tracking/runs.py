"""Runs in MLflow: describing one, finding one by any of its names, reading back what it knows."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from runback import __version__
from runback.config import FIELDS, TrainConfig, parse
from runback.errors import ConfigError, RunNotFoundError, TrackingError, UsageError
from runback.storage import lease
from runback.tracking.connection import asked, describe_error, is_permanent, without_secrets

TAG_CONFIG = "runback.config"
TAG_FINGERPRINT = "runback.data_fingerprint"
TAG_DATA_PATH = "runback.data_path"
TAG_VERSION = "runback.version"
TAG_CHANGED = "runback.changed."
PREFIX_LENGTH = 4
FORMS = (
    f"RUN is a run ID, a unique prefix of one ({PREFIX_LENGTH} characters or more), latest, "
    "runs:/ID, models:/NAME/VERSION or models:/NAME@ALIAS"
)
PAGE = 1000


@dataclass(frozen=True)
class DataFacts:
    """What MLflow shows of the table behind a run; row counts by part."""

    name: str
    path: str
    fingerprint: str
    features: tuple[str, ...]
    targets: tuple[str, ...]
    split_digest: str
    rows: dict[str, int]


@dataclass(frozen=True)
class RunInfo:
    """A run as the server knows it.

    Attributes:
        run_id: the full ID.
        status: RUNNING, FINISHED, FAILED or KILLED.
        tags: all of them.
        active: whether it has not been deleted.
        model_id: the logged model that RUN named, where it named one (models:/...).
        version: the registered version that RUN named, as "NAME/NUMBER", likewise.
    """

    run_id: str
    status: str
    tags: dict[str, str]
    model_id: str = ""
    version: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    active: bool = True

    @property
    def config(self) -> TrainConfig:
        """The run's configuration, with what a resume has changed since.

        Raises:
            RunNotFoundError: not a runback run.
        """
        if TAG_CONFIG not in self.tags:
            raise RunNotFoundError(
                f"run {self.run_id} was not trained by runback (tag {TAG_CONFIG})"
            )
        values = json.loads(self.tags[TAG_CONFIG])
        changed = {
            k.removeprefix(TAG_CHANGED): v
            for k, v in self.tags.items()
            if k.startswith(TAG_CHANGED)
        }
        return TrainConfig.from_mapping({**values, **changed})

    @property
    def began_with(self) -> TrainConfig:
        """The configuration before any resume; schedules take their shape from its epochs."""
        return TrainConfig.from_json(self.tags[TAG_CONFIG])

    def as_json(self) -> dict[str, Any]:
        """For the pipe between the courier and the training process."""
        return asdict(self)


def check_adoptable(client: MlflowClient, config: TrainConfig, run_id: str) -> None:
    """Whether the run that `mlflow run` made can become the one of this training.

    Raises:
        UsageError: it has been trained already, it has ended, or its params contradict.
        TrackingError: the server refuses.
    """
    run = asked(f"run {run_id}", lambda: client.get_run(run_id))
    _missing_params(run, config)
    if not awaits_training(run):
        raise UsageError(
            f"MLFLOW_RUN_ID {run_id}: the run has ended ({run.info.status}) or been deleted; unset "
            "the variable to make a new run"
        )


def describe_run(client: MlflowClient, run_id: str, config: TrainConfig, facts: DataFacts) -> None:
    """Logs the params, tags and datasets of a run that is about to be trained.

    Raises:
        TrackingError: the server is away or refuses.
    """
    asked(f"run {run_id} cannot be described", lambda: _describe(client, run_id, config, facts))


def end_run(client: MlflowClient, run_id: str, status: str, error: str, ended_ms: int) -> None:
    """Sets a run's final status, with the reason as a tag."""
    tags = [RunTag(lease.TAG, "")]
    tags += [RunTag("runback.error", error[:5000])] if error else []
    client.log_batch(run_id, tags=tags)
    client.set_terminated(run_id, status, end_time=ended_ms)


def find_run(client: MlflowClient, name: str) -> RunInfo:
    """Finds RUN: an ID, a unique prefix of one, latest, runs:/ID, models:/NAME/VERSION or @ALIAS.

    Raises:
        RunNotFoundError: none, or more than one.
    """
    if not name:
        raise RunNotFoundError("RUN is empty; give a run ID, a unique prefix of one, or latest")
    if name.startswith("models:/"):
        return _run_of_version(client, name)
    if name == "latest":
        return _info(_latest(client))
    return _info(_by_id(client, name.removeprefix("runs:/").split("/")[0]))


def require_active(info: RunInfo) -> None:
    """Refuses a run that has been deleted: it can still be read, but nothing can be added to it.

    Raises:
        RunNotFoundError: it has been deleted.
    """
    if not info.active:
        raise RunNotFoundError(
            f"run {info.run_id} has been deleted; bring it back with: "
            f"mlflow runs restore --run-id {info.run_id}"
        )


def reopen_run(client: MlflowClient, run_id: str, tags: dict[str, str]) -> None:
    """Sets a run to RUNNING again, with new tags, and without the error it may have ended with."""
    entries = [RunTag(name, value) for name, value in tags.items()]
    asked(f"run {run_id}", lambda: client.log_batch(run_id, tags=entries))
    if "runback.error" in asked(f"run {run_id}", lambda: client.get_run(run_id)).data.tags:
        asked(f"run {run_id}", lambda: client.delete_tag(run_id, "runback.error"))
    asked(f"run {run_id}", lambda: client.update_run(run_id, status="RUNNING"))


def mark_launch(client: MlflowClient, launch_id: str, run_id: str, what: str) -> None:
    """Nests the run that `mlflow run -e WHAT` made for its own launch under the run it speaks of."""
    tags = {
        "mlflow.parentRunId": run_id,
        "mlflow.runName": f"{what} of {run_id[:8]} (launch only)",
        "runback.launch": what,
    }
    client.log_batch(launch_id, tags=[RunTag(key, value) for key, value in tags.items()])


def fail_run(client: MlflowClient, run_id: str, message: str) -> None:
    """Marks a run as FAILED, with the reason."""
    client.set_tag(run_id, "runback.error", message[:5000])
    client.set_terminated(run_id, "FAILED")


def awaits_training(run: Run) -> bool:
    """Whether a run was made for a training that has not begun in it: not ended, and not described."""
    open_yet = run.info.status in ("RUNNING", "SCHEDULED") and run.info.lifecycle_stage == "active"
    return open_yet and TAG_CONFIG not in run.data.tags


def download(client: MlflowClient, run_id: str, path: str, folder: Path) -> Path:
    """Downloads one artifact of a run into `folder`.

    Raises:
        TrackingError: there is none, or the server is away.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return Path(client.download_artifacts(run_id, path, str(folder)))
    except (MlflowException, OSError) as error:
        raise TrackingError(f"run {run_id}: artifact {path!r}: {describe_error(error)}") from error


def list_artifacts(client: MlflowClient, run_id: str, folder: str) -> list[str]:
    """Names of the files in an artifact folder of a run."""
    found = asked(f"run {run_id}", lambda: client.list_artifacts(run_id, folder))
    return [Path(info.path).name for info in found if not info.is_dir]


def read_json_artifact(client: MlflowClient, run_id: str, path: str, folder: Path) -> Any:
    """Downloads and reads a JSON artifact."""
    return json.loads(download(client, run_id, path, folder).read_text(encoding="utf-8"))


def log_scores(client: MlflowClient, run_id: str, found: dict[str, float], step: int) -> None:
    """Logs metrics that the run does not have yet."""
    metrics = [Metric(key, value, now_ms(), step) for key, value in found.items()]
    asked(f"run {run_id}", lambda: client.log_batch(run_id, metrics=metrics))


def _tags(config: TrainConfig, facts: DataFacts) -> dict[str, str]:
    return {
        TAG_CONFIG: config.as_json(),
        TAG_FINGERPRINT: facts.fingerprint,
        TAG_DATA_PATH: facts.path,
        TAG_VERSION: __version__,
        lease.TAG: lease.lease(os.getppid()),
        "runback.python": sys.version.split()[0],
    }


def _missing_params(run: Run, config: TrainConfig) -> dict[str, str]:
    """The params that `mlflow run` has not logged yet; refuses those that mean something else."""
    if TAG_CONFIG in run.data.tags:
        run_id = run.info.run_id
        raise UsageError(f"run {run_id} has been trained; go on with: runback resume {run_id}")
    missing = {}
    for name, text in config.as_params().items():
        logged = run.data.params.get(name)
        if logged is None:
            missing[name] = text
        elif not _same(name, logged, getattr(config, name)):
            raise UsageError(f"run {run.info.run_id} has param {name} = {logged}, not {text}")
    return missing


def _same(name: str, logged: str, value: Any) -> bool:
    """Whether a param as `mlflow run` logged it, quoted for the shell, means the same value."""
    if name not in FIELDS:
        return True
    try:
        words = shlex.split(logged)
        return bool(parse(name, words[0] if words else "") == value)
    except (ConfigError, ValueError):
        return False


def _describe(client: MlflowClient, run_id: str, config: TrainConfig, facts: DataFacts) -> None:
    params = _missing_params(client.get_run(run_id), config)
    client.log_batch(
        run_id,
        params=[Param(key, value) for key, value in params.items()],
        tags=[RunTag(key, value) for key, value in _tags(config, facts).items()],
    )
    client.log_inputs(run_id, datasets=_dataset_inputs(facts))
    client.update_run(run_id, status="RUNNING")


def _dataset_inputs(facts: DataFacts) -> list[DatasetInput]:
    """One dataset for each part, since MLflow keeps one context for each (name, digest)."""
    names = (*facts.features, *facts.targets)
    schema = {"mlflow_colspec": [{"type": "double", "name": n, "required": True} for n in names]}
    shown = json.dumps(schema) if len(json.dumps(schema)) < 60_000 else None
    inputs = []
    for part, n_rows in facts.rows.items():
        if not n_rows:
            continue
        identity = f"{facts.fingerprint}{facts.split_digest}{part}".encode()
        dataset = Dataset(
            name=facts.name,
            digest=hashlib.sha256(identity).hexdigest()[:16],
            source_type="local",
            source=json.dumps({"uri": facts.path, "sha256": facts.fingerprint}),
            schema=shown,
            profile=json.dumps({"num_rows": n_rows, "num_columns": len(names)}),
        )
        inputs.append(DatasetInput(dataset, [InputTag("mlflow.data.context", part)]))
    return inputs


def _info(run: Run, model_id: str = "", version: str = "") -> RunInfo:
    return RunInfo(
        run_id=run.info.run_id,
        status=run.info.status,
        tags=dict(run.data.tags),
        model_id=model_id,
        version=version,
        metrics=dict(run.data.metrics),
        active=run.info.lifecycle_stage == "active",
    )


def _run_of_version(client: MlflowClient, name: str) -> RunInfo:
    parts = re.fullmatch(r"models:/([^/]+)(?:/([0-9]+)|@([^/@]+))", name)
    if parts is None:
        raise RunNotFoundError(f"no run {name!r}; {FORMS}")
    model, number, alias = parts.groups()
    try:
        if alias:
            version = client.get_model_version_by_alias(model, alias)
        else:
            version = client.get_model_version(model, number)
        model_id = _model_behind(client, version)
    except MlflowException as error:
        raise _not_found(name, error) from error
    if not version.run_id:
        raise RunNotFoundError(f"{name}: the version was not made by a run")
    return _info(_by_id(client, version.run_id), model_id, f"{version.name}/{version.version}")


def _model_behind(client: MlflowClient, version: ModelVersion) -> str:
    """The ID of a version's logged model, also where the version is a copy of another."""
    name, _, number = str(version.source).removeprefix("models:/").rpartition("/")
    return _model_behind(client, client.get_model_version(name, number)) if name else number


def _by_id(client: MlflowClient, text: str) -> Run:
    try:
        return client.get_run(text)
    except MlflowException as error:
        if not is_permanent(error):
            raise _not_found(text, error) from error
    return _by_prefix(client, text)


def _by_prefix(client: MlflowClient, text: str) -> Run:
    if len(text) < PREFIX_LENGTH or not text.isalnum():
        raise RunNotFoundError(f"no run {text!r}; {FORMS}")
    found = [run for run in _runback_runs(client) if run.info.run_id.startswith(text)]
    if not found:
        raise RunNotFoundError(f"no run {text!r} on {without_secrets(mlflow.get_tracking_uri())}")
    if len(found) > 1:
        ids = ", ".join(run.info.run_id for run in found[:4])
        raise RunNotFoundError(f"{len(found)} runs begin with {text!r}: {ids}; give more of the ID")
    return found[0]


def _latest(client: MlflowClient) -> Run:
    runs = _runback_runs(client, most=1)
    if not runs:
        raise RunNotFoundError(f"no run of runback on {without_secrets(mlflow.get_tracking_uri())}")
    return runs[0]


def _runback_runs(client: MlflowClient, most: int | None = None) -> list[Run]:
    """The runs trained by runback in all experiments, newest first."""
    experiments = [e.experiment_id for e in asked("experiments", client.search_experiments)]
    found: list[Run] = []
    token = None
    while True:
        page = client.search_runs(
            experiments,
            filter_string=f"tags.`{TAG_VERSION}` != ''",
            max_results=most or PAGE,
            order_by=["attributes.start_time DESC"],
            page_token=token,
        )
        found.extend(page)
        token = page.token
        if not token or (most and len(found) >= most):
            return found


def _not_found(name: str, error: MlflowException) -> Exception:
    if is_permanent(error):
        return RunNotFoundError(f"{name}: {describe_error(error)}")
    return TrackingError(f"{name}: {describe_error(error)}")


def now_ms() -> int:
    """Milliseconds since the epoch, as MLflow counts."""
    return time.time_ns() // 1_000_000
