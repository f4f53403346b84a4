"""Registers a module of a class of this script, and is killed if the run is not resumed.

Prints the module's output for ones.
"""

from __future__ import annotations

import os
import signal

import torch
from torch import nn

import runback

SLOPE = 0.1


def activation(x: torch.Tensor) -> torch.Tensor:
    return nn.functional.leaky_relu(x, SLOPE)


class Net(nn.Module):
    """A module of the script's own, with an argument that is no attribute."""

    def __init__(self, n_inputs: int, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(n_inputs, 2 * width), nn.Linear(2 * width, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(activation(self.first(x)))


torch.manual_seed(0)
net = Net(3, 4)
optimizer = torch.optim.Adam(net.parameters())
with runback.run("own", key="k", register="nets") as run:
    run.keep(net=net, optimizer=optimizer)
    for _ in run.epochs(3):
        cost = net(torch.randn(8, 3)).square().mean()
        optimizer.zero_grad()
        cost.backward()
        optimizer.step()
        run.log(cost=cost)
    run.register(net, example=torch.randn(2, 3), args={"n_inputs": 3, "width": 4})
    if not run.is_resumed:
        os.kill(os.getpid(), signal.SIGKILL)
print(net(torch.ones(1, 3)).tolist())
