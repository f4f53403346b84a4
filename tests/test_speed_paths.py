"""The fast paths are bit-identical to the plain ones."""

from __future__ import annotations

import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn, optim

from conftest import DATA, PROGRAMS
from in_process import continue_from, difference, saved_state
from runback.config import TrainConfig
from runback.seeding import seed_generators
from runback.training import compiling
from runback.training.fastpaths import make_update, mode_switch
from runback.training.loop import EpochResult, MidEpoch, run_epochs
from runback.training.optimizers import make_optimizer
from runback.training.setup import TrainingSetup, prepare
from runback.training.state import TrainState, is_finite

pytestmark = pytest.mark.usefixtures("threads")

DIABETES = {
    "data": str(DATA / "diabetes.csv"), "normalize": "standard", "normalize_target": "none",
    "batch_size": 32,
}  # fmt: skip
CONFIGS = {
    "seed": {"data": str(DATA / "non_linear.csv")},
    "adam, dropout, clipping, plateau": {
        **DIABETES, "model": "mlp", "model_args": {"hidden": [8], "dropout": 0.2}, "lr": 0.01,
        "optimizer": "adam", "clip_norm": 1.0, "scheduler": "plateau",
        "scheduler_args": {"patience": 0}, "drop_last": False,
    },
    "momentum, no validation": {
        **DIABETES, "model": "linear", "lr": 0.01, "momentum": 0.9, "split": "9:0:1",
        "scheduler": "step", "scheduler_args": {"step_size": 2},
    },
    "bf16": {**DIABETES, "model": "mlp", "model_args": {"hidden": [8]}, "precision": "bf16"},
    "scaled target": {**DIABETES, "model": "linear", "normalize_target": "standard"},
    "float64": {**DIABETES, "model": "mlp", "precision": "float64", "optimizer": "adamw"},
}  # fmt: skip


def config_of(name: str, **other: object) -> TrainConfig:
    return TrainConfig(**{**CONFIGS[name], "epochs": 6, **other})


def plain_training(config: TrainConfig) -> tuple[list[tuple[float, float | None]], nn.Module]:
    """A simple loop: zero_grad, step, indexing, and `.item()` in each epoch."""
    work = prepare(config)
    model, optimizer, cost_of = (
        work.state.model,
        work.state.optimizer,
        work.loss,
    )
    x, y = (getattr(work.table, name)[work.split.train] for name in ("features", "targets"))
    if config.normalize_target == "standard":
        model, y = model.module, (y - model.target.offset) / model.target.scale
    rows_of, size, history = work.batches.order.rows, config.batch_size, []
    for epoch in range(1, config.epochs + 1):
        model.train()
        seed_generators(config.seed, epoch, work.state.device)
        rows, total = rows_of(epoch), torch.zeros((), dtype=x.dtype)
        for low in range(0, len(work.batches) * size, size):
            index = rows[low : low + size]
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bf16"):
                cost = cost_of(model(x[index]), y[index])
            cost.backward()
            if config.clip_norm:
                nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
            optimizer.step()
            total += cost.detach()
        val = None if work.validation is None else plain_validation(work, config, model)
        history.append((total.item() / len(work.batches), val))
        if work.state.schedule is not None:
            work.state.schedule.step(val)
    return history, work.state.model


@torch.no_grad()
def plain_validation(work: TrainingSetup, config: TrainConfig, model: nn.Module) -> float:
    model.eval()
    part, y = work.validation, work.validation.targets
    if config.normalize_target == "standard":
        y = (y - work.state.model.target.offset) / work.state.model.target.scale
    with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bf16"):
        return work.loss(model(part.features), y).item()


def fast_training(config: TrainConfig) -> tuple[list[tuple[float, float | None]], nn.Module]:
    work = prepare(config)
    history = [(e.cost, e.val_cost) for e in epochs_of(work)]
    return history, work.state.model


def epochs_of(work: TrainingSetup) -> Iterator[EpochResult]:
    for event in run_epochs(work.state, work.batches, work.validation, work.config):
        assert isinstance(event, EpochResult)
        yield event


def weights(model: nn.Module) -> list[Tensor]:
    return list(model.state_dict().values())


def assert_same(ours: list[Tensor], theirs: list[Tensor]) -> None:
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("name", CONFIGS)
def test_the_fast_loop_equals_a_plain_loop(name: str) -> None:
    fast, fast_model = fast_training(config_of(name))
    plain, plain_model = plain_training(config_of(name))
    assert fast == plain
    assert_same(weights(fast_model), weights(plain_model))


@pytest.mark.parametrize("name", ["seed", "adam, dropout, clipping, plateau"])
def test_gathered_and_loaded_batches_train_equally(name: str) -> None:
    gathered, _ = fast_training(config_of(name, epochs=2))
    loaded, _ = fast_training(config_of(name, epochs=2, num_workers=1))
    assert gathered == loaded


def test_validation_pieces_are_weighted_by_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of("float64")
    whole, _ = fast_training(config)
    monkeypatch.setattr("runback.training.steps.VALIDATION_ROWS", 7)
    pieces, _ = fast_training(config)
    assert [v for _, v in pieces] == pytest.approx([v for _, v in whole], rel=1e-12)


def test_optimizers_neither_import_nor_alter_the_compiler() -> None:
    program = PROGRAMS / "make_optimizers.py"
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "plain"), [("sgd", optim.SGD), ("adam", optim.Adam), ("adamw", optim.AdamW)]
)
def test_an_optimizer_is_torchs_own_in_class_and_state(
    name: str, plain: type[optim.Optimizer]
) -> None:
    extra = {"momentum": 0.9} if name == "sgd" else {}
    config = TrainConfig(data="x.csv", optimizer=name, lr=0.1, **extra)
    ours_w, theirs_w = (nn.Parameter(torch.ones(3)) for _ in range(2))
    ours = make_optimizer(config, [ours_w])
    theirs = plain([theirs_w], lr=0.1, weight_decay=config.weight_decay, fused=True, **extra)
    for _ in range(3):
        for weight in (ours_w, theirs_w):
            weight.grad = weight.detach() * 2
        make_update(ours)()
        theirs.step()
    assert isinstance(ours, plain)
    assert torch.equal(ours_w, theirs_w)
    assert difference(ours.state_dict(), theirs.state_dict()) == ""
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())
    assert difference(ours.state_dict(), theirs.state_dict()) == ""


def test_the_update_calls_a_step_that_is_wrapped_on_the_instance() -> None:
    """As torch's schedules wrap it, to count the steps."""
    weight = nn.Parameter(torch.ones(3))
    optimizer = make_optimizer(TrainConfig(data="x.csv", model="linear", lr=0.1), [weight])
    step, calls = optimizer.step, []
    optimizer.step = lambda: calls.append(1) or step()
    weight.grad = torch.ones(3)
    make_update(optimizer)()
    assert calls == [1]
    assert torch.equal(weight, torch.full((3,), 0.9))


class Frozen(nn.Dropout):
    """Stays in eval mode, like a frozen part of a model."""

    def train(self, mode: bool = True) -> Frozen:
        return super().train(False)


@pytest.mark.parametrize("part", [nn.Dropout(), Frozen(), nn.Sequential(Frozen())])
def test_the_mode_switch_equals_module_train(part: nn.Module) -> None:
    model = nn.Sequential(part, nn.Linear(2, 1))
    for mode in (False, True):
        model.train(mode)
        expected = [module.training for module in model.modules()]
        model.train(not mode)
        mode_switch(model)(mode)
        switched = [module.training for module in model.modules()]
        assert switched == expected


needs_compiler = pytest.mark.skipif(
    bool(compiling.missing_compiler(torch.device("cpu"))), reason="no compiler on this machine"
)


@needs_compiler
def test_compiled_and_stopped_inside_an_epoch_is_equal() -> None:
    """Stopped before the shorter last group, so the resumed process compiles that shape first."""
    config = config_of(
        "adam, dropout, clipping, plateau", compile="default", epochs=3, batch_size=48
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch.compile says of its own code
        whole = prepare(config)
        expected = list(epochs_of(whole))
        torch.compiler.reset()
        first = prepare(config)
        saved, before = interrupted(first, MidEpoch(2, compiling.GROUP))
        torch.compiler.reset()
        second = prepare(config)
        continue_from(second.state, saved)
        after = list(epochs_of(second))
        eager = list(epochs_of(prepare(config_of("adam, dropout, clipping, plateau", epochs=3))))
    assert before + after == expected
    assert_same(weights(second.state.model), weights(whole.state.model))
    assert [e.cost for e in eager] != [e.cost for e in expected], "nothing was compiled"


def interrupted(work: TrainingSetup, at: MidEpoch) -> tuple[dict[str, object], list[EpochResult]]:
    """Trains until a position inside an epoch; returns the state there and the epochs before."""
    done: list[EpochResult] = []
    for event in run_epochs(
        work.state, work.batches, work.validation, work.config, pause=lambda: True
    ):
        if event == at:
            return saved_state(work.state), done
        if isinstance(event, EpochResult):
            done.append(event)
    raise AssertionError("the training did not reach the position")


COMPILED = {
    "adamw": {},
    "adam, no validation": {"optimizer": "adam", "weight_decay": 0.1, "split": "9:0:1"},
    "momentum, clipping, a new lr each epoch, one graph an epoch": {
        "optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.1, "clip_norm": 0.3,
        "scheduler": "cosine", "drop_last": False, "batch_size": 128,
    },
    "sgd, through a loader": {"optimizer": "sgd", "lr": 1e-5, "num_workers": 1, "epochs": 2},
}  # fmt: skip


@needs_compiler
@pytest.mark.parametrize("name", COMPILED)
def test_compiled_training_equals_eager_training(name: str) -> None:
    other = {"model_args": {"hidden": [8]}, "lr": 0.01, **COMPILED[name]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        compiled, model = fast_training(config_of("float64", compile="default", **other))
    eager, plain = fast_training(config_of("float64", **other))
    for ours, theirs in zip(compiled, eager, strict=True):
        assert ours[0] == pytest.approx(theirs[0], rel=1e-9)
        assert ours[1] == (theirs[1] if theirs[1] is None else pytest.approx(theirs[1], rel=1e-9))
    for one, two in zip(weights(model), weights(plain), strict=True):
        assert torch.allclose(one, two, rtol=1e-9, atol=1e-12)
    assert model.training


@needs_compiler
def test_each_training_compiles_one_graph() -> None:
    """torch runs code uncompiled that it has compiled too often, and would for each new lr."""
    graphs = torch._dynamo.utils.counters["stats"]
    for hidden in ([3], [4], [5]):
        graphs["unique_graphs"] = 0
        with torch._dynamo.config.patch(recompile_limit=1):
            fast_training(
                config_of("float64", compile="default", batch_size=300, scheduler="cosine",
                          model_args={"hidden": hidden})
            )  # fmt: skip
        assert graphs["unique_graphs"] == 1


class Unusual(nn.Module):
    """Reads a value inside forward, which breaks the graph, and has an unused part."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(10, 1), nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.used(x)
        return y if y.sum().item() < 1e30 else -y


@needs_compiler
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch.compile's own access
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_module_with_graph_breaks_trains(optimizer: str) -> None:
    costs = []
    for mode in ("none", "default"):
        config = config_of("float64", compile=mode, batch_size=100, epochs=2, optimizer=optimizer)
        work = prepare(config)
        torch.manual_seed(0)
        state = TrainState.fresh(Unusual().double(), config, torch.device("cpu"))
        costs.append([e.cost for e in run_epochs(state, work.batches, work.validation, config)])
    assert costs[1] == pytest.approx(costs[0], rel=1e-9)


def test_without_a_compiler_the_step_is_eager(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    compiled, _ = fast_training(config_of("seed", compile="default"))
    assert "g++" in capsys.readouterr().err
    assert compiled == fast_training(config_of("seed"))[0]


@pytest.mark.parametrize("value", [0.0, -1e30, torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.complex64])
def test_one_weight_decides_whether_a_model_is_finite(value: float, dtype: torch.dtype) -> None:
    state = prepare(config_of("seed")).state
    state.model.register_parameter("more", nn.Parameter(torch.zeros(3, 5, dtype=dtype)))
    state.model.register_parameter("none", nn.Parameter(torch.zeros(0)))
    with torch.no_grad():
        state.model.more[2, 1] = value
    assert is_finite(state.model) == bool(torch.isfinite(torch.tensor(value)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_compiled_training_is_equal_on_a_gpu(mode: str, optimizer: str) -> None:
    other = {"device": "cuda", "optimizer": optimizer, "lr": 1e-5, "scheduler": "cosine"}
    compiled, _ = fast_training(config_of("float64", compile=mode, **other))
    eager, _ = fast_training(config_of("float64", **other))
    for ours, theirs in zip(compiled, eager, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-9)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mode", ["none", "default", "reduce-overhead"])
def test_stopped_inside_an_epoch_is_equal_on_a_gpu(mode: str) -> None:
    config = config_of(
        "adam, dropout, clipping, plateau", compile=mode, epochs=3, batch_size=48, device="cuda"
    )
    whole, first, second = prepare(config), prepare(config), prepare(config)
    expected = list(epochs_of(whole))
    saved, before = interrupted(first, MidEpoch(2, compiling.GROUP))
    continue_from(second.state, saved)
    assert before + list(epochs_of(second)) == expected
    assert_same(weights(second.state.model), weights(whole.state.model))
