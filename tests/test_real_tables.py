"""Tables as others publish them: trained, evaluated and predicted from the raw file."""

from __future__ import annotations

import io
import json

import pandas as pd
import pytest
from benchmarks.real_tables import TABLES

from conftest import Workspace

# The lowest score, R2 or accuracy, after the few epochs of these tests.
LOWEST = {
    "diamonds": 0.8, "bikeshare": 0.4, "wage": 0.1, "iris": 0.8, "wine": 0.8, "breast_cancer": 0.8,
}  # fmt: skip
EPOCHS = {"diamonds": 3, "bikeshare": 20}


@pytest.mark.parametrize("name", TABLES)
def test_a_real_table_works_with_a_command_each(workspace: Workspace, name: str) -> None:
    real, file = TABLES[name], workspace.folder / f"{name}.csv.gz"
    frame = real.frame()
    frame.to_csv(file, index=False)
    features = ",".join(["*", *(f"-{leak}" for leak in real.leaks)])
    split = ["--split", real.options["split"]] if "split" in real.options else []
    given = ["--target", real.target, "--features", features, *split]
    epochs = str(EPOCHS.get(name, 60))
    trained = workspace.runback("train", "--data", str(file), *given, "--epochs", epochs)
    assert trained.returncode == 0, trained.stderr
    run = trained.stdout.strip()
    assert workspace.client.get_model_version(name, "1").run_id == run

    evaluated = workspace.runback("evaluate", run)
    assert evaluated.returncode == 0, evaluated.stderr
    scores = json.loads(evaluated.stdout)["scores"]
    assert scores.get("accuracy", scores.get("r2")) > LOWEST[name]

    predicted = workspace.runback("predict", run, "--data", str(file))
    assert predicted.returncode == 0, predicted.stderr
    column = pd.read_csv(io.StringIO(predicted.stdout))[real.target]
    assert len(column) == len(frame) and column.notna().all()
