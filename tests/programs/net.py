"""A user's module with batch norm and dropout; tests alter copies of this file."""

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, n_features, n_targets, hidden=4):
        super().__init__()
        self.inner = nn.Sequential(
            nn.Linear(n_features, hidden),
            nn.BatchNorm1d(hidden),
            nn.Dropout(0.5),
            nn.Linear(hidden, n_targets),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)
