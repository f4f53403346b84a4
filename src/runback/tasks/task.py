"""The parts of a task: losses, metrics, scores, decoding and plots."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

if TYPE_CHECKING:
    import pandas as pd  # half a second, which a training does not need
    from matplotlib.figure import Figure

# Takes output and targets; returns a scalar.
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Metric:
    """The direction of a score."""

    higher_is_better: bool = False

    def is_better(self, new: float, old: float) -> bool:
        """Whether `new` beats `old`; NaN beats nothing."""
        if math.isnan(new):
            return False
        return math.isnan(old) or (new > old if self.higher_is_better else new < old)


class Task(Protocol):
    """What a kind of learning decides, from the module's output on.

    Attributes:
        name: as stored in a model's spec.
        model_type: MLflow's name for models of this task.
        losses: the values of the option `loss`, each a function of output and targets.
        metrics: what `scores` can hold, in the order in which it is shown.
        primary_metric: the metric that decides a promotion unless another is named.
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
        """The metrics that exist for these rows, `cost` (the run's own loss) among them.

        Args:
            output: of the module, `[n, n_outputs]`, on the CPU.
            y: `[n, n_targets]`, on the CPU.
            loss: one of `losses`.
        """

    def decode(self, output: Tensor, targets: Sequence[str]) -> pd.DataFrame:
        """The predictions that an output `[n, n_outputs]` stands for, a column for each target."""

    def plots(
        self, output: Tensor, y: Tensor, targets: Sequence[str]
    ) -> Iterator[tuple[str, Figure]]:
        """Figures of scored rows, each with its file's stem; arguments as in `scores`."""

    def load_libraries(self) -> None:
        """Imports what `scores` and `plots` need."""
