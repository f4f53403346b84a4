"""`runback evaluate`: scores a run's model on the run's test rows, or on another table."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.utils.data import Dataset

from runback.commands.load import Loaded, loading, scoring_of, stored_file
from runback.commands.recorded import require_fingerprint, with_data
from runback.config import parse
from runback.console.progress import say
from runback.data.csv_format import CsvFormat
from runback.data.files import is_dataset, object_name
from runback.data.frame import is_frame, named_frame, write_frame
from runback.data.split import Split, split_from_json
from runback.data.table import Table, read_dataset, read_table, tell_left_out
from runback.errors import ConfigError, DataError, JournalError, UsageError
from runback.model.batched_forward import predict_rows
from runback.model.spec import ModelSpec
from runback.storage.journal import recorded_keys
from runback.storage.paths import run_dir
from runback.tracking.artifacts import read_json
from runback.tracking.points import log_scores
from runback.training.scoring import Scoring

if TYPE_CHECKING:
    import pandas as pd  # imported late: it takes half a second


@dataclass(frozen=True)
class EvaluationResult:
    """Scores of a run's model.

    Attributes:
        epoch: of the weights, in epochs completed.
        data: the table.
        rows: number of scored rows.
        scores: by metric; metrics that are undefined for these rows are absent.
    """

    run_id: str
    epoch: int
    data: str
    rows: int
    scores: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return dataclasses.asdict(self)


def evaluate(
    run: str,
    data: str | Path | pd.DataFrame | Dataset[Any] | None = None,
    trust: bool = False,
    *,
    data_args: Mapping[str, Any] | None = None,
) -> EvaluationResult:
    """Scores a run's model on the run's test rows, or on another table.

    The scores of the test rows are logged as `test_...` metrics that the run does not have yet.

    Args:
        run: RUN in any of its forms.
        data: a table's path or a frame, with the run's features and targets; all rows are scored.
            Or a dataset: the run's test rows if it is the run's own, otherwise all rows.
        trust: as in `load_model`.
        data_args: arguments of a dataset in `data`; None for those of the run.

    Raises:
        ConfigError: `data_args` without a dataset in `data`.
        DataError: the run's table has changed, or `data` does not fit.
        UsageError: the run's split has no test rows.
        RunNotFoundError, TrackingError, TrustError, ModelError, CheckpointError: as in `load_model`.
    """
    with loading(run, trust=trust) as loaded:
        loaded = with_data_args(loaded, data, data_args)
        if is_frame(data):
            return _score_frame(loaded, data)
        if isinstance(data, Dataset):
            return _score_object(loaded, data)
        if data is not None:
            return score(loaded, str(data))
        result = score(loaded)
        _record(loaded, result.scores)
        return result


def score(loaded: Loaded, data: str | None = None) -> EvaluationResult:
    """Scores a model on its run's test rows, or on all rows of a table.

    Args:
        loaded: the model.
        data: a table; None for the test rows.

    Raises:
        DataError: the run's table has changed, or `data` does not fit.
        UsageError: the run's split has no test rows.
    """
    return _scored(loaded, *rows_of(loaded, data))


def computed(loaded: Loaded, x: Tensor, y: Tensor) -> tuple[Scoring, Tensor, Tensor]:
    """What scores rows of a table, the module's output for them, and their targets in its dtype."""
    scoring = scoring_of(loaded)
    y = y.to(scoring.task.target_dtype(loaded.spec.torch_dtype))
    return scoring, predict_rows(loaded.module, x), y


def _scored(loaded: Loaded, x: Tensor, y: Tensor, data: str) -> EvaluationResult:
    """The scores of rows of a table."""
    scoring, output, y = computed(loaded, x, y)
    scores = scoring.scores(output, y)
    return EvaluationResult(loaded.record.run_id, loaded.epoch, data, len(x), scores)


def _score_frame(loaded: Loaded, frame: pd.DataFrame) -> EvaluationResult:
    with tempfile.TemporaryDirectory(prefix="runback-") as folder:
        file = write_frame(frame, Path(folder) / "frame.parquet")
        with named_frame(file):
            return dataclasses.replace(score(loaded, str(file)), data="frame")


def _score_object(loaded: Loaded, samples: Dataset[Any]) -> EvaluationResult:
    """Scores the test rows if it is the run's own dataset, otherwise all rows."""
    name, spec = object_name(samples), loaded.spec
    table = read_dataset(
        name, spec.targets, spec.features, spec.torch_dtype, spec.labels, samples=samples
    )
    _require_shape(spec, table, name)
    if table.fingerprint != loaded.record.tags.data_fingerprint:
        return _scored(loaded, table.features, table.targets, name)
    rows = _require_test_rows(loaded, table, name)
    result = _scored(loaded, table.features[rows], table.targets[rows], name)
    _record(loaded, result.scores)
    return result


def with_data_args(loaded: Loaded, data: Any, args: Mapping[str, Any] | None) -> Loaded:
    """The model with other arguments for a dataset that the user names; None keeps the run's.

    Raises:
        ConfigError: `data` is no dataset, or the arguments are no JSON object.
    """
    if args is None:
        return loaded
    if not isinstance(data, str) or not is_dataset(data):
        raise ConfigError("option data_args: is for a dataset in data, file.py:Class")
    config = dataclasses.replace(loaded.config, data_args=parse("data_args", args))
    return dataclasses.replace(loaded, config=config)


def split_of(loaded: Loaded) -> Split:
    """The run's recorded split.

    Raises:
        TrackingError: the run has no split, or the server is unreachable.
        DataError: it cannot be rebuilt.
    """
    return split_from_json(read_json(loaded.client, loaded.record.run_id, "split.json"))


def rows_of(loaded: Loaded, data: str | None) -> tuple[Tensor, Tensor, str]:
    """All rows of a table, or the run's test rows: features, targets and the table's path.

    Raises:
        DataError, UsageError: as in `score`.
    """
    if data is None:
        return _test_rows(loaded)
    table = _table_of(loaded, data)
    return table.features, table.targets, data


def _test_rows(loaded: Loaded) -> tuple[Tensor, Tensor, str]:
    """The run's test rows: features, targets and the table's path.

    Raises:
        DataError: the run's table is missing or has changed.
        UsageError: the run's split has no test rows.
    """
    config = with_data(loaded.config, loaded.record.tags, lambda path: stored_file(loaded, path))
    table = _table_of(loaded, config.data)
    require_fingerprint(table.fingerprint, loaded.record, config.data)
    rows = _require_test_rows(loaded, table, config.data)
    return table.features[rows], table.targets[rows], config.data


def _require_test_rows(loaded: Loaded, table: Table, data: str) -> Tensor:
    """The row numbers of the test part of the run's own table.

    Raises:
        DataError: the split is one of another number of rows.
        UsageError: it has no test rows.
    """
    split = split_of(loaded)
    if split.n_rows != len(table):
        raise DataError(
            f"split.json of run {loaded.record.run_id}: a split of {split.n_rows} rows, but "
            f"{data} has {len(table)}"
        )
    if not len(split.test):
        raise UsageError(
            f"run {loaded.record.run_id}: split {loaded.config.split} has no test rows; score another "
            "table with --data"
        )
    return split.test


def _table_of(loaded: Loaded, data: str) -> Table:
    """A table with the columns of the model, or a dataset with samples of its shape.

    Raises:
        DataError: it has others.
    """
    spec, form = loaded.spec, CsvFormat.from_option(loaded.config.csv)
    if spec.shape and not is_dataset(data):
        raise DataError(
            f"{data}: the model takes samples of the shape {list(spec.shape)}; give a dataset, "
            "file.py:Class"
        )
    table = read_table(
        data, spec.targets, spec.features, spec.torch_dtype, spec.columns, form, spec.labels,
        loaded.config.missing_target, loaded.config.data_args,
    )  # fmt: skip
    _require_shape(spec, table, data)
    tell_left_out(table)
    return table


def _require_shape(spec: ModelSpec, table: Table, data: str) -> None:
    if table.target_shape != spec.target_shape:
        raise DataError(
            f"{data}: the shape of the targets is {list(table.targets.shape[1:])}, and the model "
            f"predicts {list(spec.target_shape) or 'columns of numbers'}"
        )
    if table.sample_shape != spec.shape:
        raise DataError(
            f"{data}: the shape of the samples is {list(table.features.shape[1:])}, and the model "
            f"takes {list(spec.shape) or 'rows of numbers'}"
        )


def _record(loaded: Loaded, scores: dict[str, float]) -> None:
    """Logs test metrics that neither the run nor its journal has.

    A journal that cannot be read may have them, to be delivered later; then nothing is logged.
    """
    run_id = loaded.record.run_id
    named = {f"test_{name}": value for name, value in scores.items()}
    missing = {key: value for key, value in named.items() if key not in loaded.record.metrics}
    if not missing:
        return
    try:
        waiting = _waiting_keys(run_dir(run_id).journal, loaded.epoch)
    except JournalError as error:
        say(f"warning: the scores are not recorded in run {run_id}: {error}")
        return
    missing = {key: value for key, value in missing.items() if key not in waiting}
    if missing:
        log_scores(loaded.client, run_id, missing, loaded.epoch)


def _waiting_keys(journal: Path, epoch: int) -> set[str]:
    """The metrics in the local journal, if there is one.

    Raises:
        JournalError: it cannot be read.
    """
    try:
        journal.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except OSError as error:
        raise JournalError(f"{journal} cannot be read as a journal: {error.strerror}") from error
    return recorded_keys(journal, epoch)
