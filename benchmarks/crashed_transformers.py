"""ckpt-chaos's target of transformers, with our callback in its Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ckpt_chaos.targets import hf_trainer as target
from transformers import Trainer

from runback.transformers import RunbackCallback


def tracked(*, args: Any, callbacks: list[Any], **others: Any) -> Trainer:
    """The target's Trainer, with a run for each output folder."""
    callback = RunbackCallback("crashes", key=str(Path(args.output_dir).absolute()))
    return Trainer(args=args, callbacks=[*callbacks, callback], **others)


if __name__ == "__main__":
    target.Trainer = tracked
    target.main()
