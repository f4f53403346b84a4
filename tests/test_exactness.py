"""An interrupted and resumed run is bit-identical to an uninterrupted one, at any position."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from in_process import NOISY, StopAt, difference, history, last_checkpoint, train_until
from runback.config import TrainConfig
from runback.storage.checkpoints import local_positions

EPOCHS, BATCHES = 5, 3
POSITIONS = [(epoch, batch) for epoch in range(EPOCHS) for batch in range(BATCHES)][1:]

VARIANTS = {
    "momentum, steps": {"momentum": 0.9, "scheduler": "step", "scheduler_args": '{"step_size": 2}'},
    "adam, cosine": {"optimizer": "adam", "scheduler": "cosine"},
    "adamw, plateau": {
        "optimizer": "adamw", "weight_decay": 0.1, "scheduler": "plateau",
        "scheduler_args": '{"patience": 0, "factor": 0.5}',
    },
    "torch's own, one cycle": {
        "optimizer": "RMSprop", "optimizer_args": '{"momentum": 0.9}', "scheduler": "OneCycleLR",
        "scheduler_args": '{"max_lr": 0.05, "total_steps": 4}',
    },
    "torch's own, milestones": {
        "optimizer": "NAdam", "scheduler": "MultiStepLR", "scheduler_args": '{"milestones": [1, 3]}'
    },
    "early stopping, float64": {"patience": 2, "precision": "float64", "lr": 0.05},
    "scaled, clipped, half precision": {
        "normalize": "standard", "clip_norm": 0.5, "precision": "bf16"
    },
    "ranks, scaled targets": {
        "normalize": "quantile", "normalize_target": "standard", "optimizer": "adamw"
    },
    "no validation rows, own order": {"split": "1:0:0", "shuffle": "false"},
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a table of 30 rows."""
    folder = tmp_path_factory.mktemp("data")
    rows = "".join(f"{x / 7},{(x * 13 % 30) / 11},{(x * 7 % 30) / 10}\n" for x in range(30))
    (folder / "table.csv").write_text("a,b,y\n" + rows)
    return folder


def configured(data: Path, **options: object) -> TrainConfig:
    usual = {
        "data": str(data / "table.csv"), "model": NOISY, "epochs": EPOCHS,
        "batch_size": 10, "split": "8:2:0", "drop_last": "false", "lr": 0.01,
        "checkpoint_every": 2, "checkpoint_minutes": 0,
    }  # fmt: skip
    return TrainConfig.from_mapping({**usual, **options})


def assert_same_end(one: Path, other: Path) -> None:
    """Compares the last checkpoints and the metric histories bit by bit."""
    assert difference(history(one), history(other)) == ""
    assert difference(last_checkpoint(one), last_checkpoint(other)) == ""


@pytest.mark.parametrize("variant", VARIANTS)
def test_stopped_at_any_batch_resumes_bit_identical(
    data: Path, tmp_path: Path, variant: str
) -> None:
    config = configured(data, **VARIANTS[variant])
    train_until(tmp_path / "whole", config)
    assert len(history(tmp_path / "whole")) >= 3, "nothing was trained"
    for epoch, batch in POSITIONS:
        part = tmp_path / f"{epoch}-{batch}"
        train_until(part, config, (epoch, batch))
        train_until(part, config)
        assert_same_end(part, tmp_path / "whole")


@pytest.mark.parametrize("target", ["none", "standard"])
def test_killed_at_any_batch_resumes_bit_identical(data: Path, tmp_path: Path, target: str) -> None:
    """Without a final checkpoint, epochs are trained again."""
    config = configured(data, momentum=0.9, scheduler="cosine", normalize_target=target)
    train_until(tmp_path / "whole", config)
    for epoch, batch in POSITIONS:
        part = tmp_path / f"{epoch}-{batch}"
        train_until(part, config, (epoch, batch), kill=True)
        train_until(part, config)
        assert_same_end(part, tmp_path / "whole")


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    stops=st.lists(st.tuples(st.sampled_from(POSITIONS), st.booleans()), min_size=2, max_size=4),
    options=st.fixed_dictionaries(
        {
            "optimizer": st.sampled_from(["sgd", "adam", "adamw"]),
            "scheduler": st.sampled_from(["none", "step", "cosine", "plateau"]),
            "batch_size": st.sampled_from([8, 10, 12]),
            "checkpoint_every": st.integers(1, 3),
            "keep_checkpoints": st.integers(0, 2),
            "patience": st.integers(0, 3),
            "seed": st.integers(0, 2**40),
        }
    ),
)
def test_any_sequence_of_stops_and_kills_is_bit_identical(
    data: Path, tmp_path_factory: pytest.TempPathFactory, stops, options
) -> None:
    folder, config = tmp_path_factory.mktemp("any"), configured(data, **options)
    train_until(folder / "whole", config)
    for position, kill in sorted(stops):
        train_until(folder / "part", config, position, kill=kill)
    train_until(folder / "part", config)
    assert_same_end(folder / "part", folder / "whole")


def test_checkpoints_inside_epochs_change_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint after every batch; only the newest two inside epochs are kept."""
    config = configured(data, momentum=0.9)
    train_until(tmp_path / "whole", config)
    saved: list[int] = []
    monkeypatch.setattr(StopAt, "should_checkpoint", lambda self: not saved.append(1))
    train_until(tmp_path / "often", config)
    assert len(saved) > EPOCHS * BATCHES, "the loop did not ask after each batch"
    assert_same_end(tmp_path / "often", tmp_path / "whole")
    left = local_positions(tmp_path / "often" / "checkpoints")
    assert left == [*((e, 0) for e in range(1, EPOCHS)), (EPOCHS - 1, BATCHES - 1), (EPOCHS, 0)]


def test_loader_workers_resume_inside_an_epoch(data: Path, tmp_path: Path) -> None:
    config = configured(data, epochs=2, num_workers=2)
    train_until(tmp_path / "whole", config)
    train_until(tmp_path / "part", config, (1, 2))
    train_until(tmp_path / "part", config)
    assert_same_end(tmp_path / "part", tmp_path / "whole")
    plain = configured(data, epochs=2)
    train_until(tmp_path / "plain", plain)
    assert difference(history(tmp_path / "plain"), history(tmp_path / "whole")) == ""


def test_more_epochs_keep_the_schedule_of_the_run(data: Path, tmp_path: Path) -> None:
    """As if the schedule's arguments had been given explicitly from the start."""
    for name, shape in (("cosine", '{"T_max": 3}'), ("step", '{"step_size": 1}')):
        short = configured(data, epochs=3, scheduler=name)
        longer = configured(data, epochs=5, scheduler=name)
        given = configured(data, epochs=5, scheduler=name, scheduler_args=shape)
        train_until(tmp_path / name, short)
        train_until(tmp_path / name, longer)
        train_until(tmp_path / f"{name}-given", given)
        assert difference(history(tmp_path / name), history(tmp_path / f"{name}-given")) == ""


def test_one_flipped_bit_is_a_difference(data: Path, tmp_path: Path) -> None:
    """One flipped bit in one generator's state is a difference."""
    config = configured(data)
    train_until(tmp_path / "a", config)
    one, other = last_checkpoint(tmp_path / "a"), last_checkpoint(tmp_path / "a")
    assert difference(one, other) == ""
    other["generators"]["torch"][7] ^= 1
    assert "generators.torch" in difference(one, other)
