"""Trains a small module with a RunbackCallback: `transformers_train.py KEY STEP` is killed there."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainingArguments

from runback.transformers import RunbackCallback

Act = Callable[[], Any]


class Net(nn.Module):
    """A linear regression that does something in its `at`-th training step."""

    def __init__(self, at: int, act: Act) -> None:
        super().__init__()
        self.net, self.at, self.act, self.step = nn.Linear(4, 1), at, act, 0

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        self.step += self.training
        if self.training and self.step == self.at:
            self.act()
        predicted = self.net(x)
        return {"loss": nn.functional.mse_loss(predicted, labels), "logits": predicted}


def train(at: int = -1, act: Act = lambda: None, key: str = "") -> tuple[Trainer, RunbackCallback]:
    """Trains four epochs of five steps, from the last checkpoint, if there is one."""
    torch.manual_seed(0)
    x = torch.randn(40, 4)
    rows = [{"x": row, "labels": row.sum(0, keepdim=True)} for row in x]
    arguments = TrainingArguments(
        output_dir=key or "out", num_train_epochs=4, per_device_train_batch_size=8,
        learning_rate=0.1, logging_steps=1, save_steps=5, eval_strategy="steps", eval_steps=5,
        save_total_limit=2, report_to="none", use_cpu=True, disable_tqdm=True,
        dataloader_pin_memory=False,
    )  # fmt: skip
    with RunbackCallback("hf", key=key) as callback:
        trainer = Trainer(
            Net(at, act), arguments, train_dataset=rows, eval_dataset=rows[:8],
            callbacks=[callback],
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=callback.checkpoint)
    return trainer, callback


if __name__ == "__main__":
    train(int(sys.argv[2]), lambda: os.kill(os.getpid(), signal.SIGKILL), sys.argv[1])
