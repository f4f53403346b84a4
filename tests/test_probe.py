"""What a few rows show before the training: hidden state, changing buffers, batches of one row."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from conftest import PROGRAMS
from runback import TrainConfig
from runback.data.batches import Order
from runback.errors import ModelError
from runback.model.hidden_state import fingerprints, generators_of
from runback.model.probe import check_module
from runback.seeding import generator_states
from runback.training.setup import prepare

X = torch.arange(8.0).reshape(4, 2) / 7


class Mine:
    """An object of a user's own class."""

    def __init__(self, **values: Any) -> None:
        vars(self).update(values)


class Probed(nn.Module):
    """Calls `change(self)` in each forward, or in train mode only."""

    def __init__(self, change: Callable[[Any], None], train_only: bool = False, **own: Any) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.part = nn.Sequential(nn.Identity())
        self.change, self.train_only = change, train_only
        for name, value in own.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        if self.training or not self.train_only:
            self.change(self)
        out: Tensor = self.layer(x)
        return out


def nothing(module: Any) -> None:
    pass


GENERATORS: dict[str, Callable[[], Any]] = {
    "torch": lambda: torch.Generator().manual_seed(3),
    "random": lambda: random.Random(3),
    "numpy": lambda: np.random.default_rng(3),
    "old numpy": lambda: np.random.RandomState(3),
}
PLACES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "attribute": (lambda g: g, "own"),
    "list": (lambda g: [1, g], "own[1]"),
    "dict": (lambda g: {"a": {"b": (g,)}}, "own['a']['b'][0]"),
    "object": (lambda g: Mine(inner=Mine(rng=g)), "own.inner.rng"),
}


@pytest.mark.parametrize("kind", GENERATORS)
@pytest.mark.parametrize("place", PLACES)
def test_a_generator_of_its_own_is_named(kind: str, place: str) -> None:
    put, name = PLACES[place]
    module = Probed(nothing, own=put(GENERATORS[kind]()))
    (warning,) = check_module(module, X, (1,))
    assert warning.startswith(f"{name}: a random generator of the module's own")


def test_a_generator_of_a_submodule_is_named() -> None:
    module = Probed(nothing)
    module.part[0].rng = random.Random(1)
    assert generators_of(module) == ["part.0.rng"]


def count(module: Any) -> None:
    module.calls += 1


def append(module: Any) -> None:
    module.seen.append(0.5)


def set_entry(module: Any) -> None:
    module.seen["n"] = module.seen.get("n", 0) + 1


def change_tensor(module: Any) -> None:
    module.seen += 1


def replace_tensor(module: Any) -> None:
    module.seen = module.seen * 0.5 + 1


def change_object(module: Any) -> None:
    module.seen.n += 1


def count_in_submodule(module: Any) -> None:
    module.part[0].calls = getattr(module.part[0], "calls", 0) + 1


@pytest.mark.parametrize(
    ("change", "own", "name"),
    [
        (count, {"calls": 0}, "calls"),
        (append, {"seen": []}, "seen"),
        (set_entry, {"seen": {}}, "seen['n']"),
        (change_tensor, {"seen": torch.zeros(2)}, "seen"),
        (change_tensor, {"seen": np.zeros(2)}, "seen"),
        (replace_tensor, {"seen": torch.zeros(2)}, "seen"),
        (change_object, {"seen": Mine(n=0)}, "seen.n"),
        (count_in_submodule, {}, "part.0.calls"),
    ],
)
def test_what_changes_in_a_step_is_named_and_put_back(
    change: Callable[[Any], None], own: dict[str, Any], name: str
) -> None:
    module = Probed(change, train_only=True, **own)
    before = fingerprints(module)
    (warning,) = check_module(module, X, (1,))
    assert warning.startswith(name) and "is in no checkpoint" in warning
    assert fingerprints(module) == before


def test_a_non_persistent_buffer_is_named_and_put_back() -> None:
    module = Probed(change_tensor)
    module.register_buffer("seen", torch.zeros(2), persistent=False)
    (warning,) = check_module(module, X, (1,))
    assert warning.startswith("seen: changes in forward")
    assert module.get_buffer("seen").tolist() == [0.0, 0.0]


def test_generators_are_put_back() -> None:
    """Also one that two parts of a module share."""
    shared = torch.Generator().manual_seed(3)
    module = Probed(lambda m: torch.rand(1, generator=m.part[0].rng), own=[shared])
    module.part[0].rng = shared
    expected = torch.rand(3, generator=torch.Generator().manual_seed(3))
    check_module(module, X, (1,))
    assert module.own[0] is module.part[0].rng
    assert torch.equal(torch.rand(3, generator=module.own[0]), expected)


@pytest.mark.parametrize(
    "module",
    [
        Probed(nothing, own=[1, "a", {2: None}, {3}, torch.zeros(2), np.zeros(3)]),
        Probed(lambda m: m.own.setdefault("cache", torch.ones(2)), own={}),
        Probed(lambda m: m.layer.weight.sum(), alias=[nn.Linear(2, 1)]),
        nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 1)),
        nn.Sequential(nn.utils.spectral_norm(nn.Linear(2, 4)), nn.Linear(4, 1)),
        nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d(), nn.LazyLinear(1)),
    ],
    ids=["plain", "cache", "alias", "batch norm", "spectral norm", "lazy"],
)
@pytest.mark.filterwarnings("ignore:.*torch.nn.utils.spectral_norm.*:FutureWarning")
def test_modules_without_hidden_state_give_no_warning(module: nn.Module) -> None:
    assert check_module(module, X, (1,)) == []


def test_a_module_in_a_plain_list_is_seen() -> None:
    """Its weights are neither trained nor stored."""
    module = Probed(lambda m: m.own[0](X), own=[nn.BatchNorm1d(2)])
    (warning,) = check_module(module, X, (1,))
    assert "own[0].running_mean" in warning


def test_random_predictions_are_named() -> None:
    class Random(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return nn.functional.dropout(super().forward(input), 0.5, training=True)

    assert check_module(Random(2, 1), X, (1,)) == [
        "in eval mode, two predictions of the same rows differ"
    ]


VALUES = st.recursive(
    st.integers() | st.floats() | st.text() | st.none() | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(old=st.dictionaries(st.sampled_from("abcd"), VALUES), new=st.data())
def test_any_attributes_are_put_back(old: dict[str, Any], new: st.DataObject) -> None:
    steps = iter(
        new.draw(
            st.lists(st.dictionaries(st.sampled_from("abcde"), VALUES), min_size=9, max_size=9)
        )
    )

    def change(module: Any) -> None:
        for name in "abcde":
            vars(module).pop(name, None)
        vars(module).update(next(steps, {}))

    module = Probed(change, **old)
    before = fingerprints(module)
    check_module(module, X, (1,))
    assert fingerprints(module) == before
    assert module.training


def test_a_check_leaves_all_generators_alone() -> None:
    def draw(_: Any) -> None:
        random.random(), np.random.rand(), torch.rand(1)

    before = repr(generator_states())
    check_module(Probed(draw), X, (1,))
    assert repr(generator_states()) == before


def grow(module: Any) -> None:
    module.seen = torch.cat([module.seen, torch.zeros(1)])


def widen(module: Any) -> None:
    module.seen = module.seen.double()


def appear(module: Any) -> None:
    module.register_buffer("late", torch.zeros(1))


def create_layer(module: Any) -> None:
    module.more = nn.Linear(1, 1)


def remove(module: Any) -> None:
    del module.seen
    module.register_buffer("seen", None)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (grow, "forward changes 'seen' from torch.float32 [1] to torch.float32 ["),
        (widen, "forward changes 'seen' from torch.float32 [1] to torch.float64 [1]"),
        (appear, "forward creates 'late'; parameters and buffers are created in __init__"),
        (create_layer, "forward creates 'more.bias'"),
        (remove, "forward removes 'seen'"),
    ],
)
@pytest.mark.parametrize("train_only", [False, True])
def test_a_forward_that_changes_the_state_dict_is_refused(
    change: Callable[[Any], None], problem: str, train_only: bool
) -> None:
    module = Probed(change, train_only=train_only)
    module.register_buffer("seen", torch.zeros(1))
    with pytest.raises(ModelError) as caught:
        check_module(module, X, (1,))
    assert str(caught.value).startswith(f"option model: {problem}")
    assert "\n" not in str(caught.value)


def config_of(folder: Path, rows: int, **options: Any) -> TrainConfig:
    table = folder / "table.csv"
    table.write_text("a,b,y\n" + "".join(f"{i},{i % 3},{i}\n" for i in range(rows)))
    return TrainConfig(data=str(table), split="1:0:0", **options)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.integers(2, 40), batch_size=st.integers(1, 41), drop_last=st.booleans())
def test_a_batch_of_one_row_is_refused_under_batch_norm(
    tmp_path: Path, rows: int, batch_size: int, drop_last: bool
) -> None:
    assume(batch_size <= rows or not drop_last)
    config = config_of(
        tmp_path, rows, model=f"{PROGRAMS}/net.py:Net", batch_size=batch_size, drop_last=drop_last
    )
    order = Order(rows, batch_size, shuffle=False, drop_last=drop_last, seed=0)
    sizes = [min(batch_size, rows - i * batch_size) for i in range(order.n_batches)]
    if 1 not in sizes:
        prepare(config)
        return
    with pytest.raises(ModelError) as caught:
        prepare(config)
    text = str(caught.value)
    assert "forward fails in train mode on input [1, 2]: Expected more than 1 value" in text
    right = "a larger batch_size" if batch_size == 1 else "drop_last true or another batch_size"
    assert text.endswith(f"use {right}") and "\n" not in text


def test_other_modules_accept_a_batch_of_one_row(tmp_path: Path) -> None:
    prepare(config_of(tmp_path, 5, model="mlp", batch_size=2, drop_last=False))


def test_hidden_state_is_named_before_a_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On standard error, by `prepare`; a second build shows what differs."""
    for model, problem in (
        ("Counter", "calls: changes in forward and is in no checkpoint"),
        ("RandomTensor", "built again with the same weights, it predicts something else"),
        ("PythonRandom", "parts['k'][0] differs and is not in the state_dict"),
    ):
        prepare(config_of(tmp_path, 20, model=f"{PROGRAMS}/hidden.py:{model}", batch_size=8))
        assert problem in capsys.readouterr().err
    prepare(config_of(tmp_path, 20, model=f"{PROGRAMS}/hidden.py:Seeded", batch_size=8))
    assert "warning" not in capsys.readouterr().err
