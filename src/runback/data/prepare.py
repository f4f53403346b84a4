"""A training's table: read, split, fitted on its training rows, and encoded."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import Dataset

from runback.columns.label import LabelColumn
from runback.columns.number import NotANumberError
from runback.columns.tensors import require_columns
from runback.config import TrainConfig
from runback.console.progress import tell
from runback.data.choose import choose_columns, choose_kinds, without_ignored
from runback.data.classes import encode_classes, fit_classes
from runback.data.csv_format import CsvFormat
from runback.data.encode import example_rows, fit_columns, fit_labels
from runback.data.files import PACKAGED_EXAMPLE, existing, is_dataset
from runback.data.missing_targets import REFUSE, rows_with_targets
from runback.data.raw import RawTable, Wanted, read_raw
from runback.data.readers import column_names
from runback.data.rules import draw_split
from runback.data.split import Split
from runback.data.table import Table, encoded_table, read_dataset
from runback.errors import ConfigError, DataError

EXAMPLE_ROWS = 3
EXAMPLE_VALUES = 30_000


@dataclass(frozen=True)
class Prepared:
    """A table and its split.

    Attributes:
        example: the features of a few training rows, as they are in the table.
        constant: the features that are left out, as they are constant in the training rows.
        labels: the classes of the targets; empty for numbers. Targets are then their codes, int64.
    """

    table: Table
    split: Split
    example: list[list[Any]]
    constant: tuple[str, ...] = field(default=())
    labels: tuple[LabelColumn, ...] = ()


def prepare_table(
    config: TrainConfig,
    dtype: torch.dtype,
    has_classes: bool | None = False,
    samples: Dataset[Any] | None = None,
) -> Prepared:
    """Reads and splits the table of a configuration, and encodes it.

    Everything about the columns is found from the training rows; a change of other rows changes
    neither the columns nor their numbers.

    Args:
        config: the options.
        dtype: of the features, and of targets that are numbers.
        has_classes: whether the targets are classes; None to find it: texts and truth values are.
        samples: a dataset object, which is the data; None for the data that the options name.

    Raises:
        ConfigError: options that contradict the data.
        DataError: the table cannot be used.
    """
    if samples is not None or is_dataset(config.data):
        return _prepared_dataset(config, dtype, has_classes, samples)
    if config.data_args:
        raise ConfigError("option data_args: has no effect on a table; data names no dataset")
    form = CsvFormat.from_option(config.csv)
    wanted, kinds = _wanted(config, form, bool(has_classes))
    raw = read_raw(wanted, dtype)
    if has_classes is None:
        has_classes = all(name in raw.cells for name in raw.columns.targets)
    kept = rows_with_targets(raw, config.missing_target)
    split = _split(config, raw, kept)
    train = split.train if kept is None else kept[split.train]
    fitted = fit_columns(raw, train, kinds)
    example = example_rows(raw, fitted.columns, train[:EXAMPLE_ROWS])
    labels = fit_labels(raw, train) if has_classes else ()
    with _naming_classes(raw):
        table = encoded_table(raw, fitted.columns, dtype, labels, kept)
    return Prepared(table, split, example, fitted.constant, labels)


def _split(config: TrainConfig, raw: RawTable, kept: Tensor | None) -> Split:
    """The split of the rows in `kept`, by their place in it; of all rows if it is None.

    Raises:
        DataError: as in `draw_split`.
    """
    rule, text, seed, target = config.split_rule, config.split, config.seed, raw.columns.targets[0]
    if kept is None:
        return draw_split(raw.path, rule, text, seed, len(raw), raw.column, target)
    rows = kept.numpy()

    def cells(name: str) -> Any:
        found = raw.column(name)
        return found[rows] if isinstance(found, np.ndarray) else found.take(pa.array(rows))

    try:
        return draw_split(raw.path, rule, text, seed, len(kept), cells, target)
    except DataError as error:
        raise DataError(f"{error} (rows without a target are not counted)") from None


@contextmanager
def _naming_classes(raw: RawTable) -> Iterator[None]:
    """Adds the option that accepts texts to the error for a target that is not a number."""
    is_text = any(name in raw.cells for name in raw.columns.targets)
    try:
        yield
    except NotANumberError as error:
        if is_text:
            raise DataError(f"{error}; --loss auto predicts classes") from None
        raise


def _prepared_dataset(
    config: TrainConfig,
    dtype: torch.dtype,
    has_classes: bool | None,
    samples: Dataset[Any] | None,
) -> Prepared:
    """The samples of a dataset; one target of whole numbers is a class, if the loss is open."""
    for option in ("columns", "csv"):
        if getattr(config, option):
            raise ConfigError(f"option {option}: has no effect on a dataset")
    if config.missing_target != REFUSE:
        raise ConfigError("option missing_target: has no effect on a dataset")
    table = read_dataset(
        config.data, config.target, config.features, dtype, (), config.data_args, samples
    )
    if table.dataset is not None and table.dataset.is_stream:
        _check_stream(config)
    y, names = table.targets, table.columns.targets
    if has_classes is None:
        has_classes = len(names) == 1 and not y.is_floating_point()
    split = _split_of_samples(config, table, has_classes)
    labels = fit_classes(config.data, names, y, split.train) if has_classes else ()
    if labels:
        table = dataclasses.replace(table, targets=encode_classes(config.data, labels, y))
    return Prepared(table, split, _example_of_samples(table.features, split.train), (), labels)


def _check_stream(config: TrainConfig) -> None:
    if config.shuffle:
        raise ConfigError("option shuffle: an IterableDataset has its own order; use false")
    if config.num_workers:
        raise ConfigError(
            "option num_workers: each process would read the whole IterableDataset; use 0"
        )


def _split_of_samples(config: TrainConfig, table: Table, has_classes: bool) -> Split:
    """A random split, or a stratified one by the class."""
    rule, n_rows = config.split_rule, len(table)
    if rule.how not in ("ratio", "stratified"):
        raise ConfigError(f"option split: {config.split} needs a table; a dataset has no columns")
    if rule.how == "stratified" and not has_classes:
        raise ConfigError(f"option split: {config.split} needs classes; the targets are numbers")
    if rule.how == "stratified" and table.target_shape:
        raise ConfigError(
            f"option split: {config.split} needs one class for each sample; the targets are arrays of "
            f"the shape {list(table.target_shape)}"
        )

    def cells(_: str) -> pa.Array:
        return pa.array(table.targets[:, 0].to(torch.int64).numpy())

    target = table.columns.targets[0]
    return draw_split(table.path, rule, config.split, config.seed, n_rows, cells, target)


def _example_of_samples(features: Tensor, train: Tensor) -> list[list[Any]]:
    """Training samples with at most `EXAMPLE_VALUES` numbers in total, but at least one."""
    n_rows = max(1, min(EXAMPLE_ROWS, EXAMPLE_VALUES // features[0].numel()))
    example: list[list[Any]] = features[train[:n_rows]].tolist()
    return example


def _wanted(
    config: TrainConfig, form: CsvFormat, has_classes: bool
) -> tuple[Wanted, dict[str, str]]:
    """The columns to read, and the kinds that the options give them."""
    file = existing(config.data)
    if file == PACKAGED_EXAMPLE:
        tell(f"{config.data}: is not in this folder; the copy that comes with runback is used")
    names = column_names(file, form)
    rule = config.split_rule
    others = (rule.column,) if rule.column else ()
    require_columns(file, names, others, "split")
    kept_out = others if rule.how in ("column", "group") else ()
    columns = choose_columns(file, names, config.target, config.features, kept_out)
    kinds = choose_kinds(file, columns, config.columns, names)
    columns = without_ignored(file, columns, kinds)
    as_cells = frozenset(name for name, kind in kinds.items() if kind not in ("number", "ignore"))
    as_cells |= frozenset(columns.targets) if has_classes else frozenset()
    return Wanted(file, names, columns, others, as_cells, strict=False, form=form), kinds
