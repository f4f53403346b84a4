"""Scores and plots of predicted class probabilities, shared by the tasks of classes.

The scores are those of scikit-learn (https://scikit-learn.org/stable/modules/model_evaluation.html).
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from runback.tasks import baselines, figures
from runback.tasks.task import Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Probabilities = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]

METRICS: Mapping[str, Metric] = {
    "cost": Metric(),
    "accuracy": Metric(higher_is_better=True),
    "balanced_accuracy": Metric(higher_is_better=True),
    "f1_macro": Metric(higher_is_better=True),
    "log_loss": Metric(),
    "roc_auc": Metric(higher_is_better=True),
}
PRIMARY_METRIC = "log_loss"
MAX_CURVES = 8
MAX_CONFUSED = 30
MAX_WRITTEN = 12
MAX_TICK = 14
MAX_WIDTH = 36
BINS = 10


def class_scores(probabilities: Probabilities, codes: Codes) -> dict[str, float]:
    """Scores of one target.

    Args:
        probabilities: `[n, n_classes]`, finite; each row sums to 1.
        codes: `[n]`, the actual classes.

    Returns:
        `accuracy`, `balanced_accuracy`, `f1_macro` (classes without rows and predictions left out),
        `log_loss` in nats, and `roc_auc` (for more than two classes the unweighted mean of one class
        against the rest). `roc_auc` is left out if a class has no row.
    """
    from sklearn import metrics

    predicted = probabilities.argmax(axis=1)
    classes = range(probabilities.shape[1])
    with warnings.catch_warnings():  # predicted classes without a row; a single class
        warnings.simplefilter("ignore", UserWarning)
        scores = {
            "accuracy": metrics.accuracy_score(codes, predicted),
            "balanced_accuracy": metrics.balanced_accuracy_score(codes, predicted),
            "f1_macro": metrics.f1_score(codes, predicted, average="macro", zero_division=0.0),
            "log_loss": metrics.log_loss(codes, probabilities, labels=classes),
        }
    if len(np.unique(codes)) == len(classes):
        ranked = probabilities[:, 1] if len(classes) == 2 else probabilities
        scores["roc_auc"] = metrics.roc_auc_score(codes, ranked, multi_class="ovr")
    return {name: float(value) for name, value in scores.items()}


def wrong_rows(probabilities: Sequence[Probabilities], codes: Sequence[Codes]) -> Probabilities:
    """For each row the share of targets whose prediction is wrong, `[n]`.

    Args:
        probabilities: `[n, n_classes]` of each target.
        codes: `[n]` of each target, the actual classes.
    """
    pairs = zip(probabilities, codes, strict=True)
    wrong: Probabilities = np.mean([p.argmax(axis=1) != c for p, c in pairs], axis=0)
    return wrong


def class_plots(
    probabilities: Probabilities, codes: Codes, labels: Sequence[str]
) -> Iterator[tuple[str, Figure]]:
    """Yields (file stem, figure) of one target: confusion matrix, ROC curves, calibration.

    Args:
        probabilities: `[n, n_classes]`.
        codes: `[n]`, the actual classes.
        labels: the names of the classes.
    """
    if len(labels) <= MAX_CONFUSED:
        yield "confusion", _confusion(probabilities.argmax(axis=1), codes, labels)
    if len(np.unique(codes)) > 1:
        yield "roc", _roc(probabilities, codes, labels)
    yield "calibration", _calibration(probabilities, codes)


def load_libraries() -> None:
    """Imports scikit-learn's metrics and matplotlib."""
    figures.load_libraries()
    for name in ("sklearn.metrics", *baselines.LIBRARIES):
        importlib.import_module(name)


def _confusion(predicted: Codes, codes: Codes, labels: Sequence[str]) -> Figure:
    """Rows: the actual class. Colors: the share of the actual class. Numbers: rows of the table."""
    n_classes = len(labels)
    counts = np.bincount(codes * n_classes + predicted, minlength=n_classes**2)
    counts = counts.reshape(n_classes, n_classes)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axes = figures.new_figure()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the actual class")
    names = [figures.label(_shortened(label)) for label in labels]
    is_wide = sum(map(len, names)) > MAX_WIDTH
    axes.set_xticks(range(n_classes), names, rotation=90 if is_wide else 0)
    axes.set_yticks(range(n_classes), names)
    axes.tick_params(labelsize="medium" if n_classes <= MAX_WRITTEN else "x-small")
    if n_classes <= MAX_WRITTEN:
        for row, column in np.ndindex(counts.shape):
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=color)
    accuracy = counts.trace() / max(counts.sum(), 1)
    axes.set(xlabel="predicted", ylabel="actual", title=f"Confusion: accuracy {accuracy:.3f}")
    return figure


def _shortened(label: str) -> str:
    """The ends of a long name: classes often differ in their last letters."""
    half = MAX_TICK // 2
    return label if len(label) <= MAX_TICK else f"{label[:half]}...{label[-half:]}"


def _roc(probabilities: Probabilities, codes: Codes, labels: Sequence[str]) -> Figure:
    """A curve for each class with rows inside and outside it, at most `MAX_CURVES`."""
    from sklearn.metrics import roc_auc_score, roc_curve

    figure, axes = figures.new_figure()
    drawn = range(1, 2) if len(labels) == 2 else range(len(labels))
    for index in [i for i in drawn if 0 < (codes == i).sum() < len(codes)][:MAX_CURVES]:
        false_positive, true_positive, _ = roc_curve(codes == index, probabilities[:, index])
        area = roc_auc_score(codes == index, probabilities[:, index])
        name = f"{figures.label(labels[index])} ({area:.3f})"
        axes.plot(false_positive, true_positive, linewidth=1.2, label=name)
    axes.plot([0, 1], [0, 1], color="0.5", linewidth=1, linestyle="--", label="by chance (0.500)")
    axes.set(xlabel="false positive rate", ylabel="true positive rate")
    axes.set_title("ROC, area under the curve in brackets")
    return figure


def _calibration(probabilities: Probabilities, codes: Codes) -> Figure:
    """The share of correct predictions over the predicted probability, in ten equal bins."""
    confidence = probabilities.max(axis=1)
    is_right = probabilities.argmax(axis=1) == codes
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    figure, axes = figures.new_figure()
    rows = np.bincount(bins, minlength=BINS)
    filled = rows > 0
    centers = np.bincount(bins, confidence, minlength=BINS)[filled] / rows[filled]
    shares = np.bincount(bins, is_right, minlength=BINS)[filled] / rows[filled]
    _draw_calibration(axes, centers, shares, rows[filled])
    return figure


def _draw_calibration(
    axes: Axes, centers: Probabilities, shares: Probabilities, rows: Codes
) -> None:
    axes.plot([0, 1], [0, 1], color="0.5", linewidth=1, linestyle="--", label="calibrated")
    axes.plot(centers, shares, color="C0", linewidth=1)
    sizes = 20 + 180 * rows / rows.sum() if rows.size else rows
    axes.scatter(centers, shares, s=sizes, color="C0", label="test rows (size: number of rows)")
    axes.set(xlabel="probability of the predicted class", ylabel="share that is right")
    axes.set_title("Calibration")
