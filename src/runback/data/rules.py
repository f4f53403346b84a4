"""Splits by the values of a column: its own parts, time, groups, or the classes of the target."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from runback.columns.cells import Distinct, is_date, is_text, shown, texts_in, to_arrow
from runback.columns.date import moment_of, parse_moments
from runback.columns.number import parse_numbers
from runback.config import SplitParts
from runback.data.split import Split, make_split, part_sizes, split_of_parts
from runback.errors import DataError, first_line

Parts = npt.NDArray[np.uint8]
PART_OF = {
    "train": 0, "training": 0, "validation": 1, "valid": 1, "val": 1, "test": 2, "testing": 2,
}  # fmt: skip
NAMES = ("training", "validation", "test")


def draw_split(
    path: Path,
    rule: SplitParts,
    text: str,
    seed: int,
    n_rows: int,
    cells: Callable[[str], Any],
    target: str,
) -> Split:
    """The split of a table's rows by the option `split`.

    Args:
        path: of the table, for errors.
        rule: the option in its parts.
        text: the option.
        seed: of the random order of rows or groups.
        n_rows: of the table.
        cells: returns the cells of a column by its name.
        target: the column whose classes are stratified.

    Raises:
        DataError: a part is empty, or a cell does not fit the rule.
    """
    if rule.how == "ratio":
        return make_split(n_rows, text, seed)
    column = target if rule.how == "stratified" else rule.column
    parts = {"column": _by_column, "time": _by_time, "group": _by_group}.get(rule.how, _stratified)(
        path, column, cells(column), rule.ratio, seed
    )
    _require_rows(path, text, rule, parts)
    return split_of_parts(torch.from_numpy(parts), text, seed)


def _require_rows(path: Path, text: str, rule: SplitParts, parts: Parts) -> None:
    for number, (name, share) in enumerate(zip(NAMES, rule.shares, strict=True)):
        if not (parts == number).any() and (share or (number == 0 and rule.how == "column")):
            raise DataError(f"{path}: option split: {text} leaves no {name} row")


def _by_column(path: Path, name: str, cells: Any, ratio: str, seed: int) -> Parts:
    """The part that each row names: train, validation or test."""
    found = texts_in(path, name, cells)
    _require_values(path, name, found)
    numbers = [PART_OF.get(text.strip().lower()) for text in found.values]
    wrong = found.first(number is None for number in numbers)
    if wrong is not None:
        raise DataError(
            f"{path}: column {name!r}, data row {wrong[0] + 1}: {shown(wrong[1])} is not train, "
            "validation or test (option split)"
        )
    return found.take(np.array([number or 0 for number in numbers], np.uint8), 0)


def _by_time(path: Path, name: str, cells: Any, ratio: str, seed: int) -> Parts:
    """The oldest rows train, the newest test; rows of the same time are in the same part."""
    times = _times(path, name, cells)
    order = np.sort(times)
    train, validation, _ = part_sizes(len(times), ratio)
    parts = np.zeros(len(times), np.uint8)
    for part, end in ((1, train), (2, train + validation)):
        if end < len(order):
            parts[times > order[end - 1]] = part
    return parts


def _times(path: Path, name: str, cells: Any) -> npt.NDArray[Any]:
    """Dates as microseconds, or numbers."""
    if not isinstance(cells, np.ndarray):
        array = to_arrow(cells)
        texts = texts_in(path, name, array).values if is_text(array.type) else []
        if is_date(array.type) or (texts and moment_of(texts[0]) is not None):
            found = texts_in(path, name, array)
            _require_values(path, name, found)
            return parse_moments(name, array, path, 0)
    numbers = parse_numbers(name, cells, path, 0)
    missing = np.flatnonzero(np.isnan(numbers))
    if len(missing):
        raise DataError(f"{path}: column {name!r}, data row {missing[0] + 1}: has no value")
    return numbers


def _by_group(path: Path, name: str, cells: Any, ratio: str, seed: int) -> Parts:
    """All rows of a group are in the same part; the groups are in a random order."""
    found = texts_in(path, name, cells)
    _require_values(path, name, found)
    used, group_of = np.unique(found.codes, return_inverse=True)
    by_text = np.argsort(np.array([found.values[code] for code in used], dtype=object))
    drawn = torch.randperm(len(used), generator=torch.Generator().manual_seed(seed)).numpy()
    sizes = np.bincount(group_of)[by_text[drawn]]
    train, validation, _ = part_sizes(len(found.codes), ratio)
    starts = np.cumsum(sizes) - sizes
    part = (starts >= train).astype(np.uint8) + (starts >= train + validation)
    parts = np.empty(len(used), np.uint8)
    parts[by_text[drawn]] = part
    return parts[group_of]


def _stratified(path: Path, name: str, cells: Any, ratio: str, seed: int) -> Parts:
    """The parts have the same shares of all classes of the target."""
    from sklearn.model_selection import train_test_split

    found = texts_in(path, name, cells)
    _require_values(path, name, found)
    names = np.array(found.values, dtype=object)[found.codes].astype(str)
    parts = np.zeros(len(names), np.uint8)
    sizes = part_sizes(len(names), ratio)
    rest = np.arange(len(names))
    for part in (2, 1):
        if not sizes[part] or sizes[part] == len(rest):
            parts[rest] = part if sizes[part] else parts[rest]
            continue
        try:
            with warnings.catch_warnings():  # many classes for a stratification
                warnings.simplefilter("ignore", UserWarning)
                rest, drawn = train_test_split(
                    rest, test_size=sizes[part], stratify=names[rest], random_state=seed % 2**32
                )
        except ValueError as error:
            raise DataError(
                f"{path}: option split: column {name!r} cannot be stratified: {first_line(error)}"
            ) from None
        parts[drawn] = part
    return parts


def _require_values(path: Path, name: str, found: Distinct) -> None:
    missing = np.flatnonzero(found.codes < 0)
    if len(missing):
        raise DataError(
            f"{path}: column {name!r}, data row {missing[0] + 1}: has no value (option split)"
        )
