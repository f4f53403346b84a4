"""A module of your own: any nn.Module that is called as Net(n_features, n_targets, **model_args).

    runback train --data data/diabetes.csv --model examples/nets.py:Residual --normalize standard \
        --model-args '{"width": 32, "blocks": 2}' --optimizer adamw --lr 0.003 --epochs 60 --patience 20
"""

from torch import Tensor, nn


class Block(nn.Module):
    """`x + f(x)`: `[n, width] -> [n, width]`."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, width), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Adds what the layers make of x."""
        return x + self.layers(x)


class Residual(nn.Module):
    """A small residual network: `[n, n_features] -> [n, n_targets]`."""

    def __init__(
        self,
        n_features: int,
        n_targets: int,
        width: int = 32,
        blocks: int = 2,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.enter = nn.Linear(n_features, width)
        self.blocks = nn.Sequential(*(Block(width, dropout) for _ in range(blocks)))
        self.leave = nn.Linear(width, n_targets)

    def forward(self, x: Tensor) -> Tensor:
        """Takes raw columns; scaling, if any, has happened before."""
        return self.leave(self.blocks(self.enter(x)))
