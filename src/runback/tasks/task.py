"""The interface of a task: losses, metrics, scores, decoding and plots."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

if TYPE_CHECKING:
    import pandas as pd  # imported late: it takes half a second
    from matplotlib.figure import Figure

# Takes output and targets; returns a scalar.
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Metric:
    """The direction of a score."""

    higher_is_better: bool = False

    def is_better(self, new: float, old: float) -> bool:
        """Whether `new` is better than `old`; NaN is worse than any number."""
        if math.isnan(new):
            return False
        return math.isnan(old) or (new > old if self.higher_is_better else new < old)


class Task(Protocol):
    """A kind of learning, which defines the training loss and the scores.

    Attributes:
        name: stored in the model's spec.
        model_type: MLflow's name for models of this task.
        losses: the values of the option `loss`; each maps output and targets to a scalar.
        metrics: the possible keys of `scores`, in display order.
        primary_metric: the default metric of a promotion.
    """

    @property
    def name(self) -> str: ...
    @property
    def model_type(self) -> str: ...
    @property
    def losses(self) -> Mapping[str, Loss]: ...
    @property
    def metrics(self) -> Mapping[str, Metric]: ...
    @property
    def primary_metric(self) -> str: ...

    def n_outputs(self, targets: Sequence[str]) -> int:
        """The width of the module's output."""

    def scores(self, output: Tensor, y: Tensor, loss: str) -> dict[str, float]:
        """The metrics defined for these rows, including `cost` (the run's loss).

        Args:
            output: of the module, `[n, n_outputs]`, on the CPU.
            y: `[n, n_targets]`, on the CPU.
            loss: one of `losses`.
        """

    def decode(self, output: Tensor, targets: Sequence[str]) -> pd.DataFrame:
        """Converts an output `[n, n_outputs]` to predictions, one column for each target."""

    def plots(
        self, output: Tensor, y: Tensor, targets: Sequence[str]
    ) -> Iterator[tuple[str, Figure]]:
        """Yields (file stem, figure) for scored rows; arguments as in `scores`."""

    def load_libraries(self) -> None:
        """Imports the libraries for `scores` and `plots`."""
