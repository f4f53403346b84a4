"""Scores match their definitions, and plots take any columns and costs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from runback import cli
from runback.columns.label import LabelColumn
from runback.config import AUTO, LOSSES
from runback.model.batched_forward import predict_rows
from runback.model.builtin import Mlp
from runback.tasks import TASKS, NumberTarget, Task, by_loss, criterion
from runback.tasks.figures import plot_costs, save_figure
from runback.tasks.regression import Regression

METRICS = Regression().metrics


def scores(output: Tensor, y: Tensor, loss: str) -> dict[str, float]:
    targets = [NumberTarget(f"y{index}") for index in range(y.shape[1])]
    return Regression().scores(output, y, criterion(loss, "none", targets), targets)


VALUES = st.lists(st.floats(-1e3, 1e3, width=32), min_size=4, max_size=4)


@given(st.lists(VALUES, min_size=2, max_size=9))
def test_scores_match_their_definitions(rows: list[list[float]]) -> None:
    table = torch.tensor(rows)
    predicted, actual = table[:, :2], table[:, 2:]
    found = scores(predicted, actual, "mse")
    p, a = predicted.double().numpy(), actual.double().numpy()
    assert found["cost"] == nn.functional.mse_loss(predicted, actual).item()
    assert found["rmse"] == pytest.approx(np.sqrt(((p - a) ** 2).mean(axis=0)).mean())
    assert found["mae"] == pytest.approx(np.abs(p - a).mean())
    spread = ((a - a.mean(axis=0)) ** 2).sum(axis=0)
    if (spread > 1e-9).all():
        r2 = 1 - ((p - a) ** 2).sum(axis=0) / spread
        assert found["r2"] == pytest.approx(r2.mean(), rel=1e-6, abs=1e-6)


def test_the_cost_score_uses_the_loss_of_the_run() -> None:
    predicted, actual = torch.tensor([[0.0], [4.0]]), torch.tensor([[0.5], [1.0]])
    costs = {loss: scores(predicted, actual, loss)["cost"] for loss in ("mse", "l1", "huber")}
    assert costs == {"mse": 4.625, "l1": 1.75, "huber": 1.3125}


def test_one_row_has_no_r2() -> None:
    one = torch.ones(1, 1)
    assert set(scores(one, one, "mse")) == {"cost", "rmse", "mae"}


def test_predictions_that_are_not_finite_have_few_scores() -> None:
    wrong = torch.tensor([[math.nan], [1.0]])
    assert set(scores(wrong, torch.ones(2, 1), "mse")) == {"cost"}
    huge = torch.tensor([[1e200], [-1e200]], dtype=torch.float64)
    assert scores(-huge, huge, "mse")["rmse"] == math.inf


def test_a_target_that_never_changes_has_no_r2() -> None:
    actual = torch.tensor([[1.0, 5.0], [2.0, 5.0], [4.0, 5.0]])
    assert set(scores(actual + 1, actual, "mse")) == {"cost", "rmse", "mae"}
    assert scores(actual[:, :1], actual[:, :1], "mse")["r2"] == 1


def test_printed_json_has_null_for_nan_and_infinity(capsys: pytest.CaptureFixture[str]) -> None:
    cli._print_json({"scores": {"cost": math.nan, "rmse": math.inf, "mae": 0.5}})
    out = capsys.readouterr().out
    assert json.loads(out, parse_constant=pytest.fail)["scores"] == {
        "cost": None, "rmse": None, "mae": 0.5,
    }  # fmt: skip


def test_predictions_use_eval_mode_and_restore_it() -> None:
    module = Mlp(2, 1, hidden=[4], dropout=0.5)
    x = torch.randn(50, 2)
    for training in (True, False):
        module.train(training)
        assert torch.equal(predict_rows(module, x), predict_rows(module, x))
        assert module.training is training
    assert not predict_rows(module, x).requires_grad


@pytest.mark.usefixtures("threads")
def test_predictions_are_the_same_with_other_threads() -> None:
    """With AVX-512 and without the one thread, two of these rows differ in their last bit."""
    torch.manual_seed(0)
    module = Mlp(26, 1, hidden=[64, 64])
    for n_rows in (53_940, 1000, 999, 7):
        x = torch.randn(n_rows, 26)
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(predict_rows(module, x))
            assert torch.get_num_threads() == threads
        assert torch.equal(found[0], found[1])
        assert torch.equal(found[0], found[2])


class Threads(nn.Module):
    """A module that returns the number of threads that compute it."""

    def __init__(self, n_weights: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(n_weights))

    def forward(self, x: Tensor) -> Tensor:
        return x.new_full((len(x), 1), torch.get_num_threads())


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(
    ("shape", "n_weights", "threads"),
    [((2,), 500_000, 1), ((2,), 600_000, 2), ((1, 8, 8), 8000, 1), ((1, 32, 32), 8000, 2)],
)
def test_a_small_module_predicts_with_one_thread(
    shape: tuple[int, ...], n_weights: int, threads: int
) -> None:
    torch.set_num_threads(2)
    assert predict_rows(Threads(n_weights), torch.zeros(3, *shape)).eq(threads).all()


def test_better_depends_on_the_metric() -> None:
    for name in ("cost", "rmse", "mae"):
        assert METRICS[name].is_better(1.0, 2.0) and not METRICS[name].is_better(2.0, 2.0)
    assert METRICS["r2"].is_better(0.9, 0.5) and not METRICS["r2"].is_better(0.5, 0.9)
    assert not METRICS["r2"].is_better(math.nan, 0.5)
    assert METRICS["r2"].is_better(0.5, math.nan)


def test_the_option_loss_offers_the_losses_of_all_tasks() -> None:
    """The option names them itself, as --help imports no torch; a loss belongs to one task."""
    losses = [loss for task in TASKS.values() for loss in task.losses]
    assert (AUTO, *losses) == LOSSES
    for loss in losses:
        assert loss in by_loss(loss).losses


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_each_score_has_a_metric_with_a_direction(task: Task) -> None:
    is_regression = task.name == "regression"
    target = NumberTarget("y") if is_regression else LabelColumn("y", (0, 1), (2, 1))
    y = torch.tensor([[0.0], [1.0], [0.0]]).to(task.target_dtype(torch.float32))
    output = torch.randn(3, task.n_outputs([target]))
    for loss in task.losses.values():
        assert task.scores(output, y, loss, [target]).keys() == task.metrics.keys()
    assert task.primary_metric in task.metrics


def drawn(file: Path) -> bool:
    return file.read_bytes().startswith(b"\x89PNG") and file.stat().st_size > 2000


@pytest.mark.parametrize(
    "values", [[2.0], [2.0, 2.0], [0.0, 0.0], [1.0, math.nan], [math.nan] * 2, [math.inf, 1.0],
               [1e308, 1.7e308], [1e300, 1e-300], [3.0, 2.0, 1.0] * 50, [-1.0, 2.0]],
)  # fmt: skip
def test_any_costs_are_plotted(tmp_path: Path, values: list[float]) -> None:
    file = tmp_path / "plots" / "cost.png"
    steps = range(1, len(values) + 1)
    curves = {"cost": (steps, values), "val_cost": (steps, values[::-1])}
    plot_costs(file, curves)
    assert drawn(file)
    plot_costs(file, curves, "$a_title$", best=(1, values[0]), rates=([1, 2], values[:1] * 2))
    assert drawn(file)


def plot_predictions(file: Path, actual: Tensor, predicted: Tensor, names: list[str]) -> None:
    stems = []
    for stem, figure in Regression().plots(predicted, actual, list(map(NumberTarget, names))):
        save_figure(figure, file)
        assert drawn(file)
        stems.append(stem)
    assert stems == ["predictions", "residuals"]


@pytest.mark.parametrize(
    "name", ["y", "$x_$", "price in $", "$$", "_y", "温度", "a\nb", "y" * 500, "\\frac{", "%", "^"]
)
def test_columns_of_any_name_are_plotted(tmp_path: Path, name: str) -> None:
    file = tmp_path / "predictions.png"
    plot_predictions(file, torch.ones(3, 1), torch.zeros(3, 1), [name])
    assert drawn(file)


def test_many_predictions_are_drawn_as_a_density(tmp_path: Path) -> None:
    """Of a few equal rows, and of many: the latter have a colour bar."""
    for rows, n_axes in ((3, 1), (5000, 2)):
        y = torch.linspace(0, 1, rows, dtype=torch.float64).reshape(-1, 1)
        for stem, figure in Regression().plots(y.round(decimals=1), y, [NumberTarget("y")]):
            assert len(figure.axes) == n_axes, stem
            assert f"{rows} test rows" in figure.axes[0].get_title()
            save_figure(figure, tmp_path / "plot.png")


@pytest.mark.parametrize("value", [0.0, 1e-300, 1.7e308, math.nan, math.inf])
@pytest.mark.parametrize("width", [1, 200])
def test_any_predictions_are_plotted(tmp_path: Path, value: float, width: int) -> None:
    file = tmp_path / "predictions.png"
    actual = np.linspace(-value if math.isfinite(value) else -1, 1, 5 * width).reshape(5, width)
    names = [f"target number {index}" for index in range(width)]
    predicted = torch.full((5, width), value, dtype=torch.float64)
    plot_predictions(file, torch.from_numpy(actual), predicted, names)
    assert drawn(file)
