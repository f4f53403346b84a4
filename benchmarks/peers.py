"""The seed's regression as each peer writes it: `python -m benchmarks.peers NAME EPOCHS`.

All train `nn.Linear(2, 1)` on the columns x^2 and x of data/non_linear.csv: the 160 training rows of
runback's own split, batch 128, shuffled, the last smaller batch left out, SGD, lr 1e-4, one CPU
thread (or the GPU, where there is one); those that validate do so after each epoch on the same 20
rows. Bars, printing and checkpoints, which cost time, are switched off in all of them. Prints the
seconds per epoch after a warm-up, and the last costs.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from benchmarks.common import ROOT, device
from runback.data.batches import derive_seed
from runback.data.split import make_split
from runback.data.table import read_table

BATCH, LR, WARM_UP = 128, 1e-4, 20
DEVICE = torch.device(device())
Loader = DataLoader[tuple[Tensor, Tensor]]
Found = tuple[float, float, float | None]


def rows() -> tuple[TensorDataset, TensorDataset]:
    """Training and validation rows: `[n, 2]` of x^2 and x, and `[n, 1]`."""
    table = read_table(ROOT / "data" / "non_linear.csv", (), (), torch.float32)
    split, x = make_split(len(table), "8:1:1", 0), table.features
    both = torch.cat((x * x, x), dim=1)
    return (
        TensorDataset(both[split.train], table.targets[split.train]),
        TensorDataset(both[split.validation], table.targets[split.validation]),
    )


def loaders() -> tuple[Loader, Loader]:
    """The `DataLoader`s of both parts; the validation rows are one batch."""
    train, validation = rows()
    return (
        DataLoader(train, batch_size=BATCH, shuffle=True, drop_last=True),
        DataLoader(validation, batch_size=len(validation)),
    )


class Samples(Dataset[tuple[Tensor, Tensor]]):
    """The seed's dataset, which creates a tensor for each sample."""

    def __init__(self, part: TensorDataset) -> None:
        self.x, self.y = (tensor.tolist() for tensor in part.tensors)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return torch.FloatTensor(self.x[index]), torch.FloatTensor(self.y[index])

    def __len__(self) -> int:
        return len(self.x)


class Clock:
    """Counts epochs, and the seconds of those after the warm-up."""

    def __init__(self, epochs: int) -> None:
        self.epochs, self.done, self.begin, self.per_epoch = epochs, 0, 0.0, 0.0

    def tick(self) -> None:
        """Counts a completed epoch."""
        self.done += 1
        if self.done == WARM_UP:
            self.begin = time.perf_counter()
        if self.done == self.epochs:
            self.per_epoch = (time.perf_counter() - self.begin) / (self.epochs - WARM_UP)


def parts() -> tuple[nn.Module, nn.Module, torch.optim.Optimizer]:
    """Module, cost and optimizer; the weights begin where runback's begin."""
    torch.manual_seed(derive_seed(0, 0))
    model = nn.Linear(2, 1).to(DEVICE)
    return model, nn.MSELoss(), torch.optim.SGD(model.parameters(), lr=LR)


def bare(clock: Clock, *, validated: bool = True) -> Found:
    """A loop over preloaded tensors, with nothing in it that training does not need."""
    (x, y), (val_x, val_y) = ([t.to(DEVICE) for t in part.tensors] for part in rows())
    model, cost_of, optimizer = parts()
    val_cost = None
    for _ in range(clock.epochs):
        total = torch.zeros((), device=DEVICE)
        order = torch.randperm(len(x), device=DEVICE)
        for low in range(0, len(x) - BATCH + 1, BATCH):
            index = order[low : low + BATCH]
            optimizer.zero_grad()
            cost = cost_of(model(x[index]), y[index])
            cost.backward()
            optimizer.step()
            total += cost.detach()
        mean = total.item() / (len(x) // BATCH)
        if validated:
            model.eval()
            with torch.no_grad():
                val_cost = cost_of(model(val_x), val_y).item()
            model.train()
        clock.tick()
    return clock.per_epoch, mean, val_cost


def bare_unvalidated(clock: Clock) -> Found:
    """`bare` without the validation."""
    return bare(clock, validated=False)


def seed(clock: Clock, log: Callable[[float, int], None] | None = None) -> Found:
    """The seed's loop, line by line; it does not validate."""
    loader = DataLoader(Samples(rows()[0]), batch_size=BATCH, shuffle=True, drop_last=True)
    model, cost_of, optimizer = parts()
    for epoch in range(clock.epochs):
        cost = torch.zeros((), device=DEVICE)
        for x, y in loader:
            loss = cost_of(model(x.to(DEVICE)), y.to(DEVICE))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            cost += loss.detach()
        mean = cost.item() / len(loader)
        if log is not None:
            log(mean, epoch)
        clock.tick()
    return clock.per_epoch, mean, None


def seed_mlflow(clock: Clock) -> Found:
    """The seed's loop with `mlflow.log_metric` each epoch."""
    import mlflow

    with mlflow.start_run():
        return seed(clock, lambda cost, epoch: mlflow.log_metric("cost", cost, step=epoch))


def mlflow_example(clock: Clock) -> Found:
    """As MLflow's own PyTorch examples do it: `DataLoader`s, and `log_metrics` once an epoch."""
    import mlflow

    model, cost_of, optimizer = parts()
    train, validation = loaders()
    with mlflow.start_run():
        mlflow.log_params({"lr": LR, "batch_size": BATCH, "epochs": clock.epochs})
        for epoch in range(clock.epochs):
            model.train()
            cost = 0.0
            for x, y in train:
                loss = cost_of(model(x.to(DEVICE)), y.to(DEVICE))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                cost += loss.item() / len(train)
            model.eval()
            with torch.no_grad():
                val = sum(cost_of(model(x.to(DEVICE)), y.to(DEVICE)).item() for x, y in validation)
            mlflow.log_metrics({"cost": cost, "val_cost": val}, step=epoch)
            clock.tick()
    return clock.per_epoch, cost, val


def without_transformers() -> None:
    """Lightning's torchmetrics imports transformers where it finds it, which takes over a second.

    Who uses Lightning alone does not pay for that, so here it finds none.
    """
    from lightning_utilities.core import imports

    version = imports._version

    def found(name: str) -> str:
        if name == "transformers":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    imports._version = found


def lightning(clock: Clock, *, logged: bool = False) -> Found:
    """Lightning's Trainer without bar, sanity check and checkpoints."""
    without_transformers()
    import lightning
    from lightning.pytorch.loggers import MLFlowLogger

    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = parts()[0]

        def _cost(self, batch: list[Tensor], name: str) -> Tensor:
            cost = nn.functional.mse_loss(self.model(batch[0]), batch[1])
            self.log(name, cost, on_step=False, on_epoch=True)
            return cost

        def training_step(self, batch: list[Tensor], _: int) -> Tensor:
            return self._cost(batch, "cost")

        def validation_step(self, batch: list[Tensor], _: int) -> Tensor:
            return self._cost(batch, "val_cost")

        def on_train_epoch_end(self) -> None:
            clock.tick()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=LR)

    uri = os.environ["MLFLOW_TRACKING_URI"]
    trainer = lightning.Trainer(
        max_epochs=clock.epochs, accelerator="gpu" if DEVICE.type == "cuda" else "cpu", devices=1,
        logger=logged and MLFlowLogger("benchmark", tracking_uri=uri),
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(Module(), *loaders())
    found = trainer.callback_metrics
    return clock.per_epoch, found["cost"].item(), found["val_cost"].item()


def lightning_mlflow(clock: Clock) -> Found:
    """Lightning with its MLFlowLogger."""
    return lightning(clock, logged=True)


def skorch(clock: Clock) -> Found:
    """skorch's NeuralNet with its own validation, and without printing."""
    from skorch import NeuralNet
    from skorch.callbacks import Callback
    from skorch.helper import predefined_split

    class Tick(Callback):
        def on_epoch_end(self, *_: object, **__: object) -> None:
            clock.tick()

    train, validation = rows()
    net = NeuralNet(
        lambda: parts()[0], nn.MSELoss, optimizer=torch.optim.SGD, lr=LR, max_epochs=clock.epochs,
        batch_size=BATCH, iterator_train__shuffle=True, iterator_train__drop_last=True,
        train_split=predefined_split(validation), callbacks=[Tick()], verbose=0, device=DEVICE,
    )  # fmt: skip
    net.fit(train, y=None)
    last = net.history[-1]
    return clock.per_epoch, float(last["train_loss"]), float(last["valid_loss"])


def hf_trainer(clock: Clock, *, logged: bool = False) -> Found:
    """Hugging Face's Trainer, which logs and evaluates each epoch and wants a module with its loss.

    Its updates are the others': no clipping (1.0 by itself) and no schedule (linear by itself).
    """
    from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

    class WithLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = parts()[0]

        def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
            predicted = self.linear(x)
            return {"loss": nn.functional.mse_loss(predicted, labels), "logits": predicted}

    class Tick(TrainerCallback):
        def on_epoch_end(self, *_: object, **__: object) -> None:
            clock.tick()

    train, validation = ([{"x": x, "labels": y} for x, y in part] for part in rows())
    arguments = TrainingArguments(
        output_dir="trainer", num_train_epochs=clock.epochs, use_cpu=DEVICE.type == "cpu",
        per_device_train_batch_size=BATCH, per_device_eval_batch_size=len(validation),
        dataloader_drop_last=True, optim="sgd", learning_rate=LR, lr_scheduler_type="constant",
        max_grad_norm=0.0, eval_strategy="epoch", logging_strategy="epoch", save_strategy="no",
        report_to="mlflow" if logged else "none", disable_tqdm=True, log_level="error",
    )  # fmt: skip
    trainer = Trainer(
        WithLoss(), arguments, train_dataset=train, eval_dataset=validation, callbacks=[Tick()]
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    last = {key: value for entry in trainer.state.log_history for key, value in entry.items()}
    return clock.per_epoch, last["loss"], last["eval_loss"]


def hf_trainer_mlflow(clock: Clock) -> Found:
    """Hugging Face's Trainer with `report_to="mlflow"`; a thread of MLflow's delivers the points."""
    return hf_trainer(clock, logged=True)


PEERS: dict[str, Callable[[Clock], Found]] = {
    peer.__name__: peer
    for peer in (
        bare, bare_unvalidated, seed, seed_mlflow, mlflow_example, lightning, lightning_mlflow,
        skorch, hf_trainer, hf_trainer_mlflow,
    )
}  # fmt: skip


def main() -> None:
    """Runs one peer in its own folder."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        per_epoch, cost, val_cost = PEERS[sys.argv[1]](Clock(int(sys.argv[2])))
    print(json.dumps({"per_epoch": per_epoch, "cost": cost, "val_cost": val_cost}))


if __name__ == "__main__":
    main()
