"""Real tables: the default MLP beside scikit-learn's usual models, on the same test rows.

    python -m benchmarks.real_tables

Each table is trained with the defaults of `runback train` for tables, without tracking; only what
is named in `TABLES` is set. Nothing is tuned on the test rows: the MLP's weights are those of the
epoch with the lowest validation cost. The linear model (least squares, or logistic regression) and
HistGradientBoosting train on the training rows alone, as they have no use for validation rows, and
see the raw columns: numbers with missing values filled by the median, texts one-hot encoded or, for
boosting, as categories.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import is_classifier
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import accuracy_score, r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from benchmarks.common import ROOT, median, options, publish, table
from runback.config import TrainConfig
from runback.model.batched_forward import predict_rows
from runback.training.loop import run_epochs
from runback.training.setup import TrainingSetup, held_out, prepare

FOLDER = ROOT / "tests" / "tables"
SEEDS = range(3)


def of_sklearn(name: str) -> Callable[[], pd.DataFrame]:
    """A table that comes with scikit-learn, its target as text."""

    def frame() -> pd.DataFrame:
        import sklearn.datasets

        bunch = getattr(sklearn.datasets, f"load_{name}")(as_frame=True)
        target = pd.Series(np.asarray(bunch.target_names)[bunch.target], dtype="str")
        found: pd.DataFrame = bunch.frame.assign(target=target)
        return found

    return frame


def of_file(file: Path) -> Callable[[], pd.DataFrame]:
    """A CSV file."""
    return lambda: pd.read_csv(file)


@dataclass(frozen=True)
class RealTable:
    """A table and how it is trained.

    Attributes:
        frame: reads it.
        target: the column to predict.
        leaks: columns that hold the target in another form, which are left out.
        options: further options of the training.
    """

    frame: Callable[[], pd.DataFrame]
    target: str
    leaks: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)

    def config(self, data: Path, **more: Any) -> TrainConfig:
        """The configuration of a training on a file that holds the table."""
        features = ("*", *(f"-{name}" for name in self.leaks))
        given = {"target": (self.target,), "features": features, **self.options, **more}
        return TrainConfig(data=str(data), **given)


CLASSES: dict[str, Any] = {"split": "stratified"}
TABLES = {
    "diamonds": RealTable(of_file(FOLDER / "diamonds.csv.gz"), "price", (), {"epochs": 30}),
    "bikeshare": RealTable(
        of_file(FOLDER / "bikeshare.csv.gz"), "bikers", ("casual", "registered"), {"epochs": 200}
    ),
    "wage": RealTable(of_file(FOLDER / "wage.csv.gz"), "wage", ("logwage",), {"epochs": 200}),
    "iris": RealTable(of_sklearn("iris"), "target", (), CLASSES),
    "wine": RealTable(of_sklearn("wine"), "target", (), CLASSES),
    "breast_cancer": RealTable(of_sklearn("breast_cancer"), "target", (), CLASSES),
}


def score_of_mlp(setup: TrainingSetup, metric: str) -> float:
    """Trains to the end of patience, and scores the best weights on the test rows."""
    for _ in run_epochs(setup.state, setup.batches, setup.validation, setup.config):
        pass
    assert setup.state.best is not None
    setup.state.model.load_state_dict(setup.state.best.model_state_dict)
    test = held_out(setup)
    assert test is not None
    output = predict_rows(setup.state.model, test.features)
    columns = setup.built.spec.target_columns
    return setup.task.scores(output, test.targets, setup.loss, columns)[metric]


def score_of(estimator: Any, frame: pd.DataFrame, target: str, setup: TrainingSetup) -> float:
    """Fits an estimator on the training rows of the raw table and scores the same test rows."""
    rows, test = (frame.iloc[part.numpy()] for part in (setup.split.train, setup.split.test))
    estimator.fit(rows.drop(columns=target), rows[target])
    predicted = estimator.predict(test.drop(columns=target))
    score = accuracy_score if is_classifier(estimator) else r2_score
    return float(score(test[target], predicted))


def linear(classes: bool) -> Any:
    """Least squares or logistic regression on scaled numbers and one-hot texts."""
    numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    columns = make_column_transformer(
        (numbers, make_column_selector(dtype_include="number")),
        (OneHotEncoder(handle_unknown="ignore"), make_column_selector(dtype_exclude="number")),
    )
    return make_pipeline(
        columns, LogisticRegression(max_iter=2000) if classes else LinearRegression()
    )


def boosting(classes: bool) -> Any:
    """HistGradientBoosting with scikit-learn's defaults."""
    kind = HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor
    return kind(categorical_features="from_dtype", random_state=0)


def scores(name: str, folder: Path, seed: int) -> tuple[float, float, float]:
    """Scores of a table for one seed: the MLP, the linear model, boosting."""
    real = TABLES[name]
    frame, data = real.frame(), folder / f"{name}.csv"
    frame.to_csv(data, index=False)
    setup = prepare(real.config(data, seed=seed))
    classes, kept = setup.task.has_classes, frame.drop(columns=list(real.leaks))
    texts = kept.columns.difference([real.target]).intersection(
        kept.select_dtypes(exclude="number").columns
    )
    kept = kept.astype(dict.fromkeys(texts, "category"))
    peers = [score_of(kind(classes), kept, real.target, setup) for kind in (linear, boosting)]
    return score_of_mlp(setup, "accuracy" if classes else "r2"), *peers


def digit_scores(seed: int) -> tuple[float, float, float]:
    """As `scores`, of the digits: the convolution of `examples/` sees images, the others 64 pixels."""
    import sklearn.datasets

    file = ROOT / "examples" / "digits.py"
    config = TrainConfig(
        data=f"{file}:Digits", model=f"{file}:Net", split="stratified", optimizer="adamw", lr=0.003,
        epochs=12, batch_size=32, seed=seed,
    )  # fmt: skip
    setup = prepare(config)
    frame = sklearn.datasets.load_digits(as_frame=True).frame
    peers = [score_of(kind(True), frame, "target", setup) for kind in (linear, boosting)]
    return score_of_mlp(setup, "accuracy"), *peers


def medians(found: Sequence[tuple[float, ...]]) -> list[str]:
    """The cells of a row: of each model, the median over the seeds."""
    return [f"{median(column):.3f}" for column in zip(*found, strict=True)]


def main() -> None:
    """Measures and prints: one row a table, medians over the seeds."""
    import tempfile

    seeds = range(1) if options(__doc__).quick else SEEDS
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, real in TABLES.items():
            found = [scores(name, Path(folder), seed) for seed in seeds]
            cells = medians(found)
            score = "accuracy" if "split" in real.options else "R²"
            rows.append((f"{name}, {real.target}", score, *cells))
    digits = medians([digit_scores(seed) for seed in seeds])
    rows.append(("digits as images, digit", "accuracy", *digits))
    body = [
        f"Medians over {len(seeds)} seeds of split and weights; sources of the tables: "
        "`tests/tables/README.md`. Columns that hold the target in another form are left out. The "
        "digits are images [1, 8, 8] for the convolution of `examples/digits.py`, trained for 12 "
        "epochs, and 64 pixels for the others.",
        "",
        *table(("table", "score", "runback", "linear", "HistGradientBoosting"), rows),
    ]
    publish("real_tables", "Real tables", body, ("scikit-learn",))


if __name__ == "__main__":
    main()
