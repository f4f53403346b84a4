"""The training loop against a handwritten loop and torch's schedules, and edge cases."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn, optim

from conftest import DATA
from runback.config import TrainConfig
from runback.data.batches import Order, TableDataset, TensorBatches
from runback.errors import ConfigError, MemoryShortError
from runback.model.builtin import Mlp
from runback.seeding import seed_generators
from runback.training.device import choose_device, choose_threads, short_of_memory
from runback.training.loop import EpochResult, run_epochs
from runback.training.optimizers import learning_rate, make_schedule
from runback.training.setup import prepare
from runback.training.state import TrainState
from runback.training.steps import EagerSteps

CPU = torch.device("cpu")
N_ROWS, N_HELD = 37, 11


def part(n_rows: int, seed: int, dtype: torch.dtype = torch.float32) -> TableDataset:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n_rows, 3, generator=generator, dtype=dtype)
    y = x @ torch.tensor([[1.0, -2.0], [0.5, 3.0], [2.0, 0.0]], dtype=dtype) + 0.1 * x[:, :1] ** 2
    return TableDataset(x, y)


def model_of(config: TrainConfig, dropout: float = 0.0) -> nn.Module:
    seed_generators(config.seed, 0, CPU)
    model = Mlp(3, 2, hidden=[5], dropout=dropout)
    return model.double() if config.precision == "float64" else model


def config_of(**values: Any) -> TrainConfig:
    return TrainConfig(**{"lr": 0.01, "epochs": 5, "batch_size": 8, **values})


def order_of(config: TrainConfig) -> Order:
    return Order(N_ROWS, config.batch_size, shuffle=config.shuffle,
                 drop_last=config.drop_last, seed=config.seed)  # fmt: skip


def trained(
    config: TrainConfig, held: TableDataset | None = None, dropout: float = 0.0
) -> tuple[TrainState, list[EpochResult]]:
    """Trains with `run_epochs`; returns the state and the epochs."""
    dtype = torch.float64 if config.precision == "float64" else torch.float32
    state = TrainState.fresh(model_of(config, dropout), config, CPU)
    batches = TensorBatches(part(N_ROWS, 1, dtype), order_of(config))
    events = list(run_epochs(state, batches, held, config))
    results = [event for event in events if isinstance(event, EpochResult)]
    assert len(results) == len(events)
    return state, results


# A handwritten loop that uses torch only


def by_hand(config: TrainConfig) -> tuple[dict[str, Tensor], list[float]]:
    dtype = torch.float64 if config.precision == "float64" else torch.float32
    data, model = part(N_ROWS, 1, dtype), model_of(config)
    optimizer = torchs_optimizer(config, list(model.parameters()))
    criterion = {"mse": nn.MSELoss(), "l1": nn.L1Loss(), "huber": nn.HuberLoss()}[config.loss]
    order = Order(N_ROWS, config.batch_size, shuffle=True, drop_last=True, seed=config.seed)
    costs = []
    for epoch in range(1, config.epochs + 1):
        rows, batch_costs = order.rows(epoch), []
        assert rows is not None
        for low in range(0, N_ROWS - config.batch_size + 1, config.batch_size):
            index = rows[low : low + config.batch_size]
            optimizer.zero_grad()
            cost = criterion(model(data.features[index]), data.targets[index])
            cost.backward()
            if config.clip_norm:
                nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
            optimizer.step()
            batch_costs.append(cost.detach())
        costs.append(sum(batch_costs, torch.zeros((), dtype=dtype)).item() / len(batch_costs))
    return model.state_dict(), costs


def torchs_optimizer(config: TrainConfig, parameters: list[nn.Parameter]) -> optim.Optimizer:
    if config.optimizer == "sgd":
        return optim.SGD(parameters, lr=config.lr, momentum=config.momentum,
                         weight_decay=config.weight_decay, fused=bool(config.momentum))  # fmt: skip
    kind = {"adam": optim.Adam, "adamw": optim.AdamW}[config.optimizer]
    return kind(parameters, lr=config.lr, weight_decay=config.weight_decay, fused=True)


WAYS: list[dict[str, Any]] = [
    *(
        {"optimizer": optimizer, "loss": loss}
        for optimizer, loss in itertools.product(("sgd", "adam", "adamw"), ("mse", "l1", "huber"))
    ),
    {"momentum": 0.9},
    {"momentum": 0.5, "weight_decay": 0.1, "clip_norm": 0.3},
    {"weight_decay": 0.2},
    {"clip_norm": 0.05},
    {"optimizer": "adam", "weight_decay": 0.1},
    {"optimizer": "adamw", "weight_decay": 0.3, "clip_norm": 0.1},
    {"optimizer": "adamw", "precision": "float64"},
    {"momentum": 0.9, "precision": "float64"},
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS, ids=lambda way: " ".join(map(str, way.values())))
def test_the_loop_equals_a_handwritten_loop(way: dict[str, Any]) -> None:
    config = config_of(**way)
    weights, costs = by_hand(config)
    state, results = trained(config)
    assert [result.cost for result in results] == costs
    assert [result.epoch for result in results] == [1, 2, 3, 4, 5]
    for name, tensor in state.model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name


@pytest.mark.parametrize(
    "way",
    [
        {"momentum": 0.9}, {"weight_decay": 0.2}, {"clip_norm": 0.05}, {"loss": "l1"},
        {"optimizer": "adam"}, {"seed": 1}, {"batch_size": 9}, {"shuffle": False},
        {"drop_last": False}, {"precision": "bf16"}, {"precision": "float64"},
    ],
    ids=str,
)  # fmt: skip
def test_every_training_option_changes_the_result(way: dict[str, Any]) -> None:
    assert trained(config_of(**way))[1][-1].cost != trained(config_of())[1][-1].cost


def test_weight_decay_differs_between_adam_and_adamw() -> None:
    adam, adamw = (config_of(optimizer=o, weight_decay=0.3) for o in ("adam", "adamw"))
    assert trained(adam)[1][-1].cost != trained(adamw)[1][-1].cost


def test_the_smaller_last_batch_counts_as_one_batch() -> None:
    config = config_of(drop_last=False, epochs=1, lr=0.0, shuffle=False)
    data, model = part(N_ROWS, 1), model_of(config)
    costs = [
        nn.functional.mse_loss(model(x), y).item()
        for x, y in zip(data.features.split(8), data.targets.split(8), strict=True)
    ]
    assert len(costs) == 5
    (result,) = trained(config)[1]
    assert result.cost == pytest.approx(sum(costs) / 5, rel=1e-6)


# Validation


def test_validation_uses_eval_mode_and_changes_nothing() -> None:
    config, held = config_of(), part(N_HELD, 2)
    state, results = trained(config, held, dropout=0.5)
    alone, without = trained(config, None, dropout=0.5)
    assert state.model.training
    assert [r.cost for r in results] == [r.cost for r in without]
    for one, two in zip(state.model.parameters(), alone.model.parameters(), strict=True):
        assert torch.equal(one, two)
    state.model.eval()
    with torch.no_grad():
        expected = nn.functional.mse_loss(state.model(held.features), held.targets).item()
        state.model.train()
        dropped = nn.functional.mse_loss(state.model(held.features), held.targets).item()
    assert results[-1].val_cost == expected != dropped


def test_batch_statistics_are_not_learned_from_validation_rows() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))
    state = TrainState.fresh(model, config_of(), CPU)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    batches = TensorBatches(part(N_ROWS, 1), order_of(config_of()))
    EagerSteps(state, batches, part(N_HELD, 2), nn.functional.mse_loss, config_of()).validate()
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_validation_in_pieces_is_the_mean_over_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    config, held = config_of(precision="float64"), part(N_HELD, 2, torch.float64)
    whole = trained(config, held)[1][-1].val_cost
    monkeypatch.setattr("runback.training.steps.VALIDATION_ROWS", 4)
    assert trained(config, held)[1][-1].val_cost == pytest.approx(whole, rel=1e-12)


def test_no_held_out_rows_give_no_val_cost() -> None:
    for held in (None, part(0, 2)):
        state, results = trained(config_of(), held)
        assert [result.val_cost for result in results] == [None] * 5
        assert state.best is None


def test_the_best_epoch_has_the_lowest_val_cost() -> None:
    held = part(N_HELD, 2)
    config = config_of(lr=0.3, epochs=25)
    state, results = trained(config, held)
    values = [result.val_cost for result in results]
    best = min(range(25), key=lambda index: values[index] or math.inf)
    assert state.best is not None
    assert best < 24, "the last epoch is the best: nothing is tested"
    assert (state.best.epoch, state.best.val_cost) == (best + 1, values[best])
    state.model.load_state_dict(state.best.model_state_dict)
    with torch.no_grad():
        assert nn.functional.mse_loss(state.model(held.features), held.targets) == values[best]


@pytest.mark.parametrize("patience", [1, 2, 5])
def test_patience_stops_after_epochs_without_improvement(patience: int) -> None:
    held = part(N_HELD, 2)
    endless = [r.val_cost or 0.0 for r in trained(config_of(lr=0.3, epochs=60), held)[1]]
    best, expected = math.inf, 60
    since = 0
    for epoch, value in enumerate(endless, 1):
        best, since = (value, 0) if value < best else (best, since + 1)
        if since == patience:
            expected = epoch
            break
    assert expected < 60, "it never stops: nothing is tested"
    _, results = trained(config_of(lr=0.3, epochs=60, patience=patience), held)
    assert len(results) == expected
    assert [r.val_cost for r in results] == endless[:expected]


def test_patience_counts_epochs_with_nan_val_cost() -> None:
    held = TableDataset(torch.full((3, 3), math.nan), torch.zeros(3, 2))
    state, results = trained(config_of(epochs=20, patience=4), held)
    assert len(results) == 4
    assert state.best is None


# Schedules


SCHEDULES: list[tuple[dict[str, Any], Any]] = [
    ({"scheduler": "step"}, lambda o: optim.lr_scheduler.StepLR(o, 4)),
    ({"scheduler": "step", "scheduler_args": {"step_size": 2, "gamma": 0.5}},
     lambda o: optim.lr_scheduler.StepLR(o, 2, 0.5)),
    ({"scheduler": "cosine"}, lambda o: optim.lr_scheduler.CosineAnnealingLR(o, 12)),
    ({"scheduler": "cosine", "scheduler_args": {"T_max": 12, "eta_min": 0.001}},
     lambda o: optim.lr_scheduler.CosineAnnealingLR(o, 12, 0.001)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "make"), SCHEDULES, ids=["step", "step_args", "cosine", "cosine_args"]
)
def test_a_schedule_gives_the_rates_of_torch(options: dict[str, Any], make: Any) -> None:
    _, results = trained(config_of(epochs=12, **options))
    optimizer = optim.SGD(model_of(config_of()).parameters(), lr=0.01)
    theirs = make(optimizer)
    expected = []
    for _ in range(12):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    assert [result.lr for result in results] == expected
    assert len(set(expected)) > 2


@pytest.mark.parametrize("watched", ["val_cost", "cost"])
def test_plateau_follows_val_cost_or_else_cost(watched: str) -> None:
    held = part(N_HELD, 2) if watched == "val_cost" else None
    args = {"patience": 1, "factor": 0.5}
    config = config_of(epochs=40, lr=0.5, scheduler="plateau", scheduler_args=args)
    _, results = trained(config, held)
    optimizer = optim.SGD(model_of(config_of()).parameters(), lr=0.5)
    theirs = optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=1, factor=0.5)
    expected = []
    for result in results:
        expected.append(optimizer.param_groups[0]["lr"])
        theirs.step(getattr(result, watched))
    assert [result.lr for result in results] == expected
    assert len(set(expected)) > 2


def test_a_cosine_schedule_stays_at_its_minimum() -> None:
    config = config_of(epochs=20, scheduler="cosine", scheduler_args={"T_max": 6, "eta_min": 0.002})
    _, results = trained(config)
    rates = [result.lr for result in results]
    assert rates[0] == 0.01
    assert rates[:7] == sorted(rates[:7], reverse=True)
    assert rates[6:] == [rates[6]] * 14
    assert rates[6] == pytest.approx(0.002)


@pytest.mark.parametrize(
    ("scheduler", "args"),
    [
        ("step", {"step_size": 0}), ("step", {"step_size": "x"}), ("step", {"step_size": 1.5}),
        ("step", {"gamma": "x"}), ("step", {"gamma": 1e200}), ("step", {"T_max": 3}),
        ("step", {"last_epoch": 3}), ("step", {"optimizer": 1}),
        ("cosine", {"T_max": 0}), ("cosine", {"T_max": "x"}), ("cosine", {"eta_min": "x"}),
        ("cosine", {"T_max": True}),
        ("plateau", {"factor": 2.0}), ("plateau", {"patience": "x"}), ("plateau", {"mode": "down"}),
        ("plateau", {"threshold": "x"}),
    ],
)  # fmt: skip
def test_schedule_arguments_that_do_not_fit_are_refused(scheduler: str, args: Any) -> None:
    config = config_of(scheduler=scheduler, scheduler_args=args)
    with pytest.raises(ConfigError) as caught:
        TrainState.fresh(model_of(config), config, CPU)
    assert str(caught.value).startswith(f"option scheduler_args: {scheduler} refuses ")
    assert "\n" not in str(caught.value)


def test_checking_a_schedule_does_not_advance_it() -> None:
    config = config_of(scheduler="step", scheduler_args={"step_size": 1})
    optimizer = optim.SGD(model_of(config).parameters(), lr=0.01)
    schedule = make_schedule(config, optimizer)
    assert schedule is not None
    assert learning_rate(optimizer) == 0.01
    assert schedule.torch_schedule.last_epoch == 0


# Precision, devices, threads


def test_bf16_computes_in_bf16_and_keeps_float32_weights() -> None:
    seen: list[torch.dtype] = []
    config = config_of(precision="bf16", optimizer="adamw")
    for loss in ("mse", "l1", "huber"):
        state = TrainState.fresh(model_of(config), config, CPU)
        state.model.hidden[0].register_forward_hook(lambda _m, _i, out: seen.append(out.dtype))  # type: ignore[union-attr,index,operator]
        order = Order(N_ROWS, 8, shuffle=True, drop_last=True, seed=0)
        config = config_of(precision="bf16", optimizer="adamw", loss=loss, epochs=30)
        results = list(run_epochs(state, TensorBatches(part(N_ROWS, 1), order), part(5, 2), config))
        assert isinstance(results[-1], EpochResult) and isinstance(results[0], EpochResult)
        assert results[-1].cost < results[0].cost
        assert {p.dtype for p in state.model.parameters()} == {torch.float32}
    assert set(seen) == {torch.bfloat16}


def test_float64_keeps_weights_and_costs_in_float64() -> None:
    state, results = trained(config_of(precision="float64", epochs=2), part(5, 2, torch.float64))
    assert {p.dtype for p in state.model.parameters()} == {torch.float64}
    assert state.cost_sum.dtype == torch.float64
    assert results[-1].cost != float(torch.tensor(results[-1].cost, dtype=torch.float32))


@pytest.mark.parametrize("precision", ["float32", "bf16", "float64"])
def test_a_whole_preparation_trains_in_every_precision(precision: str) -> None:
    config = TrainConfig(
        data=str(DATA / "diabetes.csv"), model="mlp", normalize="standard", optimizer="adamw",
        lr=0.01, batch_size=64, epochs=3, precision=precision, device="cpu",
    )  # fmt: skip
    work = prepare(config)
    events = list(run_epochs(work.state, work.batches, work.validation, config))
    costs = [event.cost for event in events if isinstance(event, EpochResult)]
    assert costs == sorted(costs, reverse=True)


NOT_HERE = {"cuda": not torch.cuda.is_available(), "mps": not torch.backends.mps.is_available()}


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps", "cuda:64"])
def test_a_missing_device_is_refused(device: str) -> None:
    if not NOT_HERE[device.split(":")[0]] and device != "cuda:64":
        pytest.skip(f"this machine may have {device}")
    with pytest.raises(ConfigError) as caught:
        choose_device(device)
    assert str(caught.value).startswith(f"option device: '{device}': this machine has ")
    assert str(caught.value).endswith("use cpu or auto")
    with pytest.raises(ConfigError, match="option device"):
        prepare(TrainConfig(data=str(DATA / "non_linear.csv"), device=device))


@pytest.mark.parametrize("device", ["tpu", "", "CUDA", "cuda:", "cuda:x", "cpu:0", "xla"])
def test_an_unknown_device_is_refused(device: str) -> None:
    with pytest.raises(ConfigError, match=f"option device: '{device}' is not one of auto, cpu"):
        choose_device(device)


def test_device_auto_without_an_accelerator_is_cpu() -> None:
    assert choose_device("cpu") == CPU
    if all(NOT_HERE.values()):
        assert choose_device("auto") == CPU


def test_only_large_steps_use_all_threads(threads: None) -> None:
    own = choose_threads(0, 10**9, 128)
    assert choose_threads(0, 100, 128) == 1
    assert choose_threads(3, 100, 128) == 3
    torch.set_num_threads(1)  # as a small run before in the same process does
    assert choose_threads(0, 10**9, 128) == own


def test_scales_do_not_depend_on_the_thread_count(threads: None, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(150_000, 2, generator=generator, dtype=torch.float64) * 100
    pq.write_table(pa.table({"x": x[:, 0].numpy(), "y": x[:, 1].numpy()}), tmp_path / "t.parquet")
    config = TrainConfig(
        data=str(tmp_path / "t.parquet"), model="linear", normalize="standard", precision="float64"
    )
    found = []
    for count in (1, 2, 4):
        torch.set_num_threads(count)
        found.append(prepare(config).state.model.state_dict()["scale.scale"])
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_out_of_memory_is_one_sentence() -> None:
    with pytest.raises(MemoryShortError) as caught, short_of_memory(CPU):
        torch.empty(2**60, dtype=torch.uint8)
    assert str(caught.value).startswith("no memory left on cpu; try a smaller batch_size")
    assert "\n" not in str(caught.value)
    with pytest.raises(MemoryShortError), short_of_memory(CPU):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nGPU 0 ...")


def test_errors_other_than_out_of_memory_pass_through() -> None:
    with pytest.raises(RuntimeError, match="shapes"), short_of_memory(CPU):
        torch.zeros(2, 3) @ torch.zeros(2, 3)
