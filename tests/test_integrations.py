"""The integrations where no framework is needed: torn files, missing packages, LightningModules."""

from __future__ import annotations

import importlib
import json
import struct
import sys
from pathlib import Path

import pytest
import torch

import runback
from conftest import DATA, Workspace
from runback.integrations.whole import is_whole


@pytest.mark.parametrize("name", ["lightning", "transformers"])
def test_a_missing_framework_is_named_with_its_extra(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = (f"runback.{name}", f"runback.integrations.{name}")
    for module in [m for m in sys.modules if m in ours or m.startswith(f"{name}.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delitem(vars(runback), name, raising=False)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModuleNotFoundError, match=rf"pip install 'runback\[{name}\]'"):
        importlib.import_module(f"runback.integrations.{name}")
    with pytest.raises(ModuleNotFoundError, match=rf"runback.{name} needs"):
        getattr(runback, name)


def safetensors(tensors: int) -> bytes:
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return struct.pack("<Q", len(header)) + header + b"\0" * tensors


def test_a_file_that_is_cut_off_is_not_whole(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(100)}, tmp_path / "a.pt")
    (tmp_path / "a.safetensors").write_bytes(safetensors(4))
    (tmp_path / "a.json").write_text('{"a": "text"}')
    (tmp_path / "a.txt").write_text("")
    for file in sorted(tmp_path.iterdir()):
        assert is_whole(file), file
        content = file.read_bytes()
        for length in (0, 3, 9, len(content) // 2, len(content) - 1):
            file.write_bytes(content[:length])
            assert is_whole(file) is (file.suffix == ".txt"), (file, length)
    assert not is_whole(tmp_path / "none.pt")
    (tmp_path / "b.safetensors").write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    assert not is_whole(tmp_path / "b.safetensors")


MODULE = """
from torch import nn

class LightningModule(nn.Module):
    __module__ = "lightning.pytorch.core.module"

class Net(LightningModule):
    def __init__(self, n_features, n_targets):
        super().__init__()
        self.net = nn.Linear(n_features, n_targets)

    def forward(self, x):
        return self.net(x)

class Plain(nn.Linear):
    pass
"""


@pytest.mark.parametrize(("name", "count"), [("Net", 1), ("Plain", 0)])
def test_a_lightning_module_is_told_what_is_not_used(
    workspace: Workspace, name: str, count: int
) -> None:
    (workspace.folder / "lit.py").write_text(MODULE)
    data = ("--data", str(DATA / "non_linear.csv"), "--epochs", "2")
    done = workspace.runback("train", *data, "--model", f"lit.py:{name}")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("is a LightningModule, of which only forward is used") == count
