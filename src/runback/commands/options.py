"""The options of a training as keywords, for editors and type checkers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from torch import Tensor, nn, optim

    Function = Callable[[Tensor, Tensor], Any]


class TrainOptions(TypedDict, total=False):
    """The fields of `TrainConfig`, which has their defaults and their meaning."""

    data: str
    model: str | type[nn.Module]
    target: str | Sequence[str]
    features: str | Sequence[str]
    columns: Mapping[str, Any]
    csv: Mapping[str, Any]
    missing_target: str
    store_data: str
    data_args: Mapping[str, Any]
    model_args: Mapping[str, Any]
    loss: str | Function
    metrics: str | Function | Sequence[str | Function]
    class_weights: str
    optimizer: str | type[optim.Optimizer]
    optimizer_args: Mapping[str, Any]
    lr: float
    weight_decay: float
    momentum: float
    scheduler: str
    scheduler_args: Mapping[str, Any]
    epochs: int
    batch_size: int
    drop_last: bool
    shuffle: bool
    num_workers: int
    split: str
    seed: int
    normalize: str
    normalize_target: str
    checkpoint_every: int
    checkpoint_minutes: float
    keep_checkpoints: int
    patience: int
    clip_norm: float
    device: str
    precision: str
    compile: str
    threads: int
    register: str
    name: str
    key: str
