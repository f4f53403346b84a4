"""Users' modules with state outside the state_dict; each class has one kind."""

import random
from pathlib import Path

import numpy as np
import torch
from torch import nn

LETTERS = {"alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"}


class Base(nn.Module):
    """A linear layer; `factor` is 1 unless a subclass changes it."""

    def __init__(self, n_features, n_targets):
        super().__init__()
        self.layer = nn.Linear(n_features, n_targets)
        self.prepare(n_features)

    def prepare(self, n_features):
        pass

    def factor(self):
        return 1.0

    def forward(self, x):
        return self.layer(x) * self.factor()


class RandomTensor(Base):
    def prepare(self, n_features):
        self.W = torch.randn(())

    def factor(self):
        return self.W


class NonPersistent(Base):
    def prepare(self, n_features):
        self.register_buffer("W", torch.randn(()), persistent=False)

    def factor(self):
        return self.W


class PythonRandom(Base):
    def prepare(self, n_features):
        self.parts = {"k": [random.random()]}

    def factor(self):
        return self.parts["k"][0]


class NumpyRandom(Base):
    def prepare(self, n_features):
        self.k = np.random.normal()

    def factor(self):
        return self.k


class SetOrder(Base):
    def prepare(self, n_features):
        self.order = [len(word) + ord(word[0]) for word in LETTERS]

    def factor(self):
        return float(sum(place * code for place, code in enumerate(self.order)))


class Counter(Base):
    def prepare(self, n_features):
        self.calls = 0

    def factor(self):
        self.calls += 1
        return float(self.calls)


class ReadsFile(Base):
    def prepare(self, n_features):
        self.k = float(Path("value.txt").read_text())

    def factor(self):
        return self.k


class Exits(Base):
    """Can be built in the training only, where `value.txt` is in the working directory."""

    def prepare(self, n_features):
        if not Path("value.txt").exists():
            raise SystemExit(0)


class Prints(Base):
    def prepare(self, n_features):
        print("printed by the module")


class Seeded(Base):
    def prepare(self, n_features):
        self.W = torch.randn((), generator=torch.Generator().manual_seed(5))

    def factor(self):
        return self.W


class Cached(Base):
    """A cache of what follows from the arguments."""

    def prepare(self, n_features):
        self.cache = None

    def factor(self):
        if self.cache is None:
            self.cache = torch.arange(3.0)
        return self.cache.sum()


class RandomInEval(Base):
    """Monte Carlo dropout."""

    def factor(self):
        return nn.functional.dropout(torch.ones(()), 0.5, training=True) * random.random()


class Tied(nn.Module):
    """Shared modules and parameters, of which one is lazy."""

    def __init__(self, n_features, n_targets):
        super().__init__()
        self.encode = nn.Linear(n_features, 4, bias=False)
        self.again = self.encode
        self.decode = nn.Linear(4, n_features, bias=False)
        self.other = nn.Linear(4, n_features, bias=False)
        self.other.weight = self.decode.weight
        self.blocks = [self.encode, self.decode]
        self.head = nn.LazyLinear(n_targets)

    def forward(self, x):
        h = self.encode(x) + self.again(x)
        return self.head(self.decode(h) + self.other(h))


class FailsLater(Base):
    """From the third training step on, predictions are `value`: "nan" or "inf"."""

    def __init__(self, n_features, n_targets, value="nan"):
        super().__init__(n_features, n_targets)
        self.value = float(value)
        self.register_buffer("steps", torch.zeros(()))

    def factor(self):
        if self.training:
            self.steps += 1
        return torch.where(self.steps < 3, 1.0, 1.0 if self.training else self.value)


class GrowsLater(Base):
    def prepare(self, n_features):
        self.register_buffer("seen", torch.zeros(1))
        self.register_buffer("steps", torch.zeros(()))

    def factor(self):
        self.steps += 1
        if self.steps > 12:
            self.seen = torch.zeros(2)
        return 1.0
