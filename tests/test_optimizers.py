"""torch's optimizers and schedules by the names of their classes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn, optim

from conftest import DATA
from runback.config import TrainConfig
from runback.data.batches import Order, TableDataset, TensorBatches
from runback.errors import ConfigError
from runback.training.loop import EpochResult, run_epochs
from runback.training.setup import prepare
from runback.training.state import TrainState

CPU = torch.device("cpu")
X = torch.linspace(-1, 1, 24).reshape(8, 3)
Y = X @ torch.tensor([[1.0], [-2.0], [0.5]])


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 1)


def fresh(**options: Any) -> tuple[TrainState, TrainConfig]:
    config = TrainConfig(**{"lr": 0.01, "epochs": 6, "batch_size": 8, "shuffle": False, **options})
    return TrainState.fresh(model(), config, CPU), config


def refused(**options: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        fresh(**options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


OPTIMIZERS: dict[str, dict[str, Any]] = {
    "RMSprop": {"momentum": 0.9, "alpha": 0.5},
    "NAdam": {"betas": [0.5, 0.9]},
    "RAdam": {},
    "Adagrad": {"initial_accumulator_value": 0.1},
    "Adadelta": {},
    "Adamax": {},
    "ASGD": {},
    "Rprop": {},
    "Adafactor": {},
    "SGD": {"momentum": 0.9, "nesterov": True},
}


@pytest.mark.parametrize("scheduler", ["none", "step"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_of_torch_equals_a_loop_by_hand(name: str, scheduler: str) -> None:
    args = OPTIMIZERS[name]
    state, config = fresh(
        optimizer=name, optimizer_args=args, scheduler=scheduler, lr=0.05,
        scheduler_args={"step_size": 2} if scheduler == "step" else {},
    )  # fmt: skip
    batches = TensorBatches(TableDataset(X, Y), Order(8, 8, shuffle=False, drop_last=True, seed=0))
    found = [e.cost for e in run_epochs(state, batches, None, config) if isinstance(e, EpochResult)]
    module = model()
    optimizer = getattr(optim, name)(module.parameters(), lr=0.05, **args)
    schedule = optim.lr_scheduler.StepLR(optimizer, 2) if scheduler == "step" else None
    costs = []
    for _ in range(6):
        optimizer.zero_grad()
        cost = nn.functional.mse_loss(module(X), Y)
        cost.backward()
        optimizer.step()
        costs.append(cost.item())
        if schedule is not None:
            schedule.step()
    assert found == costs and costs[-1] < costs[0]
    assert torch.equal(state.model.weight, module.weight)


def test_arguments_of_a_usual_optimizer_are_obeyed() -> None:
    for name, args in (("sgd", {"dampening": 0.5}), ("adamw", {"amsgrad": True, "eps": 0.5})):
        state, _ = fresh(optimizer=name, optimizer_args=args)
        group = state.optimizer.param_groups[0]
        assert {key: group[key] for key in args} == args


SCHEDULES: dict[str, dict[str, Any]] = {
    "ExponentialLR": {"gamma": 0.5},
    "MultiStepLR": {"milestones": [2, 4]},
    "LinearLR": {"total_iters": 3},
    "PolynomialLR": {"total_iters": 4, "power": 2.0},
    "CosineAnnealingWarmRestarts": {"T_0": 2},
    "CyclicLR": {"base_lr": 0.001, "max_lr": 0.1, "step_size_up": 2},
    "OneCycleLR": {"max_lr": 0.1, "total_steps": 6},
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_of_torch_is_stepped_once_an_epoch(name: str) -> None:
    args = SCHEDULES[name]
    state, config = fresh(momentum=0.5, scheduler=name, scheduler_args=args)
    batches = TensorBatches(TableDataset(X, Y), Order(8, 8, shuffle=False, drop_last=True, seed=0))
    rates = [e.lr for e in run_epochs(state, batches, None, config) if isinstance(e, EpochResult)]
    optimizer = optim.SGD(model().parameters(), lr=0.01, momentum=0.5)
    schedule = getattr(optim.lr_scheduler, name)(optimizer, **args)
    expected = []
    for _ in range(6):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == expected and len(set(rates)) > 1


def test_one_cycle_stays_at_its_end_in_a_longer_run() -> None:
    args = {"max_lr": 0.1, "total_steps": 3}
    state, config = fresh(momentum=0.5, scheduler="OneCycleLR", scheduler_args=args)
    batches = TensorBatches(TableDataset(X, Y), Order(8, 8, shuffle=False, drop_last=True, seed=0))
    rates = [e.lr for e in run_epochs(state, batches, None, config) if isinstance(e, EpochResult)]
    assert rates[3:] == [rates[3]] * 3


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"optimizer": "rmsprop"}, "option optimizer: 'rmsprop' is not one of sgd, adam, adamw, ASGD"),
        ({"optimizer": "Optimizer"}, "option optimizer: 'Optimizer' is not one of"),
        ({"scheduler": "StepLr"}, "option scheduler: 'StepLr' is not one of step, cosine, plateau, "),
        ({"scheduler": "LRScheduler"}, "option scheduler: 'LRScheduler' is not one of"),
        ({"optimizer": "LBFGS"}, "option optimizer_args: LBFGS refuses {}: "),
        ({"optimizer": "Muon"}, "option optimizer_args: Muon refuses {}: "),
        ({"optimizer": "RMSprop", "optimizer_args": {"alpha": -1}}, "RMSprop refuses {'alpha': -1}: "),
        ({"optimizer_args": {"depth": 3}}, "option optimizer_args: sgd refuses {'depth': 3}: "),
        ({"optimizer": "adamw", "optimizer_args": {"betas": 3}}, "adamw refuses {'betas': 3}: "),
        ({"optimizer": "Rprop", "weight_decay": 0.1}, "option weight_decay: Rprop has none; use 0"),
        ({"scheduler": "LambdaLR"}, "option scheduler_args: LambdaLR refuses {}: "),
        ({"scheduler": "LambdaLR", "scheduler_args": {"lr_lambda": "x"}}, "LambdaLR refuses "),
        ({"scheduler": "SequentialLR"}, "option scheduler_args: SequentialLR refuses {}: "),
        ({"scheduler": "OneCycleLR", "scheduler_args": {"max_lr": 1.0, "total_steps": 9},
          "optimizer": "Adagrad"}, "option scheduler_args: OneCycleLR refuses "),
        ({"optimizer_args": {"lr": 3}}, "option optimizer_args: lr is not an argument here"),
        ({"optimizer_args": {"momentum": 3}}, "option optimizer_args: momentum is not an argument"),
        ({"optimizer": "RMSprop", "compile": "default"}, "option compile: needs an optimizer of sgd, "),
        ({"scheduler": "LinearLR", "compile": "default"}, "option compile: needs an optimizer of"),
        ({"optimizer_args": {"nesterov": True}, "compile": "default"}, "option compile: compiled "),
    ],
    ids=str,
)  # fmt: skip
def test_what_does_not_fit_is_refused(options: dict[str, Any], problem: str) -> None:
    assert problem in refused(**options)


def test_an_unknown_name_is_refused_before_the_table_is_read() -> None:
    with pytest.raises(ConfigError, match="option optimizer: 'Adm' is not one of"):
        prepare(TrainConfig(data=str(DATA / "missing.csv"), optimizer="Adm"))
