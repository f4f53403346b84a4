"""A user's module that draws from all generators; SLEEP_SECONDS slows down each training batch."""

import os
import random
import time

import numpy as np
import torch
from torch import nn


class Noisy(nn.Module):
    """Draws from all three generators in forward, and reassigns a buffer instead of changing it."""

    def __init__(self, n_features, n_targets):
        super().__init__()
        self.hidden = nn.Linear(n_features, 6)
        self.norm = nn.BatchNorm1d(6)
        self.dropout = nn.Dropout(0.3)
        self.out = nn.Linear(6, n_targets)
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("mask", torch.tensor([0.0, float("-inf")]))

    def forward(self, x):
        if self.training and "SLEEP_SECONDS" in os.environ:
            time.sleep(float(os.environ["SLEEP_SECONDS"]))
        noise = random.gauss(0, 0.01) + np.random.normal() * 0.01
        if self.training:
            x = x + 0.01 * torch.randn_like(x)
            self.seen = self.seen * 0.9 + x.detach().mean()
        return self.out(self.dropout(self.norm(self.hidden(x)))) + noise + 0.01 * self.seen
