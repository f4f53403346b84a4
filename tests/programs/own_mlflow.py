"""A loop that also logs by MLflow's own functions: python own_mlflow.py [fail|kill|terminate]

Prints what `mlflow.active_run` gives before, in and after the block.
"""

from __future__ import annotations

import os
import signal
import sys

import mlflow
import torch

import runback

end = sys.argv[1] if sys.argv[1:] else ""
model = torch.nn.Linear(1, 1)


def active() -> str:
    found = mlflow.active_run()
    return "none" if found is None else found.info.run_id


before = active()
try:
    with runback.run("own", key="k") as run:
        run.keep(model=model)
        inside = active()
        for epoch in run.epochs(4):
            mlflow.log_metric("theirs", epoch, step=500 + epoch)
            run.log(ours=epoch)
            if epoch == 2 and not run.is_resumed:
                if end == "fail":
                    raise RuntimeError("broken")
                if end in ("kill", "terminate"):
                    os.kill(os.getpid(), signal.SIGKILL if end == "kill" else signal.SIGTERM)
        mlflow.log_param("theirs", 1)
        mlflow.set_tag("team", "vision")
finally:
    print(before, inside == run.id, active())
