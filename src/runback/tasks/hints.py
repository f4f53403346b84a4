"""A hint at another loss, for targets that the loss of a run does not suit."""

from __future__ import annotations

from torch import Tensor

FEWEST, MOST = 3, 20  # distinct values
ROWS_OF_A_VALUE = 5  # on average
MAX_ROWS = 20_000


def hint_for(loss: str, y: Tensor) -> str:
    """What to tell about the targets of the training rows; empty if there is nothing.

    Args:
        loss: of the run.
        y: `[n_train, n_targets]`, or arrays, about which nothing is told.
    """
    if loss != "mse" or y.dim() != 2 or y.shape[1] != 1:
        return ""
    values = y[:: -(-len(y) // MAX_ROWS)].flatten()
    distinct = values.unique()
    is_few = FEWEST <= len(distinct) <= min(MOST, len(values) // ROWS_OF_A_VALUE)
    if not is_few or bool((distinct != distinct.round()).any()):
        return ""
    return (
        f"the target has only {len(distinct)} different whole numbers, which loss mse takes as "
        "amounts; if they are classes, use --loss cross_entropy"
    )
