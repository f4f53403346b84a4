"""A user's module whose extra state is not loadable with `weights_only=True`."""

from pathlib import PurePath

from torch import nn


class Odd(nn.Linear):
    def get_extra_state(self):
        return PurePath("x")

    def set_extra_state(self, state):
        pass
