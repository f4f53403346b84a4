"""The logged model and the model registry."""

from __future__ import annotations

import json
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import mlflow.pyfunc
import numpy as np
import numpy.typing as npt
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, Metric, Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.types.schema import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.utils.requirements_utils import warn_dependency_requirement_mismatches

from runback.errors import (
    CheckpointError,
    ModelError,
    RunNotFoundError,
    TrackingError,
    UsageError,
)
from runback.limits import MAX_DESCRIPTION
from runback.model.closure import ENTRY_MODULE, PACKAGE, travelling_files
from runback.model.digests import folder_of, verify_digests, write_digests
from runback.model.requirements import pin, requirements
from runback.tracking import tags
from runback.tracking.artifacts import sizes_below
from runback.tracking.connection import describe_error, is_http, repeated, request
from runback.tracking.record import RunRecord

MODEL_NAME = "model"
# Where MLflow puts `code_paths`.
CODE_FOLDER = "code"
UPLOADS = 3
# Required to load and run a model; mlflow adds itself.
REQUIREMENTS = ("torch", "numpy", "pandas", "pyarrow")


def publish(client: MlflowClient, run_id: str, folder: Path, payload: dict[str, Any]) -> str:
    """Logs a model folder as the run's LoggedModel `model` and registers it; idempotent.

    Each request is repeated after a transient fault: with dozens of requests, one is likely to fail.
    What creates something first looks for what an earlier request has created.

    Args:
        client: of the tracking server.
        run_id: the run that trained the model.
        folder: the run's models; `folder_of` gives the one to publish.
        payload: `register` (a name, or "none"), `model_type` (MLflow's), `epoch`, `description`,
            `sha256` of the model's digests, `tags`, and `metrics`: lists of [key, value, timestamp,
            step] to attach.

    Returns:
        "NAME/VERSION", or the model's ID where it is not registered.

    Raises:
        CheckpointError: a file of the model has changed since it was written.
    """
    folder = folder_of(folder, payload["sha256"])
    verify_digests(folder, f"the model in {folder}", payload["sha256"])
    run = repeated(lambda: client.get_run(run_id))
    model = repeated(lambda: _logged_model(client, run, payload))
    repeated(lambda: _link(client, run, model, payload["epoch"]))
    if str(model.status) != "READY":
        _upload(client, run_id, model, folder)
        repeated(lambda: client.finalize_logged_model(model.model_id, "READY"))
    metrics = [
        Metric(key, value, timestamp, step, model_id=model.model_id, run_id=run_id)
        for key, value, timestamp, step in payload["metrics"]
    ]
    repeated(lambda: client.log_batch(run_id, metrics=metrics))
    if payload["register"] == "none":
        return str(model.model_id)
    version = repeated(lambda: _register(client, run_id, model, payload))
    return f"{version.name}/{version.version}"


def check_packages() -> bool:
    """Runs mlflow's package check, half a second, before the first model is saved."""
    warn_dependency_requirement_mismatches([pin(name) for name in REQUIREMENTS])
    return True


def download_model(client: MlflowClient, model: LoggedModel, folder: Path, what: str) -> Path:
    """Downloads a model; returns the model folder (`runback.model.spec`), which is not verified yet.

    Args:
        client: of the tracking server.
        model: a model logged by `publish`.
        folder: for the files.
        what: the model's name in errors.

    Raises:
        TrackingError: the server is unreachable.
        ModelError: not a model written by runback.
        CheckpointError: the copy of runback that is stored with the model is damaged.
    """
    try:
        local = mlflow.artifacts.download_artifacts(
            artifact_uri=f"models:/{model.model_id}",
            dst_path=str(folder),
            tracking_uri=client.tracking_uri,
        )
    except (MlflowException, OSError) as error:
        raise TrackingError(f"{what}: {describe_error(error)}") from error
    root = Path(local).resolve()
    data = _data_folder(root, what)
    code = root / CODE_FOLDER / PACKAGE.name
    verify_digests(code, f"{what}: its copy of runback", ignored="__pycache__")
    return data


def digest_of(model: LoggedModel, what: str) -> str:
    """The recorded SHA-256 of a model's digests.

    Raises:
        CheckpointError: there is none.
    """
    recorded = model.tags.get(tags.MODEL_SHA256)
    if not recorded:
        raise CheckpointError(
            f"{what}: its tag {tags.MODEL_SHA256} is missing, so its files cannot be verified"
        )
    return str(recorded)


def version_of(client: MlflowClient, record: RunRecord) -> ModelVersion:
    """The record's registered version, or the last version of the run's newest model.

    Raises:
        UsageError: the model is not registered.
        RunNotFoundError: the run has no model.
        TrackingError: the server is unreachable.
    """
    if record.version:
        name, _, number = record.version.rpartition("/")
        return request(record.version, lambda: client.get_model_version(name, number))
    model_id = _newest_model(client, record.run_id)
    query = f"run_id = '{record.run_id}'"
    versions = request(query, lambda: client.search_model_versions(query))
    matches = [version for version in versions if version.source == f"models:/{model_id}"]
    if not matches:
        reason = "its option register is none"
        if record.has_own_loop or record.config.get("register") != "none":
            reason = "its model is not registered yet; deliver it with: runback sync"
        raise UsageError(f"run {record.run_id} has no registered version: {reason}")
    return max(matches, key=lambda version: int(version.creation_timestamp))


def _data_folder(folder: Path, what: str) -> Path:
    """The model folder inside a downloaded pyfunc model.

    Raises:
        ModelError: the MLmodel file is invalid, or its paths leave the folder.
    """
    try:
        flavor = Model.load(str(folder)).flavors["python_function"]
        loader, path = flavor["loader_module"], folder.joinpath(flavor["data"]).resolve()
    except Exception as error:  # an untrusted file can raise anything
        raise ModelError(f"{what}: its MLmodel cannot be read ({describe_error(error)})") from None
    if loader != ENTRY_MODULE or not path.is_relative_to(folder):
        raise ModelError(f"{what}: not a model written by runback (loader {loader!r})")
    return path


def logged_model(client: MlflowClient, record: RunRecord) -> LoggedModel:
    """The record's LoggedModel, or the run's newest."""
    model_id = record.model_id or _newest_model(client, record.run_id)
    return request(f"model {model_id}", lambda: client.get_logged_model(model_id))


def _newest_model(client: MlflowClient, run_id: str) -> str:
    run = request(f"run {run_id}", lambda: client.get_run(run_id))
    models = _ready_models(client, run.info.experiment_id, run_id)
    if not models:
        raise RunNotFoundError(f"run {run_id} has no model; it has status {run.info.status}")
    return str(models[0].model_id)


def _ready_models(client: MlflowClient, experiment_id: str, run_id: str) -> list[LoggedModel]:
    """The run's finished models, newest first."""
    models = _models_of(client, experiment_id, run_id)
    ready = [model for model in models if str(model.status) == "READY"]
    return sorted(ready, key=lambda model: model.creation_timestamp, reverse=True)


def _models_of(client: MlflowClient, experiment_id: str, run_id: str) -> list[LoggedModel]:
    models = client.search_logged_models(
        [experiment_id], filter_string=f"source_run_id = '{run_id}' AND name = '{MODEL_NAME}'"
    )
    return list(models)


def delete_surplus(client: MlflowClient, run_id: str) -> None:
    """Deletes the models and versions of an ended run that repeated requests have made in vain.

    These are its PENDING models, and of versions with the same mark all but the first.
    """
    run = repeated(lambda: client.get_run(run_id))
    for model in repeated(lambda: _models_of(client, run.info.experiment_id, run_id)):
        if str(model.status) == "PENDING":
            repeated(partial(client.delete_logged_model, model.model_id))
    kept: dict[tuple[str, str], ModelVersion] = {}
    found = repeated(lambda: client.search_model_versions(f"run_id = '{run_id}'"))
    for version in sorted(found, key=lambda version: int(version.version)):
        mark = version.tags.get(tags.MARK)
        first = kept.setdefault((version.name, str(mark)), version)
        if mark and first is not version and not version.aliases:
            repeated(partial(client.delete_model_version, version.name, version.version))


def _logged_model(client: MlflowClient, run: Run, payload: dict[str, Any]) -> LoggedModel:
    """The LoggedModel for these weights: from an earlier attempt, or a new one."""
    run_id, experiment_id = run.info.run_id, run.info.experiment_id
    models = _models_of(client, experiment_id, run_id)
    same = [model for model in models if model.tags.get(tags.MODEL_SHA256) == payload["sha256"]]
    for status in ("READY", "PENDING"):
        if usable := [model for model in same if str(model.status) == status]:
            return min(usable, key=lambda model: (model.creation_timestamp, model.model_id))
    return client.create_logged_model(
        experiment_id=experiment_id,
        name=MODEL_NAME,
        source_run_id=run_id,
        tags={**payload["tags"], tags.MODEL_SHA256: payload["sha256"]},
        params=dict(run.data.params),
        model_type=payload["model_type"],
    )


def _link(client: MlflowClient, run: Run, model: LoggedModel, epoch: int) -> None:
    """Makes a model an output of its run, once: MLflow refuses a repeated request."""
    run_id = run.info.run_id
    if _is_linked(run, model):
        return
    try:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=epoch)])
    except Exception:  # the response may be lost
        if not _is_linked(client.get_run(run_id), model):
            raise


def _is_linked(run: Run, model: LoggedModel) -> bool:
    outputs = run.outputs.model_outputs if run.outputs else []
    return model.model_id in {output.model_id for output in outputs}


def _upload(client: MlflowClient, run_id: str, model: LoggedModel, folder: Path) -> None:
    """Writes the pyfunc model to a temporary folder and uploads it."""
    with tempfile.TemporaryDirectory(prefix="runback-") as temporary:
        path = Path(temporary) / "model"
        spec = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        mlflow.pyfunc.save_model(
            path=str(path),
            loader_module=ENTRY_MODULE,
            data_path=str(folder),
            code_paths=[str(_copy_code(Path(temporary) / "code"))],
            mlflow_model=Model(
                artifact_path=model.artifact_location,
                model_uuid=model.model_id,
                run_id=run_id,
                model_id=model.model_id,
            ),
            signature=_signature(spec),
            input_example=_example(folder, spec),
            pip_requirements=[*map(pin, REQUIREMENTS), *requirements(folder / "source")],
        )
        if not is_http(client.tracking_uri):
            client.log_model_artifacts(model.model_id, str(path))
            return
        _upload_files(get_artifact_repository(model.artifact_location), path)


def _upload_files(repository: ArtifactRepository, folder: Path) -> None:
    """Uploads all files below a folder, each by a request that is repeated by itself.

    Uploads those again that the server does not have: a gateway can answer in its place.

    Raises:
        TrackingError: a file is missing on the server, or has another size, after `UPLOADS`.
    """
    missing = [file for file in folder.rglob("*") if file.is_file()]
    for _ in range(UPLOADS):
        for file in missing:
            below = file.parent.relative_to(folder).as_posix()
            repeated(partial(repository.log_artifact, str(file), below if below != "." else None))
        missing = _missing_files(repository, folder)
        if not missing:
            return
    raise TrackingError(f"the server does not have the model's file {missing[0].name}")


def _missing_files(repository: ArtifactRepository, folder: Path) -> list[Path]:
    found = sizes_below(repository)
    names = {file: file.relative_to(folder).as_posix() for file in folder.rglob("*")}
    return [
        file
        for file, name in names.items()
        if file.is_file() and found.get(name, -1) not in (file.stat().st_size, None)
    ]


def _copy_code(folder: Path) -> Path:
    """Copies the modules of runback that a model needs, and writes their digests.

    Returns:
        The package's folder.
    """
    target = folder / PACKAGE.name
    for file in travelling_files():
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PACKAGE / file, target / file)
    write_digests(target)
    return target


def _signature(spec: dict[str, Any]) -> ModelSignature | None:
    if _is_own(spec):
        return _own_signature(spec)
    inputs = _samples(spec) or Schema([_input(column) for column in _columns(spec)])
    kinds = _output_types(spec)
    names = spec["targets"] if len(kinds) > 1 else [None]
    shape = spec.get("target_shape")
    if shape:
        outputs = Schema([TensorSpec(kinds[0].to_numpy(), (-1, *shape))])
    else:
        outputs = Schema([ColSpec(kind, name) for kind, name in zip(kinds, names, strict=True)])
    if shape or not spec.get("labels"):
        return ModelSignature(inputs=inputs, outputs=outputs)
    params = ParamSchema([ParamSpec("probabilities", DataType.boolean, False)])
    return ModelSignature(inputs=inputs, outputs=outputs, params=params)


def _output_types(spec: dict[str, Any]) -> list[DataType]:
    """The type of each target: numbers in the model's dtype, or that of the classes."""
    if labels := spec.get("labels"):
        types = {bool: DataType.boolean, int: DataType.long, str: DataType.string}
        return [types[type(label["classes"][0])] for label in labels]
    kind = DataType.double if spec["dtype"] == "float64" else DataType.float
    return [kind] * len(spec["targets"])


def _samples(spec: dict[str, Any]) -> Schema | None:
    """The tensor of samples with a shape; None for the columns of a table."""
    shape = spec.get("shape")
    return Schema([TensorSpec(np.dtype(spec["dtype"]), (-1, *shape))]) if shape else None


def _is_own(spec: dict[str, Any]) -> bool:
    """Whether a model was registered from an own loop (`runback.model.own_spec`)."""
    return "structure" in spec


def _own_signature(spec: dict[str, Any]) -> ModelSignature | None:
    """What the example of an own loop says; None if the model takes several inputs."""
    inputs, row = spec["inputs"], spec["outputs"]
    if inputs["kind"] == "several" or row is None:
        return None
    if not inputs["columns"]:
        given = Schema([TensorSpec(np.dtype(inputs["dtype"]), (-1, *inputs["shape"]))])
        return ModelSignature(inputs=given)
    given = Schema([ColSpec(DataType.double, name) for name in inputs["columns"]])
    names = spec["targets"]
    kind = DataType.double if inputs["dtype"] == "float64" else DataType.float
    outputs = Schema([ColSpec(kind, name if len(names) > 1 else None) for name in names])
    return ModelSignature(inputs=given, outputs=outputs if names else None)


def _own_example(folder: Path, spec: dict[str, Any]) -> pd.DataFrame | npt.NDArray[Any] | None:
    rows = json.loads((folder / "example.json").read_text(encoding="utf-8"))
    if _own_signature(spec) is None:
        return None
    if columns := rows["columns"]:
        return pd.DataFrame(rows["data"], columns=columns).astype("float64")
    return np.array(rows["data"], dtype=spec["inputs"]["dtype"])


def _example(folder: Path, spec: dict[str, Any]) -> pd.DataFrame | npt.NDArray[Any] | None:
    if _is_own(spec):
        return _own_example(folder, spec)
    rows = json.loads((folder / "example.json").read_text(encoding="utf-8"))
    if spec.get("shape"):
        return np.array(rows["data"], dtype=spec["dtype"])
    frame = pd.DataFrame(rows["data"], columns=rows["columns"])
    numbers = [column["name"] for column in _columns(spec) if column["kind"] == "number"]
    return frame.astype(dict.fromkeys(numbers, "float64"))


def _columns(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The description of each feature; without one, all are complete number columns."""
    plain = [{"kind": "number", "name": name, "missing": False} for name in spec["features"]]
    return spec.get("columns") or plain


def _input(column: dict[str, Any]) -> ColSpec:
    """The type of a feature in the table; it may be missing if it was in training rows."""
    kind = DataType.double if column["kind"] == "number" else DataType.string
    if column["kind"] == "boolean" and column["raw"] == "boolean":
        kind = DataType.boolean
    return ColSpec(kind, column["name"], required=not column["missing"])


def _register(
    client: MlflowClient, run_id: str, model: LoggedModel, payload: dict[str, Any]
) -> ModelVersion:
    name = payload["register"]
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    # Names are compared here: filters cannot escape quotation marks.
    for version in client.search_model_versions(f"run_id = '{run_id}'"):
        if version.name == name and version.tags.get(tags.MODEL_SHA256) == payload["sha256"]:
            return version
    return client.create_model_version(
        name,
        source=f"models:/{model.model_id}",
        run_id=run_id,
        tags={**payload["tags"], tags.MODEL_SHA256: payload["sha256"]},
        description=payload["description"][:MAX_DESCRIPTION],
        model_id=model.model_id,
    )
