"""Images of your own: a dataset with class indices, and a small convolution network.

    runback train --data examples/digits.py:Digits --model examples/digits.py:Net --split stratified \
        --optimizer adamw --lr 0.003 --epochs 12 --batch-size 32
"""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset


class Digits(Dataset):
    """scikit-learn's handwritten digits: 1,797 images `[1, 8, 8]` in [0, 1], and their classes."""

    target_names = ("digit",)

    def __init__(self) -> None:
        pixels, digits = load_digits(return_X_y=True)
        self.images = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
        self.digits = torch.tensor(digits)

    def __len__(self) -> int:
        return len(self.digits)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index], self.digits[index]


class Net(nn.Module):
    """Two convolutions and a linear layer: `[n, channels, height, width] -> [n, n_targets]`.

    `shape` is that of a sample, here (1, 8, 8), and n_targets the number of classes.
    """

    def __init__(
        self, n_features: int, n_targets: int, shape: tuple[int, ...], width: int = 20
    ) -> None:
        super().__init__()
        channels, height, breadth = shape
        self.conv1 = nn.Conv2d(channels, width, 5, padding=2)
        self.conv2 = nn.Conv2d(width, width, 5, padding=2)
        self.linear = nn.Linear(width * (height // 2) * (breadth // 2), n_targets)

    def forward(self, x: Tensor) -> Tensor:
        """Returns a logit for each class."""
        x = functional.relu(self.conv1(x))
        x = functional.relu(self.conv2(x))
        return self.linear(functional.max_pool2d(x, 2).flatten(1))
