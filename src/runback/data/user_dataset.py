"""User-defined datasets: a `torch.utils.data.Dataset` class instead of a table file.

All samples are read once, for the fingerprint, the held-out parts and the scaling. Training reads
them in every epoch through a `DataLoader`, so `__getitem__` may be random: augmentations draw from
the global generators, which are seeded for each epoch.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from runback.errors import DataError, ModelError, first_line
from runback.user_code import import_class, locate, pass_interruptions


class UserDataset(Dataset[tuple[Tensor, Tensor]]):
    """A user-defined dataset; every sample is validated and converted to the run's dtype.

    The class is called without arguments. Sample `i` is `(x, y)`, each a number, a sequence of
    numbers or a 1-D tensor. The optional attributes `feature_names` and `target_names` name the
    columns.

    Args:
        data: `file.py:Class` or `package.module:Class`.
        dtype: of the samples.

    Attributes:
        code: the location of the class.
        files: the source files that its import read.
        samples: the instance.

    Raises:
        DataError: the class cannot be imported or called, or has no samples.
    """

    def __init__(self, data: str, dtype: torch.dtype) -> None:
        self.data, self.dtype = data, dtype
        try:
            self.code = locate(data, "data")
            own = import_class(self.code, Dataset, "data")
            self.files, self.samples = own.files, own.cls()
            self.n_rows = len(self.samples)
        except ModelError as error:
            raise DataError(str(error)) from error
        except BaseException as error:  # a user's class can raise anything
            pass_interruptions(error)
            raise DataError(f"{data}: cannot be used as a dataset: {first_line(error)}") from error
        self.path = self.code.root / f"{self.code.module.replace('.', '/')}.py:{self.code.name}"
        if self.n_rows == 0:
            raise DataError(f"{data}: the dataset is empty")

    def __len__(self) -> int:
        return self.n_rows

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        try:
            x, y = self.samples[index]
            return self._vector(x), self._vector(y)
        except BaseException as error:  # as above
            pass_interruptions(error)
            raise DataError(f"{self.data}: sample {index}: {first_line(error)}") from error

    def materialise(self) -> tuple[Tensor, Tensor]:
        """All samples as `[n, n_features]` and `[n, n_targets]`, read with fixed seeds.

        Raises:
            DataError: the samples differ in length, or a value is not finite.
        """
        with _fixed_seeds():
            rows = [self[index] for index in range(self.n_rows)]
        for index, (x, y) in enumerate(rows):
            if x.shape != rows[0][0].shape or y.shape != rows[0][1].shape:
                raise DataError(f"{self.data}: sample {index} has another length than sample 0")
            if not (torch.isfinite(x).all() and torch.isfinite(y).all()):
                raise DataError(f"{self.data}: sample {index} has a value that is not finite")
        return torch.stack([x for x, _ in rows]), torch.stack([y for _, y in rows])

    def names(self, kind: str, count: int) -> tuple[str, ...]:
        """The column names: `feature_names` or `target_names`, or x0, x1, ... and y0, y1, ...

        Raises:
            DataError: duplicate names, or a wrong number of names.
        """
        given = getattr(self.samples, f"{kind}_names", None)
        if given is None:
            return tuple(f"{'x' if kind == 'feature' else 'y'}{index}" for index in range(count))
        names = tuple(str(name) for name in given)
        if len(set(names)) != count:
            raise DataError(f"{self.data}: {kind}_names {list(names)} do not name {count} columns")
        return names

    def _vector(self, value: Any) -> Tensor:
        vector = torch.as_tensor(value, dtype=self.dtype).reshape(-1)
        if vector.numel() == 0:
            raise ValueError("a feature or target vector is empty")
        return vector


class DatasetRows(Dataset[tuple[Tensor, Tensor]]):
    """A subset of a dataset's rows; a batch is `([n, n_features], [n, n_targets])`."""

    def __init__(self, dataset: UserDataset, rows: Tensor) -> None:
        self.dataset, self.rows = dataset, rows.tolist()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.dataset[self.rows[index]]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        batch = [self[index] for index in indices]
        return torch.stack([x for x, _ in batch]), torch.stack([y for _, y in batch])


def content_fingerprint(*parts: Tensor) -> str:
    """SHA-256 over the shapes and values of tensors, in hexadecimal."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(repr((tuple(part.shape), str(part.dtype))).encode())
        digest.update(part.contiguous().numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def _fixed_seeds() -> Iterator[None]:
    """Seeds the global generators with 0 inside the block and restores them after it."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(0)
        np.random.seed(0)
        torch.default_generator.manual_seed(0)
        yield
    random.setstate(python)
    np.random.set_state(numpy)
