"""The part of runback that travels with a model: complete, and no more than a server needs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd

from clean_env import CleanEnvironment
from conftest import DATA, PROGRAMS
from runback import TrainConfig
from runback.model.closure import PACKAGE, travelling_files
from runback.model.imports import imported_modules
from runback.model.serving import Predictor
from runback.model.spec import load_built, save_model
from runback.training.setup import prepare

FRAME = {"x": [1.0, 5.0, 11.0]}


def test_rooms_of_the_training_side_do_not_travel() -> None:
    files = travelling_files()
    assert {file.parts[0] for file in files} == {
        "__init__.py", "columns", "errors.py", "model", "processes.py", "tasks", "user_code.py",
    }  # fmt: skip
    packages = {file.parent for file in files}
    assert {package / "__init__.py" for package in packages} <= set(files)


def test_the_files_that_travel_are_found_without_torch() -> None:
    code = (
        "import sys; from runback.model.closure import travelling_files; travelling_files(); "
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_type_only_imports_are_not_followed_but_late_ones_are(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import a\nelse:\n    import b\n"
        "def f():\n    from c.d import e\n"
    )
    assert imported_modules(file) == {"typing", "typing.TYPE_CHECKING", "b", "c.d", "c.d.e"}


def test_the_closure_alone_rebuilds_a_model_and_predicts(
    tmp_path: Path, clean_env: CleanEnvironment
) -> None:
    code, model = tmp_path / "code", tmp_path / "model"
    for file in travelling_files():
        (code / "runback" / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PACKAGE / file, code / "runback" / file)
    setup = prepare(TrainConfig(data=str(DATA / "non_linear.csv"), model="mlp"))
    save_model(model, setup.built, setup.state.model.state_dict())
    built = load_built(model)
    expected = Predictor(built.module, built.spec).predict(pd.DataFrame(FRAME)).tolist()
    program = str(PROGRAMS / "predict_with_copied_code.py")
    arguments = (str(code), str(model), json.dumps(FRAME))
    done = clean_env.run(program, *arguments, cwd=tmp_path, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["found"] == expected
    assert answer["file"] == str(code / "runback" / "__init__.py")
    assert "mlflow" not in answer["modules"]
