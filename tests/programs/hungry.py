"""A user's module that asks for more memory than any machine has."""

import torch


class Hungry(torch.nn.Linear):
    def forward(self, x):
        if len(x) > 100:
            torch.empty(2**60, dtype=torch.uint8)
        return super().forward(x)
