"""Simple models from scikit-learn, fitted on the same rows, which a score is compared with."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator

Array = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]

LIBRARIES = ("sklearn.linear_model", "sklearn.pipeline", "sklearn.preprocessing")
# A linear model of few columns hardly changes with more rows; the end of a training must not wait.
MAX_ROWS = 20_000
MAX_CELLS = 2_000_000
MAX_ITERATIONS = 200
SMALLEST = 1e-15


def fitted_rows(n_rows: int, n_columns: int) -> slice:
    """The training rows on which the baselines are fitted: all, or evenly spaced ones."""
    most = max(2, min(MAX_ROWS, MAX_CELLS // max(n_columns, 1)))
    return slice(None, None, -(-n_rows // most))


def mean_of(y: Array, n: int) -> Array:
    """The mean over the rows of `[n_train, ...]` as the prediction `[n, ...]`."""
    return np.broadcast_to(y.mean(axis=0), (n, *y.shape[1:])).copy()


def linear_numbers(x: Array, y: Array, x_test: Array) -> Array:
    """Predictions of `sklearn.linear_model.LinearRegression`, `[n_test, n_targets]`."""
    from sklearn.linear_model import LinearRegression

    predicted: Array = _scaled(LinearRegression()).fit(x, y).predict(x_test)
    return predicted.reshape(len(x_test), -1)


def shares_of(codes: Codes, n: int, n_classes: int) -> Array:
    """The share of each class in `[n_train]` as its probability, `[n, n_classes]`."""
    shares = np.bincount(codes, minlength=n_classes) / len(codes)
    return np.broadcast_to(np.clip(shares, SMALLEST, 1), (n, n_classes)).copy()


def linear_probabilities(x: Array, codes: Codes, x_test: Array, n_classes: int) -> Array:
    """Probabilities of `sklearn.linear_model.LogisticRegression`, `[n_test, n_classes]`."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(codes)) == 1:
        return shares_of(codes, len(x_test), n_classes)
    model = _scaled(LogisticRegression(max_iter=MAX_ITERATIONS))
    with warnings.catch_warnings():  # the solution after MAX_ITERATIONS is good enough
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x, codes)
    probabilities = np.full((len(x_test), n_classes), SMALLEST)
    probabilities[:, model.classes_] = np.clip(model.predict_proba(x_test), SMALLEST, 1)
    return probabilities


def _scaled(model: BaseEstimator) -> BaseEstimator:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), model)
