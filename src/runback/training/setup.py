"""The setup of a training from a configuration: table, split, batches, module, state."""

from __future__ import annotations

import contextlib
import dataclasses
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from runback.columns.column import Column
from runback.columns.label import LabelColumn
from runback.columns.layout import summary_of
from runback.columns.tensors import listing
from runback.config import AUTO, TrainConfig
from runback.console.progress import say, tell
from runback.data.batches import Batches, LoaderBatches, Order, TableDataset, TensorBatches
from runback.data.choose import Columns
from runback.data.prepare import Prepared, prepare_table
from runback.data.split import Split
from runback.data.stream import StreamBatches
from runback.data.table import Table, tell_left_out
from runback.data.user_dataset import DatasetRows
from runback.errors import ConfigError, DataError, ModelError
from runback.limits import (
    MAX_DATASET_NAME,
    MAX_TAG,
    REST_OF_TAG,
    column_problem,
    model_name_problem,
    text_problem,
)
from runback.model.batched_forward import predict_rows
from runback.model.probe import check_module, check_one_row, same_generators
from runback.model.samples import ScaledSamples
from runback.model.scaling import Scaled, TargetScaled
from runback.model.spec import BuiltModel, ModelSpec, build_model
from runback.seeding import seed_generators
from runback.tasks import Loss, Task, by_loss, loss_for
from runback.training.compiling import missing_compiler
from runback.training.device import choose_device, choose_threads, short_of_memory
from runback.training.optimizers import check_names
from runback.training.own_parts import OwnParts, check_functions, own_parts, require_distinct
from runback.training.scoring import Scoring, scoring
from runback.training.state import TrainState
from runback.user_code import Sourced

CHECKED_ROWS = 2
# Of which own metrics are computed before the training: some need every class.
SCORED_ROWS = 4096
MAX_SHOWN = 256  # characters of a name in messages


@dataclass(frozen=True)
class TrainingSetup:
    """The parts of a training that is ready to begin.

    Attributes:
        task: of the model; defines losses, scores and plots.
        validation: the validation rows on the training device; None if the split has none.
        example: a few training rows, as they are in the table.
    """

    config: TrainConfig
    task: Task
    table: Table
    split: Split
    built: BuiltModel
    state: TrainState
    batches: Batches
    validation: TableDataset | None
    example: list[list[Any]]
    own: OwnParts = OwnParts()

    @cached_property
    def scoring(self) -> Scoring:
        """What scores the output of the module."""
        return scoring(self.config, self.task, self.built.spec.target_columns, self.own)

    @property
    def loss(self) -> Loss:
        """The cost of a batch and of a part."""
        return self.scoring.loss

    @property
    def own_code(self) -> tuple[Sourced, ...]:
        """The module's class, loss, metrics and optimizer, as far as they are the user's own."""
        module = self.built.user_class
        return (*([module] if module else []), *self.own.all)

    def validation_scores(self) -> dict[str, float]:
        """The user's own metrics of the validation rows; empty without either."""
        if self.validation is None or not self.own.metrics:
            return {}
        output = predict_rows(self.state.model, self.validation.features)
        return self.scoring.own_scores(output, self.validation.targets.cpu())

    @property
    def register_as(self) -> str:
        """The registered model's name, or "none"; characters special in models:/ URIs become "_"."""
        name = self.config.register or self.table.name
        return name.translate(str.maketrans("/:@?", "____"))

    def is_done(self) -> bool:
        """Whether all epochs are trained or patience is exhausted."""
        out_of_patience = self.state.out_of_patience(self.config.patience)
        return self.state.epoch >= self.config.epochs or out_of_patience


def prepare(
    config: TrainConfig, source: Path | None = None, samples: Dataset[Any] | None = None
) -> TrainingSetup:
    """Reads the table, splits it, builds the module and checks everything before a run is created.

    Args:
        config: the run's configuration.
        source: a folder with the recorded code of the user's own parts; None to import them.
        samples: a dataset object, which is the data; None for the data that the options name.

    Raises:
        ConfigError: a missing device, or options that contradict the data.
        DataError: the table cannot be used.
        ModelError: the module cannot be built or does not fit the data.
    """
    device = choose_device(config.device)
    if device.type == "mps" and config.precision == "float64":
        raise ConfigError("option precision: mps does not support float64; use float32")
    own = own_parts(config, source)
    check_names(config)
    missing = "" if config.compile == "none" else missing_compiler(device)
    if missing:
        say(f"warning: option compile: {missing} on this machine; the step runs uncompiled")
    has_classes = _has_classes(config, own)
    prepared = prepare_table(config, dtype_of(config.precision), has_classes, samples)
    _tell(prepared)
    config, task = _resolved(config, prepared, own)
    table, split = _with_targets(prepared.table, task, dtype_of(config.precision)), prepared.split
    order = Order(
        len(split.train),
        config.batch_size,
        shuffle=config.shuffle,
        drop_last=config.drop_last,
        seed=config.seed,
    )
    torch.set_num_threads(1)  # scaling must not depend on the threads of an earlier run
    built = _build(config, task, prepared, table, device, source)
    _require_batches(config, table, split, built)
    require_distinct(own, built.user_class)
    n_weights = sum(p.numel() for p in built.module.parameters())
    torch.set_num_threads(choose_threads(config.threads, n_weights, config.batch_size))
    with short_of_memory(device):
        optimizer = own.optimizer.cls if own.optimizer else None
        state = TrainState.fresh(built.module, config, device, optimizer)
        validation = _part(table, split.validation, device) if len(split.validation) else None
        batches = _batches(config, table, prepared, order, device)
    setup = TrainingSetup(
        config, task, table, split, built, state, batches, validation, prepared.example, own
    )
    _check_functions(setup)
    _require_storable(setup)
    return setup


def dtype_of(precision: str) -> torch.dtype:
    """The dtype of weights and data; bf16 is autocast over float32 weights."""
    return torch.float64 if precision == "float64" else torch.float32


def spec_of(
    config: TrainConfig,
    columns: Columns,
    encoders: Sequence[Column] = (),
    labels: Sequence[LabelColumn] = (),
    shape: tuple[int, ...] = (),
    task: Task | None = None,
    target_shape: tuple[int, ...] = (),
) -> ModelSpec:
    """The model spec of a configuration for the columns of a table, or for samples of a shape."""
    return ModelSpec(
        task=(task or by_loss(config.loss)).name,
        model=config.model,
        model_args=config.model_args,
        features=columns.features,
        targets=columns.targets,
        normalize=config.normalize,
        normalize_target=config.normalize_target,
        dtype=str(dtype_of(config.precision)).removeprefix("torch."),
        columns=tuple(encoders),
        labels=tuple(labels),
        shape=shape,
        target_shape=target_shape,
    )


def _has_classes(config: TrainConfig, own: OwnParts) -> bool | None:
    """Whether the targets are classes; None if they decide it."""
    if own.loss is not None:
        return own.task.has_classes if own.task else None
    return None if config.loss == AUTO else by_loss(config.loss).has_classes


def _resolved(config: TrainConfig, prepared: Prepared, own: OwnParts) -> tuple[TrainConfig, Task]:
    """The configuration with the loss and the scaling of the targets, where options leave them open,
    and the task.

    Raises:
        ConfigError: the option `normalize_target` scales targets that are classes.
    """
    loss = loss_for(prepared.labels) if config.loss == AUTO else config.loss
    task = (own.task or by_loss(loss_for(prepared.labels))) if own.loss else by_loss(loss)
    has_classes, scaling = task.has_classes, config.normalize_target
    if scaling == AUTO:
        scaling = "none" if has_classes else "standard"
    if scaling != "none" and has_classes:
        raise ConfigError(
            f"option normalize_target: loss {loss} predicts classes, which have no scale; use none"
        )
    if (loss, scaling) == (config.loss, config.normalize_target):
        return config, task
    options = {**config.as_params(), "loss": loss, "normalize_target": scaling}
    return TrainConfig.from_mapping(options), task


def _with_targets(table: Table, task: Task, dtype: torch.dtype) -> Table:
    """The table with targets in the dtype of the task."""
    return dataclasses.replace(table, targets=table.targets.to(task.target_dtype(dtype)))


def _tell(prepared: Prepared) -> None:
    """Says which rows and columns are left out, and what the others are if not all are numbers."""
    tell_left_out(prepared.table)
    if prepared.constant:
        tell(f"left out, as they are constant in the training rows: {listing(prepared.constant)}")
    summary = summary_of(prepared.table.encoders)
    if summary:
        tell(f"columns: {summary}")


def _require_storable(setup: TrainingSetup) -> None:
    """Checks the names that the store will see, before the training instead of after it.

    Raises:
        ConfigError: the registered model's name is invalid.
        DataError: a column's name or the table's path is.
    """
    name, table = setup.register_as, setup.table
    problem = model_name_problem(name)
    if problem:
        shown = ascii(name) if len(name) <= MAX_SHOWN else f"a name of {len(name)} characters"
        raise ConfigError(
            f"option register: a model cannot be registered as {shown}: it {problem}; use another "
            "name, or none"
        )
    for number, column in enumerate((*table.columns.features, *table.columns.targets), 1):
        if problem := column_problem(column):
            raise DataError(
                f"{table.path}: the name of used column {number} ({column!a}) {problem}; rename it"
            )
    room = MAX_TAG - REST_OF_TAG - len(setup.config.as_json())
    if problem := text_problem(table.name, MAX_DATASET_NAME) or text_problem(str(table.path), room):
        raise DataError(f"{str(table.path)!a}: the path {problem}; rename the file or folder")


def held_out(setup: TrainingSetup) -> TableDataset | None:
    """The test rows on the CPU; None if the split has none."""
    rows = setup.split.test
    return _part(setup.table, rows, torch.device("cpu")) if len(rows) else None


def _check_functions(setup: TrainingSetup) -> None:
    """Computes an own loss and own metrics of a few rows, of the validation part if there is one."""
    if setup.own.loss is None and not setup.own.metrics:
        return
    split, table = setup.split, setup.table
    rows = (split.validation if len(split.validation) else split.train)[:SCORED_ROWS]
    y = table.targets.index_select(0, rows)
    with same_generators():
        output = predict_rows(setup.state.model, table.features.index_select(0, rows))
        check_functions(setup.own, setup.task, setup.loss, output, y)


def _build(
    config: TrainConfig,
    task: Task,
    prepared: Prepared,
    table: Table,
    device: torch.device,
    source: Path | None,
) -> BuiltModel:
    """Builds, scales and checks the module; initial weights are seeded as epoch 0."""
    seed_generators(config.seed, 0, device)
    split = prepared.split
    labels, shape = prepared.labels, table.sample_shape
    spec = spec_of(config, table.columns, table.encoders, labels, shape, task, table.target_shape)
    built = build_model(spec, source)
    _fit_scales(built, table, split)
    rows = table.features[split.train[:CHECKED_ROWS]]
    twin = _twin(built, source)
    for warning in check_module(built.module, rows, built.spec.output_shape, twin=twin):
        say(f"warning: option model: {warning}")
    return built


def _fit_scales(built: BuiltModel, table: Table, split: Split) -> None:
    """Fits the scales of features and targets on the training rows."""
    module, spec = built.module, built.spec
    if isinstance(module, TargetScaled):
        targets = table.targets.index_select(0, split.train)
        if table.target_shape:
            targets = targets.reshape(-1, 1)
        module.target.fit(targets, spec.normalize_target, option="normalize_target")
        module = module.module
    if isinstance(module, ScaledSamples):
        if spec.normalize == "quantile":
            raise ConfigError("option normalize: quantile is for tables; use standard or minmax")
        module.fit(table.features.index_select(0, split.train), spec.normalize)
    if isinstance(module, Scaled):
        codes = {column.position for column in spec.layout.categories}
        features = table.features.index_select(0, split.train)
        module.scale.fit(features, spec.normalize, codes)


def _twin(built: BuiltModel, source: Path | None) -> nn.Module | None:
    """A user-defined module built a second time, from new random numbers; None if it cannot be."""
    if built.user_class is None or not built.user_class.files:
        return None
    with same_generators(), contextlib.suppress(ModelError):
        torch.seed(), random.seed(), np.random.seed()
        return build_model(built.spec, source).module
    return None


def _require_batches(config: TrainConfig, table: Table, split: Split, built: BuiltModel) -> None:
    """Checks that the module accepts a batch of one row if an epoch has one.

    Raises:
        ModelError: it does not, as with batch norm; the message names the option.
    """
    n_rows = len(split.train)
    rest = 0 if config.drop_last else n_rows % config.batch_size
    if min(rest or config.batch_size, n_rows) > 1:
        return
    hint = "each batch has one row, as batch_size is 1; use a larger batch_size"
    if rest == 1:
        hint = (
            f"the last batch of {n_rows} training rows has one row, as batch_size is "
            f"{config.batch_size}; use drop_last true or another batch_size"
        )
    check_one_row(built.module, table.features[split.train[:1]], built.spec.output_shape, hint)


def _part(table: Table, rows: torch.Tensor, device: torch.device) -> TableDataset:
    features, targets = table.features.index_select(0, rows), table.targets.index_select(0, rows)
    return TableDataset(features.to(device), targets.to(device))


def _batches(
    config: TrainConfig, table: Table, prepared: Prepared, order: Order, device: torch.device
) -> Batches:
    split = prepared.split
    if table.dataset is not None:
        rows = DatasetRows(table.dataset, split.train, table.targets.dtype, prepared.labels)
        if table.dataset.is_stream:
            return StreamBatches(rows, order, device)
        return LoaderBatches(rows, order, config.num_workers, device)
    if config.num_workers:
        cpu = _part(table, split.train, torch.device("cpu"))
        return LoaderBatches(cpu, order, config.num_workers, device)
    return TensorBatches(_part(table, split.train, device), order)
