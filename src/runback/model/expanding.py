"""Categories as one-hot columns, inside the module that has them in its input."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from runback.columns.layout import Layout


class OneHot(nn.Module):
    """Replaces columns of codes by one column for each code: `[n, width] -> [n, one_hot_width]`.

    The numbers come first, in their order, then the codes that training rows have, category by
    category. A code that no training row has is 0 in all columns.
    """

    numbers: Tensor
    source: Tensor
    code: Tensor

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        pairs = [(column.position, code) for column in layout.categories for code in column.one_hot]
        positions = torch.tensor([column.position for column in layout.numbers], dtype=torch.int64)
        self.register_buffer("numbers", positions)
        self.register_buffer("source", torch.tensor([p for p, _ in pairs], dtype=torch.int64))
        self.register_buffer("code", torch.tensor([float(c) for _, c in pairs]))

    def forward(self, x: Tensor) -> Tensor:
        """Compares each code with those of its column."""
        hot = (x.index_select(1, self.source) == self.code).to(x.dtype)
        return torch.cat((x.index_select(1, self.numbers), hot), dim=1)


class Expanded(nn.Module):
    """A module with a `OneHot` in front of it; its input is the encoded tensor of a table."""

    def __init__(self, layout: Layout, module: nn.Module) -> None:
        super().__init__()
        self.one_hot = OneHot(layout)
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        """Expands the categories, then applies the module."""
        out: Tensor = self.module(self.one_hot(x))
        return out
