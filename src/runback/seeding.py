"""The global random generators: seeded by (seed, epoch), saved and restored inside an epoch."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

_MASK = (1 << 64) - 1


def derive_seed(seed: int, epoch: int, stream: int = 0) -> int:
    """A 63-bit seed from (seed, epoch, stream): three rounds of splitmix64 (Steele, Lea, Flood 2014).

    Neighbouring epochs get unrelated seeds. Streams: 0 global generators, 1 row order, 2 loader
    workers.
    """
    state = 0
    for part in (seed, epoch, stream):
        state = _splitmix64(state ^ (part & _MASK))
    return state >> 1


def _splitmix64(state: int) -> int:
    state = (state + 0x9E3779B97F4A7C15) & _MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
    return state ^ (state >> 31)


def seed_generators(seed: int, epoch: int, device: torch.device, stream: int = 0) -> None:
    """Seeds Python, NumPy, torch and the training device for one epoch; streams as in `derive_seed`.

    `torch.manual_seed` is avoided: it seeds every backend and takes 100 us.
    """
    value = derive_seed(seed, epoch, stream)
    random.seed(value)
    np.random.seed(value & 0xFFFFFFFF)  # users' modules draw from the global generator
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        torch.cuda.manual_seed_all(value)
    elif device.type == "mps":
        torch.mps.manual_seed(value)


def generator_states() -> dict[str, Any]:
    """The states of all global generators as tensors and plain values, loadable with `weights_only`.

    CUDA generators are included if CUDA is initialized.
    """
    numpy: dict[str, Any] = np.random.get_state(legacy=False)
    twister = numpy["state"]
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": {
            "key": torch.from_numpy(twister["key"].astype(np.int64)),
            "pos": int(twister["pos"]),
            "has_gauss": int(numpy["has_gauss"]),
            "gauss": float(numpy["gauss"]),
        },
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        states["mps"] = torch.mps.get_rng_state()
    return states


@contextmanager
def kept_generators() -> Iterator[None]:
    """Restores all global generators at the end of the block."""
    before = generator_states()
    try:
        yield
    finally:
        restore_generators(before)


def restore_generators(states: dict[str, Any]) -> None:
    """Restores the states from `generator_states`."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    numpy = states["numpy"]
    keys = numpy["key"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, numpy["pos"], numpy["has_gauss"], numpy["gauss"]))
    torch.set_rng_state(states["torch"].cpu())
    if torch.cuda.is_initialized() and "cuda" in states:
        cuda = [state.cpu() for state in states["cuda"]]
        torch.cuda.set_rng_state_all(cuda[: torch.cuda.device_count()])
    if torch.backends.mps.is_available() and "mps" in states:
        torch.mps.set_rng_state(states["mps"].cpu())
