"""Makes, uses, saves and restores each optimizer; fails if torch's compiler is imported or altered."""

from __future__ import annotations

import sys

import torch
from torch import optim

from runback.config import TrainConfig
from runback.training.fastpaths import make_update
from runback.training.optimizers import make_optimizer, make_schedule

NAMES = ("add_param_group", "state_dict", "load_state_dict")
CLASSES = (optim.Optimizer, optim.SGD, optim.Adam, optim.AdamW)


def attributes() -> list[dict[str, object]]:
    methods = [getattr(optim.Optimizer, name) for name in NAMES]
    return [dict(vars(each)) for each in (*CLASSES, *methods, *(m.__wrapped__ for m in methods))]


before = attributes()
for name in ("sgd", "adam", "adamw"):
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = make_optimizer(TrainConfig(data="x.csv", optimizer=name, lr=0.1), [weight])
    weight.grad = torch.ones(2)
    make_update(optimizer)()
    optimizer.load_state_dict(optimizer.state_dict())
    assert weight[0] != 1.0
for scheduler in ("step", "cosine", "plateau"):
    config = TrainConfig(data="x.csv", scheduler=scheduler, lr=0.1, epochs=4)
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = make_optimizer(config, [weight])
    schedule = make_schedule(config, optimizer)
    weight.grad = torch.ones(2)
    make_update(optimizer)()
    schedule.step(1.0)
    assert weight[0] != 1.0 and not weight.grad.requires_grad
assert "torch._dynamo" not in sys.modules, "torch._dynamo was imported"
assert attributes() == before, "torch's optimizers were changed"
