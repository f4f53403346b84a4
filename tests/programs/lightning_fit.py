"""Fits a small LightningModule with a RunbackLogger: `lightning_fit.py KEY STEP` is killed there."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from runback.lightning import RunbackLogger

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
Act = Callable[[], Any]


class Module(pl.LightningModule):
    """A linear regression that does something before step `at`."""

    def __init__(self, at: int, act: Act, **params: Any) -> None:
        super().__init__()
        self.save_hyperparameters({"lr": 0.1, **({"more": params} if params else {})})
        self.net, self.at, self.act = nn.Linear(4, 1), at, act

    def _cost(self, name: str, batch: list[Tensor]) -> Tensor:
        cost = nn.functional.mse_loss(self.net(batch[0]), batch[1])
        self.log(name, cost)
        return cost

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        if self.global_step == self.at:
            self.act()
        return self._cost("cost", batch)

    def test_step(self, batch: list[Tensor], _: int) -> Tensor:
        return self._cost("test_cost", batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self) -> DataLoader[Any]:
        x = torch.randn(40, 4, generator=torch.Generator().manual_seed(1))
        return DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=8)

    test_dataloader = train_dataloader


def trainer_of(logger: RunbackLogger) -> pl.Trainer:
    """Four epochs of five steps; the two newest checkpoints are kept, and the last."""
    saving = ModelCheckpoint(
        filename="ck-{step}", monitor="step", mode="max", save_top_k=2, save_last=True
    )
    return pl.Trainer(
        max_epochs=4, accelerator="cpu", logger=logger, callbacks=[saving], log_every_n_steps=1,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip


def fit(
    at: int = -1, act: Act = lambda: None, key: str = "", **params: Any
) -> tuple[Module, RunbackLogger]:
    """Fits from the last checkpoint, if there is one."""
    torch.manual_seed(0)
    model, logger = Module(at, act, **params), RunbackLogger("lit", key=key)
    trainer_of(logger).fit(model, ckpt_path="last")
    return model, logger


if __name__ == "__main__":
    fit(int(sys.argv[2]), lambda: os.kill(os.getpid(), signal.SIGKILL), sys.argv[1])
