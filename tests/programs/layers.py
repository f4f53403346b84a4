"""The sibling of `nets.py`: a block with batch norm and dropout, and a third-party import."""

import scipy.special  # noqa: F401
from torch import nn


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, width), nn.Dropout(0.25)
        )

    def forward(self, x):
        return x + self.layers(x)
