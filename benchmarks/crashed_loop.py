"""A small loop of one's own with a run for each folder: `python -m benchmarks.crashed_loop KEY`."""

from __future__ import annotations

import sys

import torch
from torch.utils.data import DataLoader, TensorDataset

import runback

EPOCHS = 3


def main(key: str) -> None:
    """Trains, registers the model, and keeps all checkpoints."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    x = torch.randn(40, 4)
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    loader = DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), 10, shuffle=True)
    with runback.run("loop", key=key, keep_checkpoints=0) as run:
        run.keep(model=model, optimizer=optimizer)
        for _ in run.epochs(EPOCHS):
            for features, targets in run.batches(loader):
                cost = torch.nn.functional.mse_loss(model(features), targets)
                optimizer.zero_grad()
                cost.backward()
                optimizer.step()
            run.log(cost=cost)
        run.register(model, example=x[:1])


if __name__ == "__main__":
    main(sys.argv[1])
