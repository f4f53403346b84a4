"""Exported files compute what the module does; invalid options and files are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import runback.commands.export
from finished_runs import FinishedRuns
from runback import load_model
from runback.cli import main
from runback.commands.export import export
from runback.errors import CheckpointError, ModelError, UsageError


@pytest.mark.parametrize("name", ["strong", "own", "pair"])
@pytest.mark.parametrize("format", ["state_dict", "torch", "pt2", "onnx"])
def test_each_format_computes_what_the_module_does(
    finished_runs: FinishedRuns, tmp_path: Path, name: str, format: str
) -> None:
    if format == "onnx":
        pytest.importorskip("onnxscript")
    file = tmp_path / "model.out"
    made = export(finished_runs.ids[name], format, str(file))
    assert made.bytes == file.stat().st_size and made.run_id == finished_runs.ids[name]
    module = load_model(finished_runs.ids[name])
    n_features = {"strong": 1, "own": 10, "pair": 2}[name]
    with torch.no_grad():
        for rows in (1, 2, 257):
            x = torch.randn(rows, n_features)
            torch.testing.assert_close(
                run(file, format, module, x), module(x), rtol=1e-4, atol=1e-4
            )


def run(file: Path, format: str, module: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    if format == "state_dict":
        module.load_state_dict(torch.load(file, weights_only=True))
        return module(x)
    if format == "torch":  # as its reader would; safe globals are the check's own way
        names = torch.serialization.get_unsafe_globals_in_checkpoint(file)
        assert any(name.endswith(type(module).__name__) for name in names)
        return module(x)
    if format == "pt2":
        return torch.export.load(file).module()(x)
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["predictions"], {"features": x.numpy()})[0])


def test_invalid_export_options_are_refused_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = tmp_path / "taken.pt"
    taken.write_text("mine")
    for options, problem in (
        (["--format", "keras", "--output", "x"], "not one of state_dict, torch, pt2, onnx"),
        (["--format", "pt2", "--output", str(taken)], "exists already"),
        (["--format", "pt2", "--output", "no/such/x.pt2"], "no such folder"),
    ):
        assert main(["export", "no such run", *options]) == 2
        assert problem in capsys.readouterr().err
    assert taken.read_text() == "mine"


def test_onnx_without_its_packages_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runback.commands.export, "ONNX_PACKAGES", ("onnx", "no_such_package"))
    with pytest.raises(
        UsageError, match=r"needs no_such_package; .* pip install 'runback\[onnx\]'"
    ):
        export("latest", "onnx", str(tmp_path / "x.onnx"))


def test_a_file_that_fails_its_check_is_not_left_behind(
    finished_runs: FinishedRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def worse(module: torch.nn.Module, x: torch.Tensor) -> bytes:
        return runback.commands.export._saved({k: v + 1 for k, v in module.state_dict().items()})

    def broken(module: torch.nn.Module, x: torch.Tensor) -> bytes:
        raise RuntimeError("cannot be traced\nat all")

    for write, kind, problem in (
        (worse, CheckpointError, "the written file fails its check"),
        (broken, ModelError, "the module cannot be exported: cannot be traced$"),
    ):
        check = runback.commands.export.EXPORTERS["state_dict"][1]
        monkeypatch.setitem(runback.commands.export.EXPORTERS, "state_dict", (write, check))
        with pytest.raises(kind, match=problem):
            export(finished_runs.ids["strong"], "state_dict", str(tmp_path / "x.pt"))
        assert list(tmp_path.iterdir()) == []


def test_export_prints_json(
    finished_runs: FinishedRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "weights.pt"
    options = ["--format", "state_dict", "--output", str(file)]
    assert main(["export", finished_runs.ids["weak"], *options]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["output"] == str(file)
    assert set(torch.load(file, weights_only=True)) == {"layer.weight", "layer.bias"}
