"""Simple models on the same rows: a score without one misleads."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from runback.console.progress import say, tell
from runback.data.batches import TableDataset
from runback.model.expanding import OneHot
from runback.open_run.run import Run
from runback.tasks.baselines import fitted_rows
from runback.training.setup import TrainingSetup

FILE = "baselines.json"
Scores = dict[str, float]


def compare_with_baselines(
    run: Run, setup: TrainingSetup, test: TableDataset, scores: Scores
) -> dict[str, Scores]:
    """Posts and returns the scores of simple models; warns if a constant is as good as the model.

    Args:
        run: gets the artifact `baselines.json`.
        setup: of the training.
        test: the test rows, on the CPU.
        scores: the model's on the test rows.
    """
    found = _baselines(setup, test)
    run.post_json(FILE, found)
    name = setup.task.primary_metric
    shown = [f"{model} {values[name]:.6g}" for model, values in found.items() if name in values]
    if shown:
        tell(f"test_{name} of simple models on the same rows: {'  '.join(shown)}")
    constant, own = found.get("constant", {}).get(name), scores.get(name)
    if constant is None or own is None or setup.task.metrics[name].is_better(own, constant):
        return found
    say(
        f"warning: test_{name} {own:.6g} is no better than that of a constant, {constant:.6g}: the "
        "model has learned nothing about these rows"
    )
    return found


def _baselines(setup: TrainingSetup, test: TableDataset) -> dict[str, Scores]:
    """The test scores of simple models by name; those that cannot be fitted are left out."""
    spec, train = setup.built.spec, setup.split.train
    targets = spec.target_columns
    rows = fitted_rows(len(train), math.prod(spec.shape or (spec.layout.one_hot_width,)))
    x = _expanded(setup, setup.table.features.index_select(0, train[rows]))
    y, x_test = setup.table.targets.index_select(0, train), _expanded(setup, test.features)
    found: dict[str, Scores] = {}
    try:
        for name, output in setup.task.baselines(x, y, rows, x_test, targets):
            found[name] = setup.task.scores(output, test.targets, setup.loss, targets)
    except (ValueError, np.linalg.LinAlgError) as error:  # features that are too large to square
        say(f"simple models cannot be fitted on these rows ({error})")
    return found


def _expanded(setup: TrainingSetup, features: Tensor) -> Tensor:
    """The features with categories as one-hot columns, and with samples flattened: `[n, width]`."""
    layout = setup.built.spec.layout
    return OneHot(layout)(features) if layout.categories else features.flatten(1)
