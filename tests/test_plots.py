"""The plots of groups of rows and of a fitted curve, and the marks in that of the costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import Workspace
from runback.columns.boolean import BooleanColumn
from runback.columns.category import CategoryColumn
from runback.columns.column import Column
from runback.columns.layout import layout_of
from runback.columns.number import number_columns
from runback.tasks import by_name, figures
from runback.tasks.figures import plot_costs, plot_fit, save_figure
from runback.tasks.groups import MAX_DRAWN, errors_by_group, plot_groups
from runback.tracking import tags
from runback.tracking.record import Tags
from tracking_parts import recorded


def groups(errors: list[float], columns: list[Column], *rows: list[float]) -> dict[str, Any]:
    """The groups by name, from the values of each column."""
    features = torch.tensor(rows, dtype=torch.float64).T
    found = errors_by_group(np.array(errors), features, layout_of(columns), columns)
    assert [g.error for g in found] == sorted((g.error for g in found), reverse=True)
    return {group.name: group for group in found}


def test_the_worst_category_is_named_first() -> None:
    city = CategoryColumn("city", ("Bonn", "Ulm"), rare=True, missing=True)
    found = groups([1.0] * 10 + [3.0, 5.0] * 5, [city], [0.0] * 5 + [1.0] * 5 + [2.0, 3.0] * 5)
    assert [*found] == ["city = (missing)", "city = Ulm", "city = (rare)", "city = Bonn"]
    ulm, missing = found["city = Ulm"], found["city = (missing)"]
    assert (ulm.n_rows, ulm.error, ulm.spread) == (5, 3.0, 0.0) and missing.error == 5.0


def test_numbers_are_split_at_their_quartiles() -> None:
    x = [float(i) for i in range(101)]
    found = groups(x, [*number_columns(["x"])], x)
    assert [*found] == ["x 75 to 100", "x 50 to 75", "x 25 to 50", "x 0 to 25"]
    assert [group.n_rows for group in found.values()] == [26, 25, 25, 25]
    spread = np.std(x[75:], ddof=1) / 26**0.5
    assert found["x 75 to 100"].spread == pytest.approx(spread)
    ties = groups([1.0] * 40, [*number_columns(["x"])], [0.0] * 35 + [1.0, 2.0, 3.0, 4.0, 5.0])
    assert [(name, group.n_rows) for name, group in ties.items()] == [("x 0 to 5", 40)]


def test_small_groups_and_undefined_errors_are_left_out() -> None:
    sold = BooleanColumn("a_very_long_name_of_a_column", 0, missing=False, raw="boolean")
    errors = [float("nan")] * 2 + [1.0] * 5 + [9.0] * 4
    found = groups(errors, [sold], [0.0] * 7 + [1.0] * 4)
    assert [(name, group.n_rows) for name, group in found.items()] == [
        ("a_very_l...a_column = 0", 5)
    ]


def test_each_task_says_what_is_wrong_with_a_row() -> None:
    regression = by_name("regression")
    name, errors = regression.row_errors(torch.tensor([[1.0], [5.0]]), torch.tensor([[2.0], [2.0]]))
    assert (name, list(errors)) == ("absolute error", [1.0, 3.0])
    y = torch.tensor([[0.0, 0.0], [2.0, 20.0]])
    _, scaled = regression.row_errors(y + torch.tensor([1.0, 10.0]), y)
    assert scaled == pytest.approx([1 / 2**0.5] * 2)
    logits = torch.tensor([[2.0, 1.0], [0.0, 1.0]])
    _, wrong = by_name("classification").row_errors(logits, torch.tensor([[1], [1]]))
    assert list(wrong) == [1.0, 0.0]
    _, wrong = by_name("binary").row_errors(logits, torch.tensor([[1.0, 1.0], [1.0, 0.0]]))
    assert list(wrong) == [0.0, 1.0]


def is_drawn(file: Path) -> bool:
    return file.read_bytes().startswith(b"\x89PNG") and file.stat().st_size > 2000


def test_groups_and_curves_of_any_numbers_are_drawn(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    values = random.normal(size=(300, 40)) * 1e5
    names = [f"$_{i}_" * 9 for i in range(40)]
    columns = [*number_columns(names)]
    errors = np.abs(values[:, 3])
    found = errors_by_group(errors, torch.tensor(values), layout_of(columns), columns)
    assert len(found) == 160
    figure = plot_groups(found, float(errors.mean()), "absolute error", "300 test rows")
    assert len(figure.axes[0].get_yticklabels()) == MAX_DRAWN
    save_figure(figure, tmp_path / "errors.png")
    huge = np.array([1e300, np.nan, 0.0])
    for number, points in enumerate([(values[:, 0], values[:, 1]), (huge, huge)]):
        curve = np.linspace(-1, 1, 9), np.full(9, np.inf)
        file = tmp_path / f"fit{number}.png"
        save_figure(plot_fit({"training": points, "test": points}, curve, ("a$", "_b")), file)
        assert is_drawn(file)
    assert is_drawn(tmp_path / "errors.png")


def costs_figure(monkeypatch: pytest.MonkeyPatch, **options: Any) -> Any:
    """The figure of 30 falling costs."""
    kept: list[Any] = []
    monkeypatch.setattr(figures, "save_figure", lambda figure, _: kept.append(figure))
    curve = list(range(1, 31)), [2.0**-i for i in range(30)]
    plot_costs(Path("cost.png"), {"cost": curve}, **options)
    return kept[0]


def test_resumes_and_new_rates_are_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = [1, 11, 21], [1e-2, 1e-3, 1e-4]
    figure = costs_figure(monkeypatch, rates=rates, resumes=[7, 9])
    costs, rate = figure.axes
    labels = {line.get_label(): line for line in costs.lines}
    assert {"new lr (2)", "resumed (2)"} < labels.keys()
    marked = sorted(line.get_xdata()[0] for line in costs.lines if len(line.get_xdata()) == 2)
    assert marked == [7.5, 9.5, 10.5, 20.5]
    assert (costs.get_yscale(), rate.get_yscale()) == ("log", "log")
    many = list(range(1, 31)), [1e-3 - 1e-5 * i for i in range(30)]
    scheduled = costs_figure(monkeypatch, rates=many).axes
    assert len(scheduled[0].lines) == 1 and scheduled[1].get_yscale() == "linear"


def test_costs_within_a_decade_have_a_linear_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "save_figure", lambda figure, _: kept.append(figure))
    kept: list[Any] = []
    for values in ([3.0, 2.9], [3.0, 0.2], [3.0, 0.0], [3.0, float("nan")]):
        plot_costs(Path("cost.png"), {"cost": ([1, 2], values)})
    scales = [figure.axes[0].get_yscale() for figure in kept]
    assert scales == ["linear", "log", "linear", "linear"]


def test_a_resumed_training_has_all_plots(workspace: Workspace) -> None:
    run_id = workspace.train()
    assert workspace.runback("resume", run_id, "--epochs", "22").returncode == 0
    names = {file.path for file in workspace.client.list_artifacts(run_id, "plots")}
    stems = ("cost", "errors", "fit", "predictions", "residuals")
    assert names == {f"plots/{stem}.png" for stem in stems}
    assert recorded(workspace.client, run_id)["resumed"] == [20]


def test_damaged_places_of_resumes_are_ignored() -> None:
    for value in ([3, "x", -1, 1.5, None, 10**4000, True, 20], {"3": 20}, 3, "3"):
        resumes = Tags.parse({tags.RUN: json.dumps({"resumed": value})}).resumes
        assert resumes == ((3, 20) if isinstance(value, list) else ())
