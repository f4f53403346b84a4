"""The ten lines a colleague pastes into a notebook: python examples/reload.py RUN."""

import sys

import torch

from runback import load_model

model = load_model(sys.argv[1] if len(sys.argv) > 1 else "latest")
x = torch.tensor([[1.0], [5.0], [11.0]], dtype=next(model.parameters()).dtype)  # raw columns
with torch.no_grad():
    print(model(x))
