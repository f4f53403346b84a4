"""From a configuration to all that a training needs: table, split, batches, module, state."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from runback.config import TrainConfig
from runback.console.progress import say
from runback.data.batches import Batches, LoaderBatches, Order, TableDataset, TensorBatches
from runback.data.split import Split, make_split
from runback.data.table import Columns, Table, read_table
from runback.data.user_dataset import DatasetRows
from runback.errors import ConfigError
from runback.model.scaling import Scaled
from runback.model.spec import BuiltModel, ModelSpec, build_model, check_output
from runback.seeding import seed_generators
from runback.tasks import Task, by_loss
from runback.training.compiling import missing_compiler
from runback.training.device import choose_device, choose_threads, short_of_memory
from runback.training.state import TrainState

CHECKED_ROWS = 2
# MLflow's own limit (its database's column `name`).
MAX_MODEL_NAME = 256


@dataclass(frozen=True)
class TrainingSetup:
    """A training that is ready to begin.

    Attributes:
        task: what is learned; decides losses, scores and plots.
        validation: the validation rows on the training device; None where the split has none.
    """

    config: TrainConfig
    task: Task
    table: Table
    split: Split
    built: BuiltModel
    state: TrainState
    batches: Batches
    validation: TableDataset | None

    @property
    def register_as(self) -> str:
        """The registered model's name, or "none"; "_" for what means something in models:/ URIs."""
        name = self.config.register or self.table.path.stem
        return name.translate(str.maketrans("/:@?", "____"))

    def is_done(self) -> bool:
        """Whether the loop has nothing left to train."""
        out_of_patience = self.state.out_of_patience(self.config.patience)
        return self.state.epoch >= self.config.epochs or out_of_patience

    def facts(self) -> dict[str, Any]:
        """What the tracking server is told of the data (`tracking.runs.DataFacts`)."""
        split = self.split
        return {
            "name": self.table.path.stem,
            "path": str(self.table.path),
            "fingerprint": self.table.fingerprint,
            "features": list(self.table.columns.features),
            "targets": list(self.table.columns.targets),
            "split_digest": split.digest,
            "rows": {
                "training": len(split.train),
                "validation": len(split.validation),
                "test": len(split.test),
            },
        }


def prepare(config: TrainConfig, source: Path | None = None) -> TrainingSetup:
    """Reads, splits, builds and checks; every mistake of the user's surfaces here.

    Args:
        config: the run's configuration.
        source: the code of the user's module as the run recorded it; None for what is importable.

    Raises:
        ConfigError: a device that is not there, or options that contradict the data.
        DataError: the table cannot be used.
        ModelError: the module cannot be built or does not fit.
    """
    device = choose_device(config.device)
    if device.type == "mps" and config.precision == "float64":
        raise ConfigError("option precision: float64 does not exist on mps; use float32")
    lack = "" if config.compile == "none" else missing_compiler(device)
    if lack:
        say(f"warning: option compile: {lack} on this machine; the step runs uncompiled")
    table = read_table(config.data, config.target, config.features, dtype_of(config.precision))
    split = make_split(len(table), config.split, config.seed)
    order = Order(
        len(split.train),
        config.batch_size,
        shuffle=config.shuffle,
        drop_last=config.drop_last,
        seed=config.seed,
    )
    torch.set_num_threads(1)  # sums for scaling must not depend on how many an earlier run left
    built = _build(config, table, split, device, source)
    n_weights = sum(p.numel() for p in built.module.parameters())
    torch.set_num_threads(choose_threads(config.threads, n_weights, config.batch_size))
    with short_of_memory(device):
        state = TrainState.fresh(built.module, config, device)
        validation = _part(table, split.validation, device) if len(split.validation) else None
        batches = _batches(config, table, split, order, device)
    task = by_loss(config.loss)
    work = TrainingSetup(config, task, table, split, built, state, batches, validation)
    _require_model_name(work.register_as)
    return work


def dtype_of(precision: str) -> torch.dtype:
    """The dtype of weights and data; bf16 is autocast over float32 weights."""
    return torch.float64 if precision == "float64" else torch.float32


def spec_of(config: TrainConfig, columns: Columns) -> ModelSpec:
    """What a configuration asks for, on the columns of a table."""
    return ModelSpec(
        task=by_loss(config.loss).name,
        model=config.model,
        model_args=config.model_args,
        features=columns.features,
        targets=columns.targets,
        normalize=config.normalize,
        dtype=str(dtype_of(config.precision)).removeprefix("torch."),
    )


def _require_model_name(name: str) -> None:
    """Refuses what MLflow would refuse when the training is over.

    Raises:
        ConfigError: no name for a registered model.
    """
    readable = name.isprintable() and len(name.strip()) > 0 and len(name) <= MAX_MODEL_NAME
    if not readable or name == "." or name.startswith(".."):
        shown = repr(name) if len(name) <= MAX_MODEL_NAME else f"a name of {len(name)} characters"
        raise ConfigError(
            f"option register: a model cannot be registered as {shown}; give another name, or none"
        )


def held_out(work: TrainingSetup) -> TableDataset | None:
    """The test rows on the CPU; None where the split has none."""
    rows = work.split.test
    return _part(work.table, rows, torch.device("cpu")) if len(rows) else None


def _build(
    config: TrainConfig, table: Table, split: Split, device: torch.device, source: Path | None
) -> BuiltModel:
    """Epoch 0's seeds give the initial weights, whatever was drawn before."""
    seed_generators(config.seed, 0, device)
    built = build_model(spec_of(config, table.columns), source)
    if isinstance(built.module, Scaled):
        built.module.scale.fit(table.features.index_select(0, split.train), config.normalize)
    rows = split.train[:CHECKED_ROWS]
    check_output(built.module, table.features[rows], built.spec.n_outputs)
    return built


def _part(table: Table, rows: torch.Tensor, device: torch.device) -> TableDataset:
    features, targets = table.features.index_select(0, rows), table.targets.index_select(0, rows)
    return TableDataset(features.to(device), targets.to(device))


def _batches(
    config: TrainConfig, table: Table, split: Split, order: Order, device: torch.device
) -> Batches:
    if table.dataset is not None:
        rows = DatasetRows(table.dataset, split.train)
        return LoaderBatches(rows, order, config.num_workers, device)
    if config.num_workers:
        cpu = _part(table, split.train, torch.device("cpu"))
        return LoaderBatches(cpu, order, config.num_workers, device)
    return TensorBatches(_part(table, split.train, device), order)
