"""ckpt-chaos's target of Lightning, with our logger in its Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ckpt_chaos.targets import lightning_trainer as target

from runback.lightning import RunbackLogger

bare = target.make


def make(out: str, hooks: Any) -> Any:
    """The target's Trainer, with a run for each output folder."""
    trainer = bare(out, hooks)
    trainer.logger = RunbackLogger("crashes", key=str(Path(out).absolute()))
    return trainer


if __name__ == "__main__":
    target.make = make
    target.main()
