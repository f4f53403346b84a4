"""A user's module that imports a sibling and nests modules."""

from layers import Block
from torch import nn


class Net(nn.Module):
    def __init__(self, n_features, n_targets, hidden=8):
        super().__init__()
        body = nn.Sequential(Block(hidden), nn.Sequential(Block(hidden)))
        self.net = nn.ModuleDict(
            {
                "enter": nn.Linear(n_features, hidden),
                "body": body,
                "leave": nn.Linear(hidden, n_targets),
            }
        )

    def forward(self, x):
        return self.net["leave"](self.net["body"](self.net["enter"](x)))
