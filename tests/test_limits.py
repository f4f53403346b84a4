"""Names and lengths: whatever runback accepts, MLflow accepts, and it is said before the training."""

from __future__ import annotations

import contextlib
import json
import string
import uuid
from collections.abc import Iterator
from pathlib import Path

import mlflow.utils.validation as validation
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.models.utils import _enforce_schema
from mlflow.store.model_registry.dbmodels import models as registry_tables
from mlflow.store.tracking.dbmodels import models as tables

from conftest import Server, Workspace
from runback import TrainConfig, limits, promote, rollback
from runback.errors import ConfigError, DataError, UsageError
from runback.tracking import registry, tags
from runback.tracking.aliases import History
from runback.tracking.experiment import experiment_of
from runback.training.setup import prepare

NAMES = st.one_of(
    st.text(max_size=12),
    st.text(string.ascii_letters + "/.:_- %#?@\\\n\0é~'\"", max_size=8),
    st.sampled_from(
        ["", " ", ".", "..", "../a", "a/..", "/a", "a//b", "./a", "a/", "..a", "a..", "latest",
         "LATEST", "v1", "V12", "\ud800", "\udcff", "a\n", "%2e%2e", "名前", "\ufeff", "\x85"]
    ),
    st.integers(1, 600).map(lambda n: "x" * n),
    st.integers(225, 260).map(lambda n: "é" * n),
)  # fmt: skip
MANY = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def module_client(
    tmp_path_factory: pytest.TempPathFactory, empty_database: Path
) -> Iterator[MlflowClient]:
    """A client of a real server, shared by the generated cases."""
    folder = tmp_path_factory.mktemp("limits")
    (folder / "server.db").write_bytes(empty_database.read_bytes())
    server = Server(folder)
    server.start()
    yield MlflowClient(server.uri)
    server.kill()


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> MlflowClient:
    """A client of a SQLite store, shared by the generated cases."""
    folder = tmp_path_factory.mktemp("limits")
    (folder / "mlflow.db").write_bytes(empty_database.read_bytes())
    return MlflowClient(f"sqlite:///{folder}/mlflow.db")


@pytest.fixture(scope="module")
def run_id(client: MlflowClient) -> str:
    return client.create_run("0").info.run_id


def test_the_limits_are_those_of_mlflow() -> None:
    assert limits.MAX_KEY == validation.MAX_ENTITY_KEY_LENGTH
    assert limits.MAX_KEY == validation.MAX_MODEL_REGISTRY_TAG_KEY_LENGTH
    assert limits.MAX_PARAM == validation.MAX_PARAM_VAL_LENGTH
    assert limits.MAX_TAG == validation.MAX_TAG_VAL_LENGTH
    assert limits.MAX_EXPERIMENT_NAME == validation.MAX_EXPERIMENT_NAME_LENGTH
    assert limits.MAX_DATASET_NAME == validation.MAX_DATASET_NAME_SIZE
    assert limits.MAX_DATASET_SCHEMA <= validation.MAX_DATASET_SCHEMA_SIZE
    assert limits.MAX_ALIAS <= validation.MAX_REGISTERED_MODEL_ALIAS_LENGTH


def test_the_limits_fit_the_columns_of_the_store() -> None:
    """SQLite does not check the length of a column; other databases do."""
    widths = {
        limits.MAX_MODEL_NAME: registry_tables.SqlRegisteredModel.name,
        limits.MAX_REGISTRY_TAG: registry_tables.SqlRegisteredModelTag.value,
        limits.MAX_DESCRIPTION: registry_tables.SqlModelVersion.description,
        limits.MAX_PARAM: tables.SqlParam.value,
        limits.MAX_TAG: tables.SqlTag.value,
        limits.MAX_KEY: tables.SqlParam.key,
        limits.MAX_ALIAS: registry_tables.SqlRegisteredModelAlias.alias,
    }
    for limit, column in widths.items():
        assert limit <= column.type.length


@MANY
@given(name=NAMES)
@example("x" * limits.MAX_MODEL_NAME)
def test_an_accepted_model_name_is_accepted_by_mlflow(client: MlflowClient, name: str) -> None:
    assume(not limits.model_name_problem(name))
    with contextlib.suppress(MlflowException):
        client.delete_registered_model(name)
    client.create_registered_model(name)
    assert client.get_registered_model(name).name == name


@MANY
@given(key=NAMES)
@example("x" * limits.MAX_KEY)
def test_an_accepted_key_is_accepted_by_mlflow(client: MlflowClient, run_id: str, key: str) -> None:
    assume(not limits.key_problem(key))
    client.log_batch(run_id, params=[Param(key, "1")], tags=[RunTag(key, "1")])
    client.log_metric(run_id, key, 1.0)
    assert client.get_run(run_id).data.params[key] == "1"


@MANY
@given(alias=NAMES)
@example("x" * (limits.MAX_KEY - len(tags.PROMOTIONS)))
def test_an_accepted_alias_is_accepted_by_mlflow(
    client: MlflowClient, run_id: str, alias: str
) -> None:
    assume(not limits.alias_problem(alias, tags.PROMOTIONS))
    with contextlib.suppress(MlflowException):
        client.create_registered_model("aliased")
        client.create_model_version("aliased", source="file:///x", run_id=run_id)
    client.set_registered_model_alias("aliased", alias, "1")
    client.set_registered_model_tag("aliased", tags.PROMOTIONS + alias, "[]")
    assert client.get_model_version_by_alias("aliased", alias).version in (1, "1")


@MANY
@given(name=NAMES)
def test_an_accepted_experiment_is_accepted_by_mlflow(client: MlflowClient, name: str) -> None:
    assume(not limits.experiment_name_problem(name))
    experiment = client.get_experiment_by_name(name)
    found = experiment.experiment_id if experiment else client.create_experiment(name)
    assert client.get_experiment(found).name == name


@MANY
@given(text=NAMES, length=st.sampled_from([0, 5990, 7990]))
def test_an_accepted_text_is_accepted_by_mlflow(
    client: MlflowClient, text: str, length: int
) -> None:
    value = "x" * length + text
    run_id = client.create_run("0").info.run_id
    if not limits.text_problem(value, limits.MAX_PARAM):
        client.log_param(run_id, "p", value)
        assert client.get_run(run_id).data.params["p"] == value
    if not limits.text_problem(value, limits.MAX_TAG):
        client.set_tag(run_id, "t", value)
        assert client.get_run(run_id).data.tags["t"] == value
    if not limits.text_problem(value, limits.MAX_DATASET_NAME):
        dataset = Dataset(value, uuid.uuid4().hex, "local", "{}")
        client.log_inputs(run_id, datasets=[DatasetInput(dataset, [])])


@MANY
@given(path=NAMES)
def test_an_accepted_artifact_path_is_accepted_by_mlflow(
    client: MlflowClient, run_id: str, tmp_path: Path, path: str
) -> None:
    assume(not limits.artifact_path_problem(path))
    (tmp_path / "file.txt").write_text("x")
    client.log_artifact(run_id, str(tmp_path / "file.txt"), f"folder/{path}")
    local = client.download_artifacts(run_id, f"folder/{path}/file.txt")
    assert Path(local).read_text() == "x"


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=NAMES)
def test_accepted_names_are_accepted_by_the_server(module_client: MlflowClient, name: str) -> None:
    """Over HTTP, names are quoted in URLs and in JSON."""
    client = module_client
    run = client.create_run("0").info.run_id
    if not limits.key_problem(name):
        client.log_batch(run, params=[Param(name, "1")], tags=[RunTag(name, "1")])
        assert client.get_run(run).data.tags[name] == "1"
    if not limits.text_problem(name, limits.MAX_PARAM):
        client.log_param(run, "value-of-p", name)
    if not limits.model_name_problem(name):
        with contextlib.suppress(MlflowException):
            client.delete_registered_model(name)
        client.create_registered_model(name)
        client.create_model_version(name, source=f"runs:/{run}/x", run_id=run)
        if not limits.alias_problem(name, tags.PROMOTIONS):
            client.set_registered_model_alias(name, name, "1")
            client.set_registered_model_tag(name, tags.PROMOTIONS + name, "[]")
    if not limits.artifact_path_problem(name):
        client.log_text(run, "x", f"folder/{name}/file.txt")
        assert client.list_artifacts(run, f"folder/{name}")


COLUMNS = st.lists(NAMES, min_size=2, max_size=4, unique=True)


@MANY
@given(columns=COLUMNS)
@example(["", "b"])
@example(["\x00", "b"])
def test_accepted_columns_survive_a_model_signature(tmp_path: Path, columns: list[str]) -> None:
    assume(not any(limits.column_problem(name) for name in columns))
    spec = {"features": columns, "targets": ["y"], "dtype": "float32"}
    rows = {"columns": columns, "data": [[1.0] * len(columns)]}
    (tmp_path / "example.json").write_text(json.dumps(rows))
    Model(signature=registry._signature(spec)).save(str(tmp_path / "MLmodel"))
    inputs = Model.load(str(tmp_path)).signature.inputs
    assert inputs.input_names() == columns
    assert list(_enforce_schema(registry._example(tmp_path, spec), inputs).columns) == columns


def table(folder: Path, names: list[str]) -> str:
    columns = [pa.array([float(i + n) for i in range(40)]) for n in range(len(names))]
    pq.write_table(pa.table(columns, names=names), folder / "table.parquet")
    return str(folder / "table.parquet")


@pytest.mark.parametrize("names", [["", "y"], ["x", ""], ["a", "", "y"]])
def test_an_empty_column_name_is_refused_early(tmp_path: Path, names: list[str]) -> None:
    config = TrainConfig(data=table(tmp_path, names), model="linear", batch_size=4)
    with pytest.raises(DataError) as caught:
        prepare(config)
    assert "table.parquet" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("data", "\udcff.csv"), ("register", "a\0b"), ("model_args", {"a": "\ud800"})],
)
def test_an_option_that_is_not_text_is_refused(name: str, value: object) -> None:
    if name == "model_args":  # JSON escapes it
        assert json.loads(TrainConfig(**{name: value}).as_params()[name]) == value
        return
    with pytest.raises(ConfigError, match=f"option {name}: "):
        TrainConfig(**{name: value})


@pytest.mark.parametrize("alias", ["", "a b", "latest", "v3", "a" * 232, "é!"])
def test_an_invalid_alias_is_refused_before_scoring(alias: str) -> None:
    for command in (promote, rollback):
        with pytest.raises(UsageError, match="--alias "):
            command("latest", alias)


def test_an_invalid_experiment_name_is_one_sentence(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "x" * 501)
    with pytest.raises(UsageError, match=r"MLFLOW_EXPERIMENT_NAME 'x+': the name longer than 500"):
        experiment_of(workspace.client)


PROMOTION = st.fixed_dictionaries(
    {
        "version": st.integers(1, 10**6).map(str),
        "replaced": st.none() | st.integers(1, 10**6).map(str),
        "metric": st.sampled_from(["rmse", "cost", "é" * 30]),
        "score": st.floats(allow_nan=False, allow_infinity=False),
        "at_ms": st.integers(0, 2**50),
    }
)


@given(entries=st.lists(PROMOTION, max_size=12), factor=st.integers(1, 20), old=st.integers(0, 999))
def test_a_history_keeps_the_latest_that_fit(entries: list, factor: int, old: int) -> None:
    promotions = entries * factor
    text = History(promotions, old).as_tag()
    assert len(text) <= limits.MAX_REGISTRY_TAG
    found = History.from_tag(text)
    assert found.dropped == old + len(promotions) - len(found.promotions)
    assert found.promotions == promotions[len(promotions) - len(found.promotions) :]
    if len(found.promotions) < len(promotions):
        one_more = History(promotions[-len(found.promotions) - 1 :], found.dropped - 1)
        assert (
            len(json.dumps({"dropped": one_more.dropped, "promotions": one_more.promotions})) > 5000
        )
