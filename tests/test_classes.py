"""Classification from the table to the served model."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

import runback
from conftest import DATA, Workspace
from in_process import difference, history, last_checkpoint, train_until
from runback.config import TrainConfig
from runback.errors import UsageError

FLOWERS = DATA / "flowers.csv"
QUICK: dict[str, object] = {"epochs": 8, "split": "stratified", "checkpoint_every": 4}


@pytest.fixture
def flowers() -> pd.DataFrame:
    return pd.read_csv(FLOWERS)


def test_a_table_of_classes_is_trained_and_served(
    workspace: Workspace, flowers: pd.DataFrame
) -> None:
    import mlflow

    run = runback.train(FLOWERS, epochs=60, split="stratified", lr=0.01).run_id
    scores = runback.evaluate(run).scores
    assert scores["accuracy"] > 0.8
    assert workspace.client.get_run(run).data.params["loss"] == "cross_entropy"
    labels = runback.predict(run, flowers)["species"]
    assert (labels == flowers["species"]).mean() > 0.8
    model = mlflow.pyfunc.load_model("models:/flowers/1")
    shuffled = flowers[flowers.columns[::-1]].drop(columns="species")
    assert model.predict(shuffled).tolist() == labels.tolist()
    shares = model.predict(shuffled, params={"probabilities": True})
    both = runback.predict(run, flowers, probabilities=True)
    pd.testing.assert_frame_equal(shares, both, check_exact=True)
    assert shares.drop(columns="species").sum(axis=1).sub(1).abs().max() < 1e-9


def test_predictions_of_a_file_have_probabilities(
    workspace: Workspace, flowers: pd.DataFrame
) -> None:
    run = runback.train(FLOWERS, **QUICK).run_id  # type: ignore[arg-type]
    done = workspace.runback("predict", run, "--data", str(FLOWERS), "--probabilities", "true")
    assert done.returncode == 0, done.stderr
    first = done.stdout.splitlines()[0]
    assert first == "species,species=setosa,species=versicolor,species=virginica"
    assert len(done.stdout.splitlines()) == len(flowers) + 1


@pytest.mark.parametrize("loss", ["cross_entropy", "bce"])
def test_a_frame_and_a_file_give_the_same_bits(
    workspace: Workspace, flowers: pd.DataFrame, tmp_path: Path, loss: str
) -> None:
    table = flowers.assign(wide=flowers["petal_width"] > 1).drop(columns="species")
    table.to_csv(tmp_path / "wide.csv", index=False)
    table.to_parquet(tmp_path / "wide.parquet")
    found = []
    for data in (table, tmp_path / "wide.csv", tmp_path / "wide.parquet"):
        options = {**QUICK, "loss": loss, "class_weights": "balanced", "register": "none"}
        run = runback.train(data, **options).run_id  # type: ignore[arg-type]
        found.append(runback.predict(run, table, probabilities=True))
    for other in found[1:]:
        pd.testing.assert_frame_equal(found[0], other, check_exact=True)
    assert found[0]["wide"].dtype == bool


def test_a_numeric_loss_for_text_names_the_one_that_fits(workspace: Workspace) -> None:
    with pytest.raises(UsageError, match="is not a number; --loss auto predicts classes"):
        runback.train(FLOWERS, loss="mse")
    assert workspace.client.search_runs(["0"]) == []


def test_a_class_that_training_lacks_is_refused(
    workspace: Workspace, flowers: pd.DataFrame
) -> None:
    parts = ["train"] * 100 + ["validation"] * 25 + ["test"] * 25  # sorted by species
    with pytest.raises(UsageError, match="'virginica' is none of the classes"):
        runback.train(flowers.assign(part=parts), target="species", split="column:part")


def test_an_unknown_class_in_another_table_is_refused(
    workspace: Workspace, flowers: pd.DataFrame
) -> None:
    run = runback.train(FLOWERS, **QUICK).run_id  # type: ignore[arg-type]
    flowers.loc[7, "species"] = "rose"
    with pytest.raises(UsageError, match="data row 8: 'rose' is none of the classes"):
        runback.evaluate(run, flowers)


def test_simple_models_are_recorded(workspace: Workspace) -> None:
    run = runback.train(FLOWERS, **QUICK).run_id  # type: ignore[arg-type]
    folder = Path(workspace.client.download_artifacts(run, "baselines.json"))
    found = json.loads(folder.read_text())
    assert found["linear"]["accuracy"] > found["constant"]["accuracy"]
    assert found.keys() == {"constant", "linear"}


def test_a_model_like_a_constant_is_reported(
    workspace: Workspace, capfd: pytest.CaptureFixture[str]
) -> None:
    runback.train(DATA / "diabetes.csv", epochs=1, lr=0.0)
    assert "is no better than that of a constant" in capfd.readouterr().err


@pytest.mark.parametrize("kill", [False, True])
def test_a_stopped_classification_resumes_exactly(tmp_path: Path, kill: bool) -> None:
    config = TrainConfig(
        data=str(FLOWERS), epochs=5, batch_size=50, split="stratified", checkpoint_every=1
    )
    train_until(tmp_path / "whole", config)
    train_until(tmp_path / "part", config, (2, 1), kill=kill)
    train_until(tmp_path / "part", config)
    assert difference(history(tmp_path / "part"), history(tmp_path / "whole")) == ""
    assert difference(last_checkpoint(tmp_path / "part"), last_checkpoint(tmp_path / "whole")) == ""
