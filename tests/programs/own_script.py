"""A loop of one's own without a key: python own_script.py FILE [EPOCH], killed in that epoch.

Prints the weights and what it was started with; the table of numbers is FILE in the working directory.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from torch import nn

import runback

name, *kill = sys.argv[1:]
x = torch.tensor([float(text) for text in Path(name).read_text().split()]).unsqueeze(1)
os.chdir("/")
torch.manual_seed(0)
model = nn.Linear(1, 1)
optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
with runback.run("own", params={"file": name}, environment=["OWN_COLOUR"]) as run:
    run.keep(model=model, optimizer=optimizer)
    for epoch in run.epochs(4):
        if kill and epoch == int(kill[0]) and not run.is_resumed:
            os.kill(os.getpid(), 9)
        cost = (model(x) - 2 * x + torch.randn(())).square().mean()
        optimizer.zero_grad()
        cost.backward()
        optimizer.step()
        run.log(cost=cost)
print(os.environ.get("OWN_COLOUR"), [value.item() for value in model.parameters()])
sys.exit(5 if run.is_resumed else 0)
