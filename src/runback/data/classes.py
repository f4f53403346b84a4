"""Class indices as the targets of a user's dataset: the classes of its training samples."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import torch
from torch import Tensor

from runback.columns.label import LabelColumn
from runback.errors import DataError

MAX_SHOWN = 10


def fit_classes(
    data: str, names: Sequence[str], y: Tensor, train: Tensor
) -> tuple[LabelColumn, ...]:
    """The classes of the training samples, in sorted order; the numbers may have gaps.

    Args:
        data: the dataset's name in errors.
        names: of the targets.
        y: `[n, n_targets]`, of all samples; or of one target that is an array, `[n, ...]`.
        train: the indices of the training samples, `[n_train]` int64.

    Raises:
        DataError: a number is negative or not whole, or the training samples have one class only.
    """
    _require_indices(data, y)
    known = y.index_select(0, train).to(torch.int64).reshape(-1, len(names))
    return tuple(
        LabelColumn.fit(name, pa.array(known[:, index].numpy()), data)
        for index, name in enumerate(names)
    )


def encode_classes(
    data: str, labels: Sequence[LabelColumn], y: Tensor, rows: Sequence[int] | None = None
) -> Tensor:
    """int64, of the shape of `y`: the position of each class among those of the training samples.

    Args:
        data: the dataset's name in errors.
        labels: the classes of each target.
        y: `[n, n_targets]`, or `[n, ...]` of one target.
        rows: the index of each sample; None for 0, 1, ...

    Raises:
        DataError: a class is in no training sample, or the classes are texts.
    """
    for label in labels:
        if isinstance(label.classes[0], str):
            raise DataError(f"{data}: the classes of target {label.name!r} are texts, not indices")
    columns = y.reshape(-1, len(labels)).T
    in_sample = columns.shape[1] // len(y) if len(y) else 1
    codes = [
        _codes(data, label, column, rows, in_sample)
        for label, column in zip(labels, columns, strict=True)
    ]
    return torch.stack(codes, dim=1).reshape(y.shape)


def _codes(
    data: str, label: LabelColumn, y: Tensor, rows: Sequence[int] | None, in_sample: int
) -> Tensor:
    """The codes of a target, `[n * in_sample]` as `y`."""
    classes = torch.tensor([int(known) for known in label.classes])
    codes = torch.searchsorted(classes, y.to(torch.int64).contiguous()).clamp(max=len(classes) - 1)
    unknown = (classes[codes] != y).nonzero().flatten()
    if len(unknown):
        first = int(unknown[0])
        sample = first // in_sample if rows is None else rows[first // in_sample]
        known = ", ".join(str(value) for value in label.classes[:MAX_SHOWN])
        more = ", ..." if len(label.classes) > MAX_SHOWN else ""
        raise DataError(
            f"{data}: sample {sample}: the class {y[first].item():.9g} is in no training sample; those "
            f"have {known}{more}"
        )
    return codes


def _require_indices(data: str, y: Tensor) -> None:
    wrong = (y < 0) | (y != y.round()) if y.is_floating_point() else y < 0
    if wrong.any():
        sample = int(wrong.nonzero()[0, 0])
        values = y[sample] if y.dim() == 2 else y[sample][wrong[sample]]
        shown = ", ".join(f"{value:.9g}" for value in values[:MAX_SHOWN].tolist())
        raise DataError(
            f"{data}: sample {sample}: {shown} is not a class index, a whole number from 0; numbers "
            "that are no classes are floats, and need a loss for numbers"
        )
