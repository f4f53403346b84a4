"""The training device and the number of CPU threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from runback.config import check_option
from runback.errors import ConfigError, MemoryShortError

# Below this product of weights and batch rows, a second CPU thread is slower: on two busy cores,
# five epochs of a small MLP took 92 s with two threads and 5 s with one.
SMALL_STEP = 1 << 27
# Read at import, before a run in this process sets another number.
DEFAULT_THREADS = torch.get_num_threads()


def choose_device(name: str) -> torch.device:
    """The device for an option value; `auto` prefers CUDA, then MPS, then the CPU.

    Raises:
        ConfigError: an invalid name, or a device that this machine does not have.
    """
    check_option("device", name)
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", 0)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda":
        return _checked_cuda(name, device)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("option device: 'mps': this machine has no MPS device; use cpu or auto")
    return device


def choose_threads(threads: int, n_weights: int, batch_size: int) -> int:
    """The number of CPU threads: the option `threads`; if 0, one for small steps or torch's default."""
    if threads:
        return threads
    return 1 if n_weights * batch_size < SMALL_STEP else DEFAULT_THREADS


def _checked_cuda(name: str, device: torch.device) -> torch.device:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = device.index or 0
    if index >= count:
        have = f"has {count} CUDA device(s), counted from 0" if count else "has no CUDA device"
        raise ConfigError(f"option device: {name!r}: this machine {have}; use cpu or auto")
    return torch.device("cuda", index)


@contextmanager
def short_of_memory(device: torch.device) -> Iterator[None]:
    """Converts out-of-memory errors to `MemoryShortError`; other errors pass through.

    Raises:
        MemoryShortError: an allocation failed on the device or on the CPU.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        first = (str(error).splitlines() or [""])[0]
        full = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not full and "can't allocate memory" not in first:
            raise
        raise MemoryShortError(
            f"no memory left on {device}; try a smaller batch_size or a smaller model ({first})"
        ) from error


def read_scalars(values: list[Tensor]) -> list[float]:
    """Scalars of one device and dtype as floats, with one device synchronization."""
    if values[0].device.type == "cpu":
        return [value.item() for value in values]
    stacked: list[float] = torch.stack(values).tolist()
    return stacked
