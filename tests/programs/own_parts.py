"""A loss, metrics and an optimizer of the user's own."""

import torch
from torch import optim


def capped(output, y):
    """The mean of absolute errors, the large ones capped."""
    return (output - y).abs().clamp(max=2.0).mean()


def focal(output, y):
    """Of logits `[n, n_classes]` and codes `[n]`."""
    chosen = output.log_softmax(1).gather(1, y[:, None])
    return -((1 - chosen.exp()) * chosen).mean()


def largest_error(output, y):
    return (output - y).abs().max()


def hit_rate(output, y):
    """Of logits and codes; 1 is best."""
    return (output.argmax(1) == y).double().mean()


hit_rate.higher_is_better = True


def within_one(output, y):
    return ((output - y).abs() < 1).double().mean().item()


within_one.higher_is_better = True


class Signs(optim.Optimizer):
    """Steps along the sign of a running mean of the gradients."""

    def __init__(self, params, lr, beta=0.9):
        super().__init__(params, {"lr": lr, "beta": beta})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                mean = state.setdefault("mean", torch.zeros_like(p))
                mean.lerp_(p.grad, 1 - group["beta"])
                p.add_(mean.sign(), alpha=-group["lr"])
