"""Model folders: damaged files and changed specs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzzing import inputs, own_folder, tried  # noqa: F401
from hypothesis import given
from hypothesis import strategies as st
from test_fuzz_runs import JSON

from runback.model.serving import Predictor
from runback.model.spec import (
    SPEC_FILE,
    STATE_FILE,
    ModelSpec,
    build_model,
    load_built,
    save_model,
)

ROWS = torch.arange(8.0).reshape(4, 2)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder as a training writes it."""
    torch.manual_seed(0)
    spec = ModelSpec(
        "regression", "mlp", {"hidden": [3]}, ("a", "b"), ("y",), "standard", "float32"
    )
    built = build_model(spec)
    built.module.scale.fit(ROWS, "standard")
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, built, built.module.state_dict())
    return folder


def answers(folder: Path) -> tuple[tuple[str, ...], tuple[str, ...], list[list[float]]]:
    """The columns of a model and its predictions."""
    built = load_built(folder)
    spec = built.spec
    x = ROWS.to(spec.torch_dtype)
    if len(spec.features) != 2:
        return spec.features, spec.targets, []
    return spec.features, spec.targets, Predictor(built.module, spec).compute(x).tolist()


def check(model: Path, damaged: Path) -> None:
    """A folder with digests is refused or answers as before; one without must not fail otherwise."""
    found = tried("model folders", lambda: answers(damaged))
    if found is not None and (model / "digests.json").is_file():
        assert found == answers(model)


def copied(model: Path) -> Path:
    shutil.rmtree("damaged", ignore_errors=True)
    return Path(shutil.copytree(model, "damaged"))


@inputs(0.05)
@given(name=st.sampled_from([SPEC_FILE, STATE_FILE, "digests.json"]), data=st.data())
def test_a_damaged_model_file_is_refused_or_harmless(
    model: Path, name: str, data: st.DataObject
) -> None:
    folder = copied(model)
    if not (folder / name).is_file():
        return
    content = bytearray((folder / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    (folder / name).write_bytes(content)
    check(model, folder)


@inputs(0.03)
@given(
    entry=st.sampled_from(
        ["format", "task", "model", "model_args", "features", "targets", "normalize",
         "normalize_target", "dtype",
         "own_module", "other"]
    ),
    value=JSON | st.sampled_from(
        ["linear", "os:system", "net.py:Net", "../net.py:Net", "classification", ["b", "a"],
         {"hidden": 3}, {"hidden": []}, {"degree": -1}, ["a"], "float64", "none"]
    ),
)  # fmt: skip
def test_a_changed_spec_is_refused_or_harmless(model: Path, entry: str, value: Any) -> None:
    folder = copied(model)
    stored = json.loads((folder / SPEC_FILE).read_text())
    (folder / SPEC_FILE).write_text(json.dumps({**stored, entry: value}))
    check(model, folder)
