"""A loop over steps with two batches each: python own_steps.py KEY [KILLED_AT_STEP]"""

from __future__ import annotations

import os
import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import runback

key, *kill = sys.argv[1:]
x = torch.linspace(-1, 1, 21).reshape(7, 3)
loader = DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=2, shuffle=True)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.1), nn.Linear(4, 1))
average = torch.optim.swa_utils.AveragedModel(
    model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
with runback.run("steps", key=key, checkpoint_every=4) as run:
    run.keep(model=model, average=average, optimizer=optimizer)
    batches = run.batches(loader)
    for step in run.steps(30):
        for _ in range(2):
            features, targets = next(batches)
            cost = (model(features) - targets).square().mean() / 2
            cost.backward()
        optimizer.step()
        optimizer.zero_grad()
        average.update_parameters(model)
        if step % 3 == 0:
            run.log(cost=cost, part={"weight": model[0].weight[0, 0]})
        if kill and step == int(kill[0]) and not run.is_resumed:
            os.kill(os.getpid(), 9)
print([tensor.tolist() for tensor in average.state_dict().values()], step)
