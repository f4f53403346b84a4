"""The tasks of classes: losses, scores, labels and plots."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.utils.class_weight import compute_sample_weight
from torch import Tensor

from runback.columns.label import LabelColumn
from runback.errors import ConfigError
from runback.tasks import criterion
from runback.tasks.binary import Binary
from runback.tasks.classification import Classification
from runback.tasks.figures import save_figure

SPECIES = LabelColumn("species", ("a", "b", "c"), (10, 20, 30))
WILD, LARGE = LabelColumn("wild", (False, True), (3, 1)), LabelColumn("large", (0, 1), (1, 1))
CE, BCE = criterion("cross_entropy", "none", [SPECIES]), criterion("bce", "none", [WILD])


def logits(*shares: list[float]) -> Tensor:
    return torch.tensor(shares, dtype=torch.float64).log()


def test_scores_match_their_definitions() -> None:
    output = logits([0.7, 0.2, 0.1], [0.5, 0.4, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8])
    y = torch.tensor([[0], [1], [1], [2]])
    scores = Classification().scores(output, y, CE, [SPECIES])
    nats = -(math.log(0.7) + math.log(0.4) + math.log(0.8) + math.log(0.8)) / 4
    expected = {
        "cost": nats,
        "accuracy": 3 / 4,
        "balanced_accuracy": (1 + 1 / 2 + 1) / 3,
        "f1_macro": (2 / 3 + 2 / 3 + 1) / 3,
        "log_loss": nats,
        "roc_auc": 1.0,
    }
    assert scores == pytest.approx(expected)


def test_binary_scores_are_means_over_targets() -> None:
    output = torch.tensor([[2.0, -1.0], [-1.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
    y = torch.tensor([[1.0, 1.0], [0.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    both = Binary().scores(output, y, BCE, [WILD, LARGE])
    each = [
        Binary().scores(output[:, [i]], y[:, [i]], BCE, [target])
        for i, target in enumerate((WILD, LARGE))
    ]
    assert both == pytest.approx({key: (each[0][key] + each[1][key]) / 2 for key in each[0]})
    assert each[0]["accuracy"] == pytest.approx(2 / 3)
    assert each[1]["accuracy"] == pytest.approx(1 / 3)


def test_two_classes_score_alike_with_both_losses() -> None:
    output = torch.randn(50, 1, dtype=torch.float64)
    y = (torch.rand(50, 1) > 0.5).long()
    target = LabelColumn("y", ("no", "yes"), (1, 1))
    two = torch.cat((torch.zeros_like(output), output), 1)
    one = Binary().scores(output, y.double(), BCE, [target])
    assert Classification().scores(two, y, CE, [target]) == pytest.approx(one)


def test_an_auc_without_all_classes_is_left_out() -> None:
    scores = Classification().scores(torch.zeros(2, 3), torch.tensor([[0], [1]]), CE, [SPECIES])
    assert "roc_auc" not in scores
    assert scores["log_loss"] == pytest.approx(math.log(3))


def test_an_output_that_is_not_finite_has_a_cost_only() -> None:
    y = torch.zeros(2, 1)
    assert list(Binary().scores(torch.full((2, 1), torch.nan), y, BCE, [WILD])) == ["cost"]
    output = torch.full((2, 3), torch.inf)
    assert list(Classification().scores(output, y.long(), CE, [SPECIES])) == ["cost"]


def test_balanced_losses_match_scikit_learns_weights() -> None:
    torch.manual_seed(0)
    y = torch.tensor([0] * 10 + [1] * 20 + [2] * 30)[:, None]
    output = torch.randn(60, 3, dtype=torch.float64)
    weights = torch.from_numpy(compute_sample_weight("balanced", y[:, 0].numpy()))
    each = torch.nn.functional.cross_entropy(output, y[:, 0], reduction="none")
    balanced = criterion("cross_entropy", "balanced", [SPECIES])
    assert balanced(output, y).item() == pytest.approx(((each * weights).sum() / 60).item())
    rare = torch.tensor([[0.0], [0.0], [0.0], [1.0]], dtype=torch.float64)
    weights = torch.from_numpy(compute_sample_weight("balanced", rare[:, 0].numpy()))
    each = torch.nn.functional.binary_cross_entropy_with_logits(
        output[:4, :1], rare, reduction="none"
    )
    balanced = criterion("bce", "balanced", [WILD])
    assert balanced(output[:4, :1], rare).item() == pytest.approx((each[:, 0] * weights).mean())


def test_balanced_numbers_are_refused() -> None:
    with pytest.raises(ConfigError, match="option class_weights"):
        criterion("mse", "balanced", [SPECIES])


def test_labels_have_the_type_of_their_classes() -> None:
    output = logits([0.7, 0.2, 0.1], [0.1, 0.1, 0.8])
    assert Classification().decode(output, [SPECIES])["species"].tolist() == ["a", "c"]
    decoded = Binary().decode(torch.tensor([[1.0, -1.0]]), [WILD, LARGE])
    assert decoded.to_dict("list") == {"wild": [True], "large": [0]}


def test_probabilities_have_a_column_for_each_class() -> None:
    shares = Classification().decode(logits([0.7, 0.2, 0.1]), [SPECIES], probabilities=True)
    assert shares.iloc[0, 1:].to_dict() == pytest.approx(
        {"species=a": 0.7, "species=b": 0.2, "species=c": 0.1}
    )
    shares = Binary().decode(torch.zeros(1, 1), [WILD], probabilities=True)
    assert list(shares.columns) == ["wild", "wild=False", "wild=True"]
    assert shares.iloc[0, 1:].tolist() == [0.5, 0.5]


def test_the_width_of_the_output_follows_from_the_classes() -> None:
    assert Classification().n_outputs([SPECIES]) == 3
    assert Binary().n_outputs([WILD, LARGE]) == 2


def test_targets_that_do_not_fit_the_loss_are_refused() -> None:
    with pytest.raises(ConfigError, match="cross_entropy has one target, not 2"):
        Classification().n_outputs([WILD, LARGE])
    with pytest.raises(ConfigError, match="'species' has 3 classes; use cross_entropy"):
        Binary().n_outputs([SPECIES])


@pytest.mark.parametrize("actual", ["all classes", "one class", "one row"])
def test_every_plot_is_drawn(tmp_path: Path, actual: str) -> None:
    n_rows = 1 if actual == "one row" else 40
    y = torch.randint(0, 3 if actual == "all classes" else 1, (n_rows, 1))
    output = torch.randn(n_rows, 3)
    for stem, figure in Classification().plots(output, y, [SPECIES]):
        save_figure(figure, tmp_path / f"{stem}.png")
    drawn = {path.stem for path in tmp_path.iterdir()}
    assert drawn == {"confusion", "calibration"} | ({"roc"} if actual == "all classes" else set())


def test_the_training_loss_finds_the_linear_classifier() -> None:
    torch.manual_seed(0)
    x = torch.randn(200, 2, dtype=torch.float64)
    y = (x @ torch.tensor([1.0, -2.0], dtype=torch.float64) + torch.randn(200) > 0.3).long()
    module = torch.nn.Linear(2, 2, dtype=torch.float64)
    optimizer = torch.optim.LBFGS(module.parameters(), max_iter=500, tolerance_grad=1e-12)

    def closure() -> Tensor:
        optimizer.zero_grad()
        cost = CE(module(x), y[:, None])
        cost.backward()
        return cost

    optimizer.step(closure)
    best = LogisticRegression(C=math.inf, tol=1e-10).fit(x.numpy(), y.numpy())
    found = (module.weight[1] - module.weight[0]).tolist()
    assert found == pytest.approx(best.coef_[0].tolist(), rel=1e-3)
