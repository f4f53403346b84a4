"""Users' datasets: fingerprint, held-out rows, and training through a DataLoader."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest
import torch

from conftest import ROOT, Workspace
from runback.config import TrainConfig
from runback.data.table import read_table
from runback.errors import DataError
from runback.training.loop import run_epochs
from runback.training.setup import prepare

WAVES = f"{ROOT / 'examples' / 'waves.py'}:Waves"


def write(folder: Path, body: str) -> str:
    """Writes a dataset file with a class D; returns the data option."""
    text = "from torch.utils.data import Dataset\nclass D(Dataset):\n" + textwrap.indent(
        body, "    "
    )
    (folder / "own.py").write_text(text)
    return f"{folder / 'own.py'}:D"


def test_a_dataset_is_read_equally_each_time() -> None:
    first, second = (read_table(WAVES, (), (), torch.float32) for _ in range(2))
    assert first.columns.features == ("t", "u")
    assert first.columns.targets == ("wave",)
    assert len(first) == 512
    assert first.fingerprint == second.fingerprint
    assert torch.equal(first.features, second.features)


def test_reading_a_dataset_keeps_the_generators() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    read_table(WAVES, (), (), torch.float32)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("num_workers", [0, 1])
def test_each_epoch_reads_new_samples_repeatably(num_workers: int) -> None:
    config = TrainConfig(data=WAVES, model="mlp", epochs=2, batch_size=64, num_workers=num_workers)

    def weights() -> dict[str, torch.Tensor]:
        work = prepare(config)
        list(run_epochs(work.state, work.batches, work.validation, config))
        return work.state.model.state_dict()

    first, second = weights(), weights()
    assert all(torch.equal(first[name], second[name]) for name in first)
    work = prepare(config)
    one = torch.cat([x for x, _ in work.batches.epoch(1)]).sort(0).values
    two = torch.cat([x for x, _ in work.batches.epoch(2)]).sort(0).values
    assert not torch.equal(one, two)  # the augmentation drew anew


LENGTH = "def __len__(self): return 2\n"
BODIES = [
    ("def __len__(self): return 0", "empty"),
    (LENGTH + "def __getitem__(self, i): return 1.0", "sample 0"),
    (LENGTH + "def __getitem__(self, i): return [1.0] * (i + 1), 1.0", "sample 1"),
    (LENGTH + "def __getitem__(self, i): return [float('nan')], 1.0", "finite"),
    (LENGTH + "feature_names = 'ab'\ndef __getitem__(self, i): return [1.0], 2.0", "feature_names"),
    ("def __init__(self): raise ValueError('no disk')", "no disk"),
]


@pytest.mark.parametrize(("body", "message"), BODIES)
def test_an_unusable_dataset_is_refused(tmp_path: Path, body: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_table(write(tmp_path, body), (), (), torch.float32)


def test_a_missing_dataset_class_is_named(tmp_path: Path) -> None:
    data = write(tmp_path, "pass").replace(":D", ":E")
    with pytest.raises(DataError, match=r"option data: own has no .*Dataset class 'E'"):
        read_table(data, (), (), torch.float32)


def test_a_user_dataset_trains_evaluates_and_resumes(workspace: Workspace) -> None:
    run_id = workspace.train(
        "--data", WAVES, "--model", "mlp", "--batch-size", "64", "--epochs", "3"
    )
    evaluated = workspace.runback("evaluate", run_id)
    assert evaluated.returncode == 0, evaluated.stderr
    assert json.loads(evaluated.stdout)["rows"] == 52
    assert workspace.runback("resume", run_id, "--epochs", "4").returncode == 0
    (version, *_) = workspace.client.search_model_versions("name = 'waves'")
    assert version.run_id == run_id
