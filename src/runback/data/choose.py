"""The choice of a table's feature and target columns, and of their kinds, by name and pattern."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from runback.columns.tensors import listing, require_columns
from runback.errors import DataError

IGNORE = "ignore"


@dataclass(frozen=True)
class Columns:
    """The feature and target columns of a table, in the order of the tensors."""

    features: tuple[str, ...]
    targets: tuple[str, ...]


def choose_columns(
    path: Path,
    names: Sequence[str],
    target: Sequence[str],
    features: Sequence[str],
    leave_out: Iterable[str] = (),
) -> Columns:
    """Fills in the default columns and checks all names against the table.

    Args:
        path: of the table.
        names: all its columns.
        target: target columns; empty means the last column.
        features: names and patterns such as `x*`, and `-name` or `-pattern` for those to leave out;
            empty means all others.
        leave_out: columns that are no features unless `features` names them.

    Raises:
        DataError: a duplicate or unknown name, a feature that is also a target, or no feature.
    """
    for option, wanted in (("target", target), ("features", features)):
        duplicates = [name for name, count in Counter(wanted).items() if count > 1]
        if duplicates:
            raise DataError(f"option {option}: column {duplicates[0]!r} is named twice")
    require_columns(path, names, target, "target")
    targets = tuple(target) or (names[-1],)
    unwanted = {*targets, *leave_out}
    chosen = _features(path, names, features, [name for name in names if name not in unwanted])
    both = set(targets) & set(chosen)
    if both:
        raise DataError(f"option features: column {sorted(both)[0]!r} is also a target")
    if not chosen:
        raise DataError(f"{path}: no feature column is left; all are targets: {listing(targets)}")
    return Columns(chosen, targets)


def _features(
    path: Path, names: Sequence[str], features: Sequence[str], others: Sequence[str]
) -> tuple[str, ...]:
    """The features that the option names; `others` are the columns that a pattern can match."""
    known = set(names)
    positive = [entry for entry in features if entry in known or not entry.startswith("-")]
    negative = [entry for entry in features if entry not in positive]
    chosen: dict[str, None] = {} if positive else dict.fromkeys(others)
    for entry in positive:
        found = [entry] if entry in known else _matching(path, entry, names, others, "features")
        chosen |= dict.fromkeys(found)
    for entry in negative:
        pattern = entry.removeprefix("-")
        for name in _matching(path, pattern, names, names, "features"):
            chosen.pop(name, None)
    return tuple(chosen)


def choose_kinds(
    path: Path, columns: Columns, kinds: Mapping[str, str], names: Sequence[str]
) -> dict[str, str]:
    """The kinds that the option `columns` gives to features; exact names precede patterns.

    Raises:
        DataError: an entry is the target, or matches no column of the table.
    """
    chosen: dict[str, str] = {}
    for entry in sorted(kinds, key=lambda entry: entry not in names):
        if entry in columns.targets:
            raise DataError(f"option columns: {entry!r} is the target, not a feature")
        for name in _matching(path, entry, names, names, "columns"):
            if name in columns.features:
                chosen.setdefault(name, kinds[entry])
    return chosen


def without_ignored(path: Path, columns: Columns, kinds: Mapping[str, str]) -> Columns:
    """The columns without the features of the kind `ignore`.

    Raises:
        DataError: no feature is left.
    """
    features = tuple(name for name in columns.features if kinds.get(name) != IGNORE)
    if not features:
        raise DataError(f"{path}: no feature column is left; option columns ignores all")
    return Columns(features, columns.targets)


def _matching(
    path: Path, pattern: str, names: Sequence[str], among: Sequence[str], option: str
) -> list[str]:
    """The columns that a name or a pattern means."""
    if pattern in names:
        return [pattern]
    if any(mark in pattern for mark in "*?["):
        found = [name for name in among if fnmatchcase(name, pattern)]
        if found or any(fnmatchcase(name, pattern) for name in names):
            return found
        raise DataError(
            f"{path}: no column matches {pattern!r} (option {option}); the columns are "
            f"{listing(names)}"
        )
    require_columns(path, names, [pattern], option)
    return []
