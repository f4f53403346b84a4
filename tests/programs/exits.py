"""A user's module and dataset whose code raises what EXIT_RAISES names, where EXIT_WHERE says."""

import asyncio  # noqa: F401 - named by EXIT_RAISES
import os

import torch
from torch import nn
from torch.utils.data import Dataset


class Custom(BaseException):
    pass


def leave(where):
    if os.environ.get("EXIT_WHERE") == where:
        raise eval(os.environ["EXIT_RAISES"])


leave("import")


class Net(nn.Module):
    def __init__(self, n_features, n_targets):
        super().__init__()
        leave("init")
        self.inner = nn.Linear(n_features, n_targets)
        self.calls = 0

    def forward(self, x):
        leave("forward")
        self.calls += 1
        if self.training and self.calls > 5:
            leave("training")
        if not self.training:
            leave("evaluation")
        return self.inner(x)


class Rows(Dataset):
    def __init__(self):
        leave("dataset")

    def __len__(self):
        return 20

    def __getitem__(self, index):
        leave("sample")
        return torch.tensor([float(index)]), torch.tensor([1.0 + index])
