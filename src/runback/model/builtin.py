"""The built-in modules, each constructed as `Module(n_features, n_targets, **args)`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations_with_replacement, pairwise

import torch
from torch import Tensor, nn

# A larger number is a mistake in the degree: ten features at degree 20 have 30 million terms.
MAX_TERMS = 1_000_000

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


class Linear(nn.Module):
    """One linear layer: `[n, n_features] -> [n, n_targets]`."""

    def __init__(self, n_features: int, n_targets: int) -> None:
        super().__init__()
        self.layer = nn.Linear(n_features, n_targets)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        out: Tensor = self.layer(x)
        return out


class PolynomialFeatures(nn.Module):
    """All monomials of the columns up to `degree`, the highest degree first, without the constant.

    `[n, n_features] -> [n, n_terms]`; one feature x at degree 2 gives the columns `[x^2, x]`, two
    features a, b give `[a^2, ab, b^2, a, b]`.
    """

    def __init__(self, n_features: int, degree: int) -> None:
        super().__init__()
        if not _is_whole(degree):
            raise ValueError(f"degree {degree!r} is not a whole number of at least 1")
        n_terms = _count_terms(n_features, degree)
        if n_terms > MAX_TERMS:
            raise ValueError(
                f"degree {degree} of {n_features} features makes more than {MAX_TERMS} columns"
            )
        self.n_features, self.degree = n_features, degree
        self.n_terms = n_features
        terms: list[tuple[int, ...]] = [(column,) for column in range(n_features)]
        for power in range(2, degree + 1):
            longer = list(combinations_with_replacement(range(n_features), power))
            self.n_terms += len(longer)
            if n_features > 1:
                self._register_terms(power, terms, longer)
            terms = longer

    def _register_terms(
        self, power: int, shorter: list[tuple[int, ...]], longer: list[tuple[int, ...]]
    ) -> None:
        """Registers each term of this power as a term of the power below times one column."""
        index_of = {term: index for index, term in enumerate(shorter)}
        prefix = torch.tensor([index_of[term[:-1]] for term in longer])
        last = torch.tensor([term[-1] for term in longer])
        self.register_buffer(f"prefix_{power}", prefix, persistent=False)
        self.register_buffer(f"last_{power}", last, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Builds the monomials degree by degree."""
        powers = [x]
        for power in range(2, self.degree + 1):
            if self.n_features == 1:
                powers.insert(0, powers[0] * x)
            else:
                prefix, last = self.get_buffer(f"prefix_{power}"), self.get_buffer(f"last_{power}")
                powers.insert(0, powers[0][:, prefix] * x[:, last])
        return torch.cat(powers, dim=1) if len(powers) > 1 else x


class Polynomial(nn.Module):
    """A polynomial: linear in the monomials of the features.

    Args:
        n_features: columns in.
        n_targets: columns out.
        degree: the highest degree; for one feature and degree 2 the weight is `[W1, W2]` in
            `y = W1 x^2 + W2 x + b`.
    """

    def __init__(self, n_features: int, n_targets: int, degree: int = 2) -> None:
        super().__init__()
        self.terms = PolynomialFeatures(n_features, degree)
        self.layer = nn.Linear(self.terms.n_terms, n_targets)

    def forward(self, x: Tensor) -> Tensor:
        """`[n, n_features] -> [n, n_targets]`."""
        out: Tensor = self.layer(self.terms(x))
        return out


class Mlp(nn.Module):
    """A multilayer perceptron: `[n, n_features] -> [n, n_targets]`.

    Args:
        n_features: columns in.
        n_targets: columns out.
        hidden: the widths of the hidden layers; an int is one layer.
        activation: relu, gelu, silu, tanh or sigmoid.
        dropout: the probability of dropping a hidden unit, in [0, 1).
    """

    def __init__(
        self,
        n_features: int,
        n_targets: int,
        hidden: Sequence[int] | int = (64, 64),
        activation: str = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation {activation!r} is not one of {', '.join(ACTIVATIONS)}")
        if isinstance(dropout, bool | str) or not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout {dropout!r} is not in [0, 1)")
        widths = [n_features, *_widths(hidden)]
        layers: list[nn.Module] = []
        for d_in, d_out in pairwise(widths):
            layers += [nn.Linear(d_in, d_out), ACTIVATIONS[activation]()]
            layers += [nn.Dropout(dropout)] if dropout else []
        self.hidden = nn.Sequential(*layers)
        self.output = nn.Linear(widths[-1], n_targets)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the hidden layers, then the linear output layer."""
        out: Tensor = self.output(self.hidden(x))
        return out


def _widths(hidden: Sequence[int] | int) -> list[int]:
    widths = hidden if isinstance(hidden, list | tuple) else [hidden]
    if not all(_is_whole(width) for width in widths):
        raise ValueError(f"hidden {hidden!r} is not a list of positive whole numbers")
    return list(widths)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _count_terms(n_features: int, degree: int) -> int:
    """The number of monomials of degree 1 to `degree`; counting stops above `MAX_TERMS`."""
    count = 1
    for power in range(1, min(degree, MAX_TERMS + 1) + 1):
        count = count * (n_features + power) // power
        if count - 1 > MAX_TERMS:
            break
    return count - 1


BUILTIN: dict[str, type[nn.Module]] = {"linear": Linear, "polynomial": Polynomial, "mlp": Mlp}
