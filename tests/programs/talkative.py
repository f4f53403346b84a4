"""A user's module that prints everywhere: with Python, past Python, and from a subprocess."""

import os
import subprocess
import sys

from torch import nn


def talk(where):
    print("printed", where)
    os.write(1, f"written {where}\n".encode())
    subprocess.run([sys.executable, "-c", f"print('started {where}')"], check=True)


talk("import")


class Net(nn.Module):
    def __init__(self, n_features, n_targets):
        super().__init__()
        talk("init")
        self.inner = nn.Linear(n_features, n_targets)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        if self.calls in (1, 4):
            talk("forward")
        return self.inner(x)
