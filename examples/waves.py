"""A dataset of your own: any torch.utils.data.Dataset.

    runback train --data examples/waves.py:Waves --model mlp --model-args '{"activation": "tanh"}' \
        --optimizer adam --lr 0.01 --epochs 100 --batch-size 64
"""

import math
import random

from torch.utils.data import Dataset


class Waves(Dataset):
    """512 points of sin(t) cos(u); each reading jitters t and u a little, as an augmentation."""

    feature_names = ("t", "u")
    target_names = ("wave",)

    def __len__(self) -> int:
        return 512

    def __getitem__(self, index: int) -> tuple[list[float], float]:
        t = 2 * math.pi * (index % 32) / 32 + random.gauss(0, 0.01)
        u = 2 * math.pi * (index // 32) / 16 + random.gauss(0, 0.01)
        return [t, u], math.sin(t) * math.cos(u)
