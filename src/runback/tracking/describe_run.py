"""Logs the description of a run at its start: params, tags and dataset inputs."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Param, RunTag
from mlflow.utils import name_utils

from runback import __version__
from runback.limits import MAX_DATASET_SCHEMA
from runback.storage.lease import lease
from runback.tracking import run_tag, tags
from runback.tracking.connection import request
from runback.tracking.messages import DatasetPart, RunDescription
from runback.tracking.notes import note_tags


def describe_run(client: MlflowClient, run_id: str, description: RunDescription) -> None:
    """Logs the params and datasets of a run, and its tags unless it has them from the beginning.

    Raises:
        TrackingError: the server is unreachable or rejects the request.
    """
    request(f"run {run_id} cannot be described", lambda: _log(client, run_id, description))


def describe_launch(client: MlflowClient, run_id: str, description: RunDescription) -> None:
    """Describes a run that `mlflow run` created, and sets it to RUNNING.

    Raises:
        TrackingError: the server is unreachable or rejects the request.
    """
    complete_description(client, run_id, description)
    what = f"run {run_id} cannot be described"
    request(what, lambda: client.update_run(run_id, status="RUNNING"))


def complete_description(client: MlflowClient, run_id: str, description: RunDescription) -> None:
    """Logs what is missing of a run's description.

    Existing params, such as those logged by `mlflow run`, are not changed. The run's name is, if MLflow
    generated it or the option `name` is given.

    Raises:
        UsageError: the options are too long for a tag.
        TrackingError: the server is unreachable or rejects the request.
    """
    what = f"run {run_id} cannot be described"
    run = request(what, lambda: client.get_run(run_id))
    logged, new_tags = run.data.params, dict(description.tags)
    params = {name: text for name, text in description.params.items() if name not in logged}
    if not description.params.get("name") and not _is_generated(run.info.run_name or ""):
        new_tags.pop(tags.RUN_NAME, None)
    new_tags |= run_tag.merged(run.data.tags, description.facts)
    describe_run(client, run_id, dataclasses.replace(description, params=params, tags=new_tags))


def nest_launch(client: MlflowClient, launch_id: str, run_id: str, command: str) -> None:
    """Names and describes the run created by `mlflow run -e COMMAND`, which has no training.

    A name that the user has given and a note are kept.

    Args:
        client: of the store.
        launch_id: of that run.
        run_id: of the run that the command is about, under which it is nested; empty if there is none.
        command: the name.
    """
    what = f"run {launch_id}"
    run = request(what, lambda: client.get_run(launch_id))
    about = f" of {run_id[:8]}" if run_id else ""
    text = f"`mlflow run -e {command}`{about}: a command without a training of its own"
    new_tags = {tags.LAUNCH: command, **note_tags(run.data.tags, text)}
    if run_id:
        new_tags["mlflow.parentRunId"] = run_id
    if _is_generated(run.info.run_name or ""):
        new_tags[tags.RUN_NAME] = f"{command}{about} (launch only)"
    entries = [RunTag(key, value) for key, value in new_tags.items()]
    request(what, lambda: client.log_batch(launch_id, tags=entries))


def is_launch(client: MlflowClient, launch_id: str, command: str) -> bool:
    """Whether a run was created by `mlflow run -e COMMAND`, and not by another program."""
    run = request(f"run {launch_id}", lambda: client.get_run(launch_id))
    return bool(run.data.tags.get(tags.ENTRY_POINT) == command and tags.RUN not in run.data.tags)


def _log(client: MlflowClient, run_id: str, description: RunDescription) -> None:
    client.log_inputs(run_id, datasets=[_dataset_input(part) for part in description.datasets])
    # Last: the tag with the version marks the description as complete.
    client.log_batch(
        run_id,
        params=[Param(key, text) for key, text in description.params.items()],
        tags=[RunTag(key, value) for key, value in {**description.tags, **_process_tags()}.items()],
    )


def _is_generated(name: str) -> bool:
    """Whether MLflow made the name up, such as "redolent-mouse-620"; an empty one counts, too."""
    predicate, _, rest = name.partition("-")
    noun, _, number = rest.partition("-")
    words = (getattr(name_utils, f"_GENERATOR_{kind}", ()) for kind in ("PREDICATES", "NOUNS"))
    known = all(word in list(kind) for word, kind in zip((predicate, noun), words, strict=True))
    return not name or (known and number.isdecimal())


def _process_tags() -> dict[str, str]:
    return {
        tags.VERSION: __version__,
        tags.LEASE: lease(os.getppid()),
    }


def _schema(part: DatasetPart) -> str:
    """The columns as MLflow describes those of a table, or a tensor of samples."""
    if part.shape:
        kind = {"dtype": part.dtype, "shape": [-1, *part.shape]}
        features = json.dumps([{"type": "tensor", "tensor-spec": kind}])
        return json.dumps({"mlflow_tensorspec": {"features": features, "targets": None}})
    columns = [{"type": "double", "name": name, "required": True} for name in part.columns]
    return json.dumps({"mlflow_colspec": columns})


def _width(part: DatasetPart) -> dict[str, Any]:
    if part.shape:
        return {"features_shape": [part.n_rows, *part.shape]}
    return {"num_columns": len(part.columns)}


def _dataset_input(part: DatasetPart) -> DatasetInput:
    """One dataset for each part: MLflow stores one context for each (name, digest)."""
    schema = _schema(part)
    dataset = Dataset(
        name=part.name,
        digest=part.digest,
        source_type="local",
        source=json.dumps({"uri": part.path, "sha256": part.sha256}),
        schema=schema if len(schema) <= MAX_DATASET_SCHEMA else None,
        profile=json.dumps({"num_rows": part.n_rows, **_width(part)}),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", part.part)])
