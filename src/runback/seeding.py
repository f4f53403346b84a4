"""The global random generators: seeded by (seed, epoch), saved and restored inside an epoch."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from runback.data.batches import derive_seed


def seed_generators(seed: int, epoch: int, device: torch.device) -> None:
    """Seeds Python, NumPy, torch and the training device for one epoch.

    `torch.manual_seed` would do the same for torch but takes 100 us, as it visits every backend.
    """
    value = derive_seed(seed, epoch)
    random.seed(value)
    np.random.seed(value & 0xFFFFFFFF)  # users' modules draw from the global one
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        torch.cuda.manual_seed_all(value)
    elif device.type == "mps":
        torch.mps.manual_seed(value)


def generator_states(device: torch.device) -> dict[str, Any]:
    """The states of all global generators as tensors and plain values (`weights_only` loads them)."""
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
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state_all()
    elif device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def restore_generators(states: dict[str, Any], device: torch.device) -> None:
    """Puts back what `generator_states` took."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    numpy = states["numpy"]
    keys = numpy["key"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, numpy["pos"], numpy["has_gauss"], numpy["gauss"]))
    torch.set_rng_state(states["torch"].cpu())
    if device.type == "cuda" and "cuda" in states:
        cuda = [state.cpu() for state in states["cuda"]]
        torch.cuda.set_rng_state_all(cuda[: torch.cuda.device_count()])
    elif device.type == "mps" and "mps" in states:
        torch.mps.set_rng_state(states["mps"].cpu())
