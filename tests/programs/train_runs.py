"""Trains the runs of a JSON object (name: options); prints their IDs and predictions as JSON.

The predictions are those of the module in the training process, for fixed probe rows.
"""

import json
import sys

import torch

from runback import TrainConfig
from runback.commands import train as training

INPUTS = {"own": torch.arange(30.0).reshape(3, 10) / 7}
real = training.finish


def finish(run, setup, rebuilder):
    """Finishes the run and keeps the predictions of its module."""
    real(run, setup, rebuilder)
    model = setup.state.model.eval()
    x = INPUTS.get(name, torch.tensor([[1.0], [5.0], [11.0]]))
    with torch.no_grad():
        answers[name] = model(x.repeat(1, len(setup.table.columns.features) // x.shape[1])).tolist()


training.finish = finish
answers, ids = {}, {}
for name, options in json.loads(sys.argv[1]).items():
    ids[name] = training.train(TrainConfig(**options)).run_id
print(json.dumps({"ids": ids, "answers": answers}))
