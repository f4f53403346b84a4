"""Built-in modules: results, refused arguments, and saving and loading."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.preprocessing
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from conftest import DATA
from runback.config import MODEL_NAMES, TrainConfig
from runback.data.table import Columns, read_table
from runback.errors import CheckpointError, DataError, ModelError
from runback.model.builtin import BUILTIN, Linear, Mlp, Polynomial, PolynomialFeatures
from runback.model.digests import write_digests
from runback.model.probe import check_module
from runback.model.scaling import Scale, Scaled, TargetScaled
from runback.model.spec import (
    SPEC_FILE,
    STATE_FILE,
    BuiltModel,
    ModelSpec,
    build_model,
    load_built,
    load_spec,
    load_weights,
    save_model,
)
from runback.training.setup import prepare, spec_of


def build(model: str, n_features: int = 2, n_targets: int = 1, **options: Any) -> BuiltModel:
    features = tuple(f"x{index}" for index in range(n_features))
    targets = tuple(f"y{index}" for index in range(n_targets))
    config = TrainConfig(
        model=model, **{"normalize": "none", "normalize_target": "none", **options}
    )
    return build_model(spec_of(config, Columns(features, targets)))


def refused(model: str, **options: Any) -> str:
    with pytest.raises(ModelError) as caught:
        build(model, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_early_checks_know_the_built_in_models() -> None:
    assert tuple(BUILTIN) == MODEL_NAMES


# What they compute


def test_linear_is_one_linear_layer() -> None:
    module = Linear(3, 2)
    x = torch.randn(5, 3)
    assert torch.equal(module(x), nn.functional.linear(x, module.layer.weight, module.layer.bias))
    assert module(x).shape == (5, 2)


def test_degree_two_weights_are_in_descending_order() -> None:
    module = Polynomial(1, 1)
    x = torch.tensor([[3.0], [-2.0]])
    assert module.terms(x).tolist() == [[9.0, 3.0], [4.0, -2.0]]
    (w1, w2), b = module.layer.weight[0], module.layer.bias[0]
    assert torch.allclose(module(x)[:, 0], w1 * x[:, 0] ** 2 + w2 * x[:, 0] + b)


def test_two_features_of_degree_two_have_a_fixed_order() -> None:
    terms = PolynomialFeatures(2, 2)(torch.tensor([[2.0, 5.0]]))
    assert terms.tolist() == [[4.0, 10.0, 25.0, 2.0, 5.0]]


@given(st.integers(1, 4), st.integers(1, 5), st.data())
def test_polynomial_terms_are_those_of_scikit_learn(
    n_features: int, degree: int, data: st.DataObject
) -> None:
    values = st.lists(st.integers(-4, 4), min_size=n_features, max_size=n_features)
    x = np.array(data.draw(st.lists(values, min_size=1, max_size=3)), dtype=float)
    theirs = sklearn.preprocessing.PolynomialFeatures(degree, include_bias=False).fit_transform(x)
    ours = PolynomialFeatures(n_features, degree)
    found = ours(torch.from_numpy(x)).numpy()
    assert found.shape == (len(x), ours.n_terms) == theirs.shape
    assert (np.sort(found, axis=1) == np.sort(theirs, axis=1)).all()
    powers = _degrees(n_features, degree)
    assert powers == sorted(powers, reverse=True)


def _degrees(n_features: int, degree: int) -> list[float]:
    """The degree of each term: its exponent of a common factor of all features."""
    one = PolynomialFeatures(n_features, degree)(torch.ones(1, n_features, dtype=torch.float64))
    two = PolynomialFeatures(n_features, degree)(torch.full((1, n_features), 2.0).double())
    return (two / one).log2()[0].tolist()


def test_mlp_has_the_requested_layers() -> None:
    module = Mlp(4, 2, hidden=[8, 3], activation="tanh", dropout=0.5)
    kinds = [type(layer) for layer in module.hidden]
    assert kinds == [nn.Linear, nn.Tanh, nn.Dropout] * 2
    assert [tuple(p.shape) for p in module.parameters()] == [
        (8, 4), (8,), (3, 8), (3,), (2, 3), (2,),
    ]  # fmt: skip
    assert [type(layer) for layer in Mlp(4, 2, hidden=5).hidden] == [nn.Linear, nn.ReLU]
    assert len(Mlp(4, 2, hidden=[]).hidden) == 0
    assert module(torch.randn(7, 4)).shape == (7, 2)


def test_initial_weights_are_a_function_of_the_seed() -> None:
    def first(seed: int) -> torch.Tensor:
        torch.rand(3)  # what was drawn before must not matter
        config = TrainConfig(
            data=str(DATA / "diabetes.csv"), model="mlp", seed=seed, normalize="none",
            normalize_target="none",
        )  # fmt: skip
        return prepare(config).state.model.state_dict()["output.weight"]

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


# What is refused


@pytest.mark.parametrize(
    ("model", "args", "problem"),
    [
        ("transformer", {}, "option model: 'transformer' is not one of linear, polynomial, mlp, "),
        ("", {}, "option model: '' is not one of"),
        ("linear", {"degree": 2}, "option model_args: linear is called as Linear(n_features, "
         "n_targets, **model_args): got an unexpected keyword argument 'degree'"),
        ("linear", {"n_features": 2}, "multiple values for argument 'n_features'"),
        ("polynomial", {"degree": 0}, "degree 0 is not a whole number of at least 1"),
        ("polynomial", {"degree": 2.5}, "degree 2.5 is not a whole number of at least 1"),
        ("polynomial", {"degree": True}, "degree True is not a whole number of at least 1"),
        ("polynomial", {"degree": "2"}, "degree '2' is not a whole number of at least 1"),
        ("polynomial", {"degree": 5000}, "degree 5000 of 2 features makes more than 1000000 columns"),
        ("polynomial", {"degree": 10**15}, "makes more than 1000000 columns"),
        ("mlp", {"hidden": [8, 0]}, "hidden [8, 0] is not a list of positive whole numbers"),
        ("mlp", {"hidden": -8}, "hidden -8 is not a list of positive whole numbers"),
        ("mlp", {"hidden": "64"}, "hidden '64' is not a list of positive whole numbers"),
        ("mlp", {"hidden": [8, True]}, "is not a list of positive whole numbers"),
        ("mlp", {"hidden": None}, "hidden None is not a list of positive whole numbers"),
        ("mlp", {"hidden": {"a": 1}}, "is not a list of positive whole numbers"),
        ("mlp", {"activation": "softplus"}, "activation 'softplus' is not one of relu, gelu, silu, "),
        ("mlp", {"dropout": 1.0}, "dropout 1.0 is not in [0, 1)"),
        ("mlp", {"dropout": "0.1"}, "dropout '0.1' is not in [0, 1)"),
        ("mlp", {"dropout": -0.1}, "dropout -0.1 is not in [0, 1)"),
    ],
)  # fmt: skip
def test_unknown_models_and_arguments_are_refused(model: str, args: Any, problem: str) -> None:
    message = refused(model, model_args=args)
    assert message.startswith("option model")
    assert problem in message


class Nothing(nn.Module):
    def __init__(self, n_features: int, n_targets: int) -> None:
        super().__init__()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_a_module_without_parameters_is_refused() -> None:
    assert refused("test_models:Nothing") == (
        "option model: test_models:Nothing has no parameter to train"
    )


class Shaped(nn.Module):
    """Its argument decides what forward returns or raises."""

    def __init__(self, n_features: int, n_targets: int, what: str) -> None:
        super().__init__()
        self.layer, self.what = nn.Linear(n_features, n_targets), what
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> Any:
        out = self.dropout(self.layer(x))
        if self.what == "flat":
            return out.flatten()
        if self.what == "tuple":
            return out, out
        if self.what == "wide":
            return torch.cat((out, out), dim=1)
        return out @ torch.zeros(99, 1) if self.what == "fail" else out


@pytest.mark.parametrize(
    ("what", "problem"),
    [
        ("flat", "forward returns (3,), not (3, 1) (rows, targets)"),
        ("tuple", "forward returns tuple, not (3, 1) (rows, targets)"),
        ("wide", "forward returns (3, 2), not (3, 1) (rows, targets)"),
        ("fail", "forward fails on input [3, 2]: mat1 and mat2 shapes cannot be multiplied"),
    ],
)
def test_a_module_with_another_output_is_refused(what: str, problem: str) -> None:
    with pytest.raises(ModelError) as caught:
        check_module(Shaped(2, 1, what), torch.zeros(3, 2), (1,))
    assert str(caught.value).startswith(f"option model: {problem}")
    assert "\n" not in str(caught.value)


def test_check_module_changes_no_module_or_generator() -> None:
    module = Shaped(2, 1, "good").train()
    before, weights = torch.get_rng_state(), module.layer.weight.clone()
    check_module(module, torch.randn(3, 2, generator=torch.Generator()), (1,))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(module.layer.weight, weights)
    assert module.training
    assert module.layer.weight.grad is None


# The round trip


ARGS: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "linear": st.just({}),
    "polynomial": st.fixed_dictionaries({}, optional={"degree": st.integers(1, 4)}),
    "mlp": st.fixed_dictionaries({}, optional={
        "hidden": st.lists(st.integers(1, 6), max_size=3) | st.integers(1, 6),
        "activation": st.sampled_from(["relu", "gelu", "silu", "tanh", "sigmoid"]),
        "dropout": st.floats(0.0, 0.9),
    }),
}  # fmt: skip


@st.composite
def built_models(draw: st.DrawFn) -> BuiltModel:
    model = draw(st.sampled_from(sorted(ARGS)))
    names = draw(st.lists(st.text(min_size=1, max_size=9), min_size=2, max_size=6, unique=True))
    count = draw(st.integers(1, len(names) - 1))
    config = TrainConfig(
        model=model,
        model_args=draw(ARGS[model]),
        normalize=draw(st.sampled_from(["none", "standard", "minmax", "quantile"])),
        normalize_target=draw(st.sampled_from(["none", "standard"])),
        precision=draw(st.sampled_from(["float32", "bf16", "float64"])),
    )
    columns = Columns(tuple(names[:count]), tuple(names[count:]))
    return build_model(spec_of(config, columns))


@given(built_models())
def test_every_module_comes_back_from_its_folder(
    tmp_path_factory: pytest.TempPathFactory, built: BuiltModel
) -> None:
    folder = tmp_path_factory.mktemp("model")
    x = torch.randn(4, len(built.spec.features), dtype=built.spec.torch_dtype)
    module = built.module
    if isinstance(module, TargetScaled):
        module.target.fit(torch.randn(4, len(built.spec.targets)), built.spec.normalize_target)
        module = module.module
    if isinstance(module, Scaled):
        module.scale.fit(x, built.spec.normalize)
    save_model(folder, built, built.module.state_dict())
    again = load_built(folder).module
    assert load_spec(folder) == built.spec
    assert ModelSpec.from_json(json.loads(json.dumps(built.spec.as_json()))) == built.spec
    assert not again.training
    assert torch.equal(again(x), built.module.eval()(x))
    for (name, one), (other, two) in zip(
        built.module.state_dict().items(), again.state_dict().items(), strict=True
    ):
        assert name == other
        assert torch.equal(one, two)
        assert one.dtype == two.dtype
        assert one.dtype == built.spec.torch_dtype or name.endswith("is_ranked")


def test_unfitting_weights_are_refused_by_name() -> None:
    state = build("mlp", model_args={"hidden": [4]}).module.state_dict()
    module = build("mlp", model_args={"hidden": [4]}).module
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    lacking = {name: tensor for name, tensor in state.items() if name != "output.bias"}
    for wrong, problem in (
        (lacking, "the stored weights have no 'output.bias'"),
        ({**state, "extra": torch.zeros(1)}, "the module has no 'extra'"),
        ({**state, "output.bias": torch.zeros(2)},
         "'output.bias' is stored as torch.float32 [2], the module has torch.float32 [1]"),
        ({**state, "hidden.0.weight": state["hidden.0.weight"].double()},
         "'hidden.0.weight' is stored as torch.float64 [4, 2], the module has torch.float32 [4, 2]"),
        ({**state, "output.bias": [1.0]}, "'output.bias' is stored as list"),
        (torch.zeros(3), "a Tensor is not a state_dict"),
    ):  # fmt: skip
        with pytest.raises(ModelError) as caught:
            load_weights(module, wrong)  # type: ignore[arg-type]
        assert str(caught.value).startswith(f"weights do not fit: {problem}")
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    load_weights(module, state)
    assert torch.equal(module.state_dict()["output.bias"], state["output.bias"])


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2}, {"task": None}, {"task": "other"},
        {"model": 3}, {"model_args": []}, {"features": "abc"}, {"features": [1]},
        {"targets": []}, {"normalize": "log"}, {"normalize_target": "minmax"}, {"dtype": "int8"},
        {"own_module": None},
        {"model": "other"}, {"model_args": {"depth": 3}},
    ],
)  # fmt: skip
def test_a_damaged_spec_is_refused_in_one_sentence(tmp_path: Path, change: dict[str, Any]) -> None:
    built = build("mlp")
    save_model(tmp_path, built, built.module.state_dict())
    (tmp_path / SPEC_FILE).write_text(json.dumps({**built.spec.as_json(), **change}))
    write_digests(tmp_path)
    with pytest.raises(ModelError) as caught:
        load_built(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_missing_entry_of_a_model_is_named(tmp_path: Path) -> None:
    built = build("linear")
    save_model(tmp_path, built, built.module.state_dict())
    stored = built.spec.as_json()
    later = {
        "columns",
        "labels",
        "normalize_target",
        "shape",
        "target_shape",
    }  # models of the first version have none
    for name in stored.keys() - later:
        (tmp_path / SPEC_FILE).write_text(
            json.dumps({k: v for k, v in stored.items() if k != name})
        )
        with pytest.raises(ModelError, match=name):
            load_spec(tmp_path)
    for text in ("[]", "{", "null"):
        (tmp_path / SPEC_FILE).write_text(text)
        with pytest.raises(ModelError, match=SPEC_FILE):
            load_spec(tmp_path)
    (tmp_path / SPEC_FILE).write_text(json.dumps(stored))
    (tmp_path / STATE_FILE).unlink()
    write_digests(tmp_path)
    with pytest.raises(CheckpointError, match="no such file"):
        load_built(tmp_path)
    (tmp_path / SPEC_FILE).unlink()
    write_digests(tmp_path)
    with pytest.raises(ModelError, match="cannot be read"):
        load_built(tmp_path)


# Scaling


def test_scales_are_fitted_on_training_rows_only() -> None:
    path = str(DATA / "diabetes.csv")
    for how in ("standard", "minmax"):
        config = TrainConfig(data=path, model="linear", normalize=how, precision="float64")
        work = prepare(config)
        module = work.state.model
        assert isinstance(module, Scaled)
        table = read_table(path, (), (), torch.float64)
        train = table.features[work.split.train].numpy()
        scaler = {"standard": sklearn.preprocessing.StandardScaler,
                  "minmax": sklearn.preprocessing.MinMaxScaler}[how]().fit(train)  # fmt: skip
        expected = torch.from_numpy(scaler.transform(table.features.numpy()))
        assert torch.allclose(module.scale(table.features), expected, rtol=1e-12, atol=1e-12)
        everything = scaler.fit(table.features.numpy()).transform(table.features.numpy())
        assert not torch.allclose(module.scale(table.features), torch.from_numpy(everything))


@pytest.mark.parametrize("how", ["standard", "minmax"])
@pytest.mark.parametrize("value", [0.0, 0.1, -7.3, 1e-30, 3e30])
def test_a_constant_column_becomes_zero(how: str, value: float) -> None:
    for dtype in (torch.float32, torch.float64):
        x = torch.full((1001, 2), value, dtype=dtype)
        x[:, 1] = torch.arange(1001)
        scale = Scale(2).to(dtype)
        scale.fit(x, how)
        assert (scale(x)[:, 0] == 0.0).all()
        assert scale.scale[0] == 1.0
        assert scale(x).isfinite().all()


def test_a_tiny_spread_does_not_divide_by_zero() -> None:
    x = torch.tensor([[0.0], [1e-300]], dtype=torch.float64)
    scale = Scale(1)
    scale.fit(x, "minmax")
    assert scale(x.float()).isfinite().all()


@pytest.mark.parametrize("how", ["standard", "minmax"])
@pytest.mark.parametrize(("value", "dtype"), [(3e38, torch.float32), (1e200, torch.float64)])
def test_a_spread_too_large_for_the_dtype_is_refused(how: str, value: float, dtype: Any) -> None:
    x = torch.tensor([[0.0, value], [1.0, -value]], dtype=dtype)
    if (how, dtype) == ("minmax", torch.float64):
        x *= 1e100
        x[:, 1] = torch.tensor([1e308, -1e308])
    scale = Scale(2).to(dtype)
    with pytest.raises(
        DataError, match="option normalize: the range of feature column 2 is too large"
    ):
        scale.fit(x, how)


def test_scaling_is_part_of_the_weights_and_not_trained() -> None:
    built = build("linear", normalize="standard")
    assert set(built.module.state_dict()) == {
        "scale.offset", "scale.scale", "module.layer.weight", "module.layer.bias",
    }  # fmt: skip
    assert [n for n, _ in built.module.named_parameters()] == [
        "module.layer.weight", "module.layer.bias",
    ]  # fmt: skip


def test_building_a_model_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for model in ("linear", "polynomial", "mlp"):
            build(model, n_features=1, normalize="standard")
