"""A loop of one's own: python own_loop.py KEY [SIGNAL EPOCH BATCH] [--OPTION VALUE ...]

It draws from all generators, steps its scheduler before the batches, adds up a cost, and ends by a
signal in a place, if the run is not resumed. Prints the weights' digest and the sum.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import time

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import runback

parser = argparse.ArgumentParser()
parser.add_argument("key")
parser.add_argument("kill", nargs="*", type=int, default=[0, 0, 0])
parser.add_argument("--workers", type=int, default=0)
parser.add_argument("--loader", default="table")
parser.add_argument("--lr", type=float, default=0.05)
parser.add_argument("--seed", type=int, default=7)
parser.add_argument("--width", type=int, default=8)
parser.add_argument("--seconds", type=float, default=0.0)
parser.add_argument("--every-batch", action="store_true")
parser.add_argument("--fork", default="")
parser.add_argument("--at", type=int)
options = parser.parse_args()


class Noisy(Dataset):  # type: ignore[type-arg]
    """Draws noise for each sample, which worker processes would draw elsewhere."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.full((3,), index / 20) + torch.randn(3), torch.tensor([random.random()])


class Stream(IterableDataset):  # type: ignore[type-arg]
    """Yields samples in an order that it draws itself."""

    def __iter__(self):  # type: ignore[no-untyped-def]
        for number in torch.randperm(20).tolist():
            yield torch.full((3,), number / 20), torch.tensor([np.random.rand()]).float()


x = torch.linspace(-1, 1, 60).reshape(20, 3)
datasets = {
    "table": TensorDataset(x, x.sum(1, keepdim=True)), "noisy": Noisy(), "stream": Stream(),
}  # fmt: skip
loader = DataLoader(
    datasets[options.loader], batch_size=4, shuffle=options.loader != "stream",
    num_workers=options.workers, persistent_workers=options.workers > 0,
)  # fmt: skip
random.seed(0)
np.random.seed(0)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(3, options.width), nn.Dropout(0.2), nn.Linear(options.width, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=options.lr)
scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 4], gamma=0.5)
seed = None if options.seed < 0 else options.seed
number, at_epoch, at_batch = options.kill
with runback.run(
    "own", params={"lr": options.lr}, key=options.key, seed=seed, fork=options.fork, at=options.at
) as run:
    run.keep(model=model, optimizer=optimizer, scheduler=scheduler)
    for epoch in run.epochs(5):
        if epoch:
            scheduler.step()
        run.state["sum"] = 0.0
        for batch, (features, targets) in enumerate(run.batches(loader)):
            noise = random.random() + np.random.rand()
            cost = (model(features) - targets + 0.01 * noise).square().mean()
            optimizer.zero_grad()
            cost.backward()
            optimizer.step()
            run.state["sum"] += cost.item()
            if options.every_batch:
                run.checkpoint()
            if number and not run.is_resumed and (epoch, batch) == (at_epoch, at_batch):
                os.kill(os.getpid(), number)
        time.sleep(options.seconds)
        run.log(cost=run.state["sum"] / 5, rates={"lr": scheduler.get_last_lr()[0]})
    run.log_final(last=cost)
weights = b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())
print(hashlib.sha256(weights).hexdigest(), cost.item())
