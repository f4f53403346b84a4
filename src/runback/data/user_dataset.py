"""User-defined datasets: a `torch.utils.data.Dataset` class instead of a table file.

All samples are read once, for the fingerprint, the held-out parts and the scaling. Training reads
them in every epoch through a `DataLoader`, so `__getitem__` may be random: augmentations draw from
the global generators, which are seeded for each epoch.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from runback.columns.label import LabelColumn
from runback.data.classes import encode_classes
from runback.errors import DataError, ModelError, first_line
from runback.user_code import UserCode, import_class, locate, pass_interruptions

NO_ARGS: Mapping[str, Any] = MappingProxyType({})


class UserDataset(Dataset[tuple[Tensor, Tensor]]):
    """A user-defined dataset; every sample is checked and converted.

    Sample `i` is `(x, y)`. `x` is a number, a vector of numbers, or an array of more dimensions, such
    as an image `[1, 8, 8]`; a vector's numbers have names, an array keeps its shape. `y` is a number,
    a vector of numbers, a class index, or an array of more dimensions of numbers or class indices.
    The optional attributes `feature_names` and `target_names` name them.

    An `IterableDataset` has an order instead of indices: it is read from its beginning by `stream`.

    Args:
        data: `file.py:Class` or `package.module:Class`; for an object, its `object_name`.
        dtype: of `x`, and of `y` where its numbers are not whole.
        args: keyword arguments of the class.
        samples: the dataset itself; None to import its class and call it.

    Attributes:
        code: the location of the class; None for an object.
        files: the source files that its import read.
        samples: the instance.
        is_stream: whether it is an IterableDataset.

    Raises:
        DataError: the class cannot be imported or called, or has no samples.
    """

    def __init__(
        self,
        data: str,
        dtype: torch.dtype,
        args: Mapping[str, Any] = NO_ARGS,
        samples: Dataset[Any] | None = None,
    ) -> None:
        self.data, self.dtype = data, dtype
        self._shapes: tuple[torch.Size, torch.Size] | None = None  # of all samples
        self.code: UserCode | None = None
        self.files: tuple[Path, ...] = ()
        self.samples: Any = samples
        try:
            if samples is None:
                self.code = locate(data, "data")
                own = import_class(self.code, Dataset, "data")
                self.files, self.samples = own.files, own.cls(**args)
            self.is_stream = isinstance(self.samples, IterableDataset)
            self.n_rows = 0 if self.is_stream else len(self.samples)
        except ModelError as error:
            raise DataError(str(error)) from error
        except BaseException as error:  # a user's class can raise anything
            pass_interruptions(error)
            given = f" with data_args {json.dumps(dict(args))}" if args else ""
            problem = f"{data}: cannot be used as a dataset{given}: {first_line(error)}"
            raise DataError(problem) from error
        self.path = _path_of(self.code) if self.code else Path(data)

    def __len__(self) -> int:
        return self.n_rows

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """`x` in the dataset's dtype, and `y` `[n_targets]` or `[...]`, int64 if its numbers are whole.

        Raises:
            DataError: the sample cannot be read, or has another shape than the others.
        """
        with self._naming(index):
            return self._converted(index, self.samples[index])

    def stream(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields all samples of an IterableDataset, as `__getitem__` gives those of others."""
        with self._naming(0):
            samples = iter(self.samples)
        for index in itertools.count():
            with self._naming(index):
                pair = next(samples, None)
                if pair is None:
                    return
                sample = self._converted(index, pair)
            yield sample

    def materialise(self) -> tuple[Tensor, Tensor]:
        """All samples, read with fixed seeds: two tensors `[n, ...]`, `y` int64 if all are whole.

        Raises:
            DataError: there are none, they differ in shape, or a value is not finite.
        """
        with _fixed_seeds():
            found = self.stream() if self.is_stream else map(self.__getitem__, range(self.n_rows))
            rows = [self._finite(index, sample) for index, sample in enumerate(found)]
        if not rows:
            raise DataError(f"{self.data}: the dataset is empty")
        self.n_rows = len(rows)
        is_whole = not any(y.is_floating_point() for _, y in rows)
        dtype = torch.int64 if is_whole else self.dtype
        return torch.stack([x for x, _ in rows]), torch.stack([y.to(dtype) for _, y in rows])

    def names(self, kind: str, count: int, wanted: Sequence[str] = ()) -> tuple[str, ...]:
        """The names: `feature_names` or `target_names`, or x0, x1, ... and y0, y1, ...

        Args:
            kind: "feature" or "target".
            count: of the names.
            wanted: what a dataset without names has instead of x0, ...; not used if it has another
                length.

        Raises:
            DataError: duplicate names, or a wrong number of names.
        """
        given = getattr(self.samples, f"{kind}_names", None)
        if given is None and len(set(wanted)) == count:
            return tuple(wanted)
        if given is None:
            return tuple(f"{'x' if kind == 'feature' else 'y'}{index}" for index in range(count))
        names = tuple(str(name) for name in given)
        if len(set(names)) != count or len(names) != count:
            raise DataError(f"{self.data}: {kind}_names {list(names)} do not name {count} columns")
        return names

    @contextmanager
    def _naming(self, index: int) -> Iterator[None]:
        """Names the sample in errors of the user's class."""
        try:
            yield
        except DataError:
            raise
        except BaseException as error:  # as above
            pass_interruptions(error)
            raise DataError(f"{self.data}: sample {index}: {first_line(error)}") from error

    def _converted(self, index: int, pair: Any) -> tuple[Tensor, Tensor]:
        x, y = pair
        sample = as_input(x).to(self.dtype), as_target(y, self.dtype)
        self._require_shapes(index, sample)
        return sample

    def _finite(self, index: int, sample: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        x, y = sample
        if not (x.isfinite().all() and y.isfinite().all()):
            raise DataError(f"{self.data}: sample {index} has a value that is not finite")
        return x, y

    def _require_shapes(self, index: int, sample: tuple[Tensor, Tensor]) -> None:
        """Compares the shapes of a sample with those of the first one that was read."""
        shapes = sample[0].shape, sample[1].shape
        self._shapes = self._shapes or shapes
        for name, found, expected in zip("xy", shapes, self._shapes, strict=True):
            if found != expected:
                raise DataError(
                    f"{self.data}: sample {index}: {name} has the shape {list(found)}, and others "
                    f"have {list(expected)}; all samples need the same shape"
                )


class DatasetRows(Dataset[tuple[Tensor, Tensor]]):
    """A subset of a dataset's rows; a batch is `([n, ...], [n, n_targets])`, or `[n, ...]` twice.

    Args:
        dataset: all samples.
        rows: the indices of the subset.
        dtype: of the targets.
        labels: the classes of the targets, which become their codes; empty for numbers.
    """

    def __init__(
        self,
        dataset: UserDataset,
        rows: Tensor,
        dtype: torch.dtype,
        labels: Sequence[LabelColumn] = (),
    ) -> None:
        self.dataset, self.rows = dataset, rows.tolist()
        self.dtype, self.labels = dtype, tuple(labels)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = self.__getitems__([index])
        return x[0], y[0]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        rows = [self.rows[index] for index in indices]
        return self.batch([(row, self.dataset[row]) for row in rows])

    def stream(self) -> Iterator[tuple[int, tuple[Tensor, Tensor]]]:
        """Yields the index and the sample of each row of an IterableDataset, in its own order."""
        wanted = set(self.rows)
        for index, sample in enumerate(self.dataset.stream()):
            if index in wanted:
                yield index, sample

    def batch(self, samples: Sequence[tuple[int, tuple[Tensor, Tensor]]]) -> tuple[Tensor, Tensor]:
        """Samples with their indices as one batch."""
        rows = [index for index, _ in samples]
        x, y = torch.stack([x for _, (x, _) in samples]), torch.stack([y for _, (_, y) in samples])
        codes = encode_classes(self.dataset.data, self.labels, y, rows) if self.labels else y
        return x, codes.to(self.dtype)


def as_input(value: Any) -> Tensor:
    """A number or a sequence of numbers as `[n_features]`; an array of more dimensions as it is.

    Raises:
        ValueError: it is empty, or not of real numbers.
    """
    return _with_dimension(_numbers(value, "x"))


def as_target(value: Any, dtype: torch.dtype) -> Tensor:
    """A number or a vector as `[n_targets]`, an array of more dimensions with its shape.

    The result is int64 if the value's type is one of whole numbers, else of `dtype`.

    Raises:
        ValueError: it is empty, or not of real numbers.
    """
    y = _numbers(value, "y")
    return _with_dimension(y).to(dtype if y.is_floating_point() else torch.int64)


def _with_dimension(value: Tensor) -> Tensor:
    return value.reshape(-1) if value.dim() < 2 else value


def _numbers(value: Any, name: str) -> Tensor:
    """A tensor of real numbers; numbers of Python have 64 bits."""
    try:
        found = value if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
    except (TypeError, ValueError, OverflowError):
        raise ValueError(
            f"{name} is {_described(value)}; it must be a number, numbers of one shape, or a tensor"
        ) from None
    if found.is_complex() or found.is_quantized or found.layout != torch.strided:
        raise ValueError(
            f"{name} is {_described(value)}; it must be a dense tensor of real numbers"
        )
    if found.numel() == 0:
        raise ValueError(f"{name} is empty")
    return found.detach().cpu()


def _described(value: Any) -> str:
    dtype = getattr(value, "dtype", None)
    return f"a {type(value).__name__}" + (f" of {dtype}" if dtype is not None else "")


def _path_of(code: UserCode) -> Path:
    return code.root / f"{code.module.replace('.', '/')}.py:{code.name}"


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
