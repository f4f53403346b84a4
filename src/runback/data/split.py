"""The split of a table's rows into training, validation and test parts."""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from runback.config import parse_split
from runback.errors import DataError, UsageError

# Row numbers are stored up to this many rows. Larger splits by ratio are rebuilt and compared by
# digest; of others, the part of each row is stored, compressed.
MAX_LISTED_ROWS = 1_000_000


@dataclass(frozen=True)
class Split:
    """Row numbers of the three parts, each a sorted int64 tensor `[n_part]`.

    Attributes:
        ratio: the option `split`.
    """

    train: Tensor
    validation: Tensor
    test: Tensor
    ratio: str
    seed: int

    @property
    def n_rows(self) -> int:
        """Rows of the whole table."""
        return len(self.train) + len(self.validation) + len(self.test)

    @property
    def digest(self) -> str:
        """SHA-256 over the three lists of row numbers."""
        parts = (self.train, self.validation, self.test)
        text = b"|".join(part.numpy().astype("<i8").tobytes() for part in parts)
        return hashlib.sha256(text).hexdigest()

    def as_json(self) -> dict[str, Any]:
        """The rule, seed, sizes, digest, and the held-out rows; the others are training rows."""
        listed = self.n_rows <= MAX_LISTED_ROWS
        compressed = not listed and parse_split(self.ratio).how != "ratio"
        return {
            "ratio": self.ratio,
            "seed": self.seed,
            "n_rows": self.n_rows,
            "n_train": len(self.train),
            "n_validation": len(self.validation),
            "n_test": len(self.test),
            "sha256": self.digest,
            "validation": self.validation.tolist() if listed else None,
            "test": self.test.tolist() if listed else None,
            **({"parts": self._compressed()} if compressed else {}),
        }

    def _compressed(self) -> str:
        """A byte for each row, 0, 1 or 2 for its part, compressed by zlib, in base64."""
        parts = torch.zeros(self.n_rows, dtype=torch.uint8)
        parts[self.validation], parts[self.test] = 1, 2
        return base64.b64encode(zlib.compress(parts.numpy().tobytes(), 1)).decode()


def make_split(n_rows: int, ratio: str, seed: int) -> Split:
    """Draws the same rows as `torch.utils.data.random_split` with a generator seeded by `seed`.

    Sizes are rounded down; the last part with a non-zero ratio gets the remaining rows.
    (`random_split` itself is slower: it creates a Python int for every row.)

    Raises:
        DataError: a part with a non-zero ratio would have no rows.
    """
    sizes = part_sizes(n_rows, ratio)
    order = torch.randperm(n_rows, generator=torch.Generator().manual_seed(seed))
    train, validation, test = (rows.sort().values for rows in order.split(sizes))
    return Split(train, validation, test, ratio=ratio, seed=seed)


def part_sizes(n_rows: int, ratio: str) -> tuple[int, int, int]:
    """The number of rows of each part."""
    shares = parse_split(ratio).shares
    total = sum(shares)
    sizes = [n_rows * share // total for share in shares]
    last = max(index for index, share in enumerate(shares) if share)
    sizes[last] += n_rows - sum(sizes)
    for name, share, size in zip(("training", "validation", "test"), shares, sizes, strict=True):
        if share and not size:
            raise DataError(
                f"option split: {ratio} of {n_rows} rows leaves no {name} row; "
                "use more rows, or another ratio such as 1:0:0"
            )
    return sizes[0], sizes[1], sizes[2]


_INVALID = (
    KeyError, TypeError, ValueError, IndexError, RuntimeError, UsageError, OverflowError,
    AttributeError, MemoryError, zlib.error,
)  # fmt: skip


def split_of_parts(parts: Tensor, ratio: str, seed: int) -> Split:
    """The split with the part of each row: `[n_rows]`, 0 training, 1 validation, 2 test."""
    train, validation, test = ((parts == part).nonzero().flatten() for part in range(3))
    return Split(train, validation, test, ratio=ratio, seed=seed)


def split_from_json(stored: Mapping[str, Any]) -> Split:
    """Rebuilds a split from its row numbers or, if they are not stored, from its ratio and seed.

    Raises:
        DataError: not a split, or the digest of the rebuilt rows differs.
    """
    try:
        split, digest = _rebuilt(stored), stored["sha256"]
    except _INVALID as error:
        raise DataError(f"split.json: not a split ({type(error).__name__}: {error})") from None
    if split.digest != digest:
        raise DataError("split.json: the rows of the split cannot be rebuilt (digest differs)")
    _require_disjoint(split)
    return split


def _require_disjoint(split: Split) -> None:
    """Checks that the held-out rows are sorted rows of the table, each in one part.

    Raises:
        DataError: they are not; a score would be of other rows, or of some rows twice.
    """
    held_out = torch.cat((split.validation, split.test))
    in_order = all(bool((part.diff() > 0).all()) for part in (split.validation, split.test))
    inside = not len(held_out) or (held_out.min() >= 0 and held_out.max() < split.n_rows)
    if not (in_order and inside and len(held_out.unique()) == len(held_out)):
        raise DataError("split.json: rows are out of order, repeated or outside of the table")


def _rebuilt(stored: Mapping[str, Any]) -> Split:
    if "parts" in stored:
        return _decompressed(stored)
    if stored["test"] is None:
        return make_split(stored["n_rows"], stored["ratio"], stored["seed"])
    n_rows = stored["n_rows"]
    if not isinstance(n_rows, int) or not 0 <= n_rows <= MAX_LISTED_ROWS:
        raise ValueError(f"n_rows is {n_rows!r}")
    validation = torch.tensor(stored["validation"], dtype=torch.int64)
    test = torch.tensor(stored["test"], dtype=torch.int64)
    mask = torch.ones(n_rows, dtype=torch.bool)
    mask[torch.cat((validation, test))] = False
    train = mask.nonzero().flatten()
    return Split(train, validation, test, stored["ratio"], stored["seed"])


def _decompressed(stored: Mapping[str, Any]) -> Split:
    """A split from the part of each row; not more bytes than rows are decompressed."""
    n_rows = int(stored["n_rows"])
    packed = base64.b64decode(stored["parts"], validate=True)
    plain = zlib.decompressobj().decompress(packed, n_rows)
    parts = torch.frombuffer(bytearray(plain), dtype=torch.uint8)
    if len(parts) != n_rows:
        raise ValueError(f"{len(parts)} of {n_rows} rows")
    return split_of_parts(parts, stored["ratio"], stored["seed"])
