"""Users' modules: located, checked before the first epoch, and rebuilt from the stored source."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from conftest import PROGRAMS
from runback import TrainConfig
from runback.data.table import Columns
from runback.errors import ModelError
from runback.model.digests import write_digests
from runback.model.probe import check_module
from runback.model.requirements import requirements
from runback.model.spec import build_model, load_built, save_model
from runback.training.setup import spec_of
from runback.user_code import import_class, locate

HEAD = "import torch\nfrom torch import nn\n"
GOOD = (PROGRAMS / "net.py").read_text(encoding="utf-8")


def built(model: str, **model_args: object):
    config = TrainConfig(model=model, model_args=model_args)
    return build_model(spec_of(config, Columns(("a", "b"), ("y",))))


def checked(model: str, **model_args: object) -> None:
    check_module(built(model, **model_args).module, torch.ones(2, 2), (1,))


def wrong(body: str) -> str:
    return GOOD.replace("return self.inner(x)", body)


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("import nothing_of_that_name\n", "does not import: ModuleNotFoundError"),
        ("raise SystemExit(3)\n", "does not import: SystemExit: 3"),
        ("class Net(\n", "does not import: SyntaxError"),
        ("Net = 3\n", "has no nn.Module class 'Net'"),
        (HEAD + "class Other(nn.Module): pass\n", "has no nn.Module class"),
        (GOOD.replace("hidden=4", "hidden"), "is called as Net(n_features, n_targets"),
        (GOOD.replace("super().__init__()", "1 / 0"), "refuses {}: division by zero"),
        (HEAD + "class Net(nn.Module):\n    def __init__(self, a, b): super().__init__()\n", "no "),
        (wrong("return self.inner(x)[:, 0]"), "forward returns (2,), not (2, 1)"),
        (wrong("return self.inner(x), 1"), "forward returns tuple, not (2, 1)"),
        (wrong("return self.inner(x) if not self.training else (x, x)"), "forward returns tuple"),
        (wrong("return x[:, :1] * 2"), "depends on no parameter"),
        (wrong("return self.inner(x).double()"), "returns torch.float64 for torch.float32"),
        (wrong("return self.inner(x.reshape(-1))"), "forward fails on input [2, 2]"),
    ],
)  # fmt: skip
def test_an_unusable_module_is_refused_before_training(
    tmp_path: Path, source: str, problem: str
) -> None:
    (tmp_path / "mine.py").write_text(source)
    with pytest.raises(ModelError) as caught:
        checked(f"{tmp_path}/mine.py:Net")
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "mine" not in sys.modules


def test_the_check_leaves_a_good_module_unchanged(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(GOOD)
    model = built(f"{tmp_path}/mine.py:Net", hidden=3)
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    state = torch.get_rng_state()
    check_module(model.module, torch.ones(2, 2), (1,))
    assert torch.equal(state, torch.get_rng_state())
    assert model.module.training
    for name, value in model.module.state_dict().items():
        assert torch.equal(before[name], value)


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        ("gone.py:Net", "gone.py: no such file"),
        ("mine.py:not a name", "neither file.py:Class nor package.module:Class"),
        ("json.py:Net", "'json' is the name of another package; rename the file"),
        ("torch.py:Net", "'torch' is the name of another package; rename the file"),
        ("os:Net", "'os' is not a user package"),
        ("pandas.core:Net", "'pandas' is not a user package"),
        ("no_such_package.nets:Net", "no module named 'no_such_package'"),
        ("..nets:Net", "is not the name of a Python module"),
        ("a-b.py:Net", "the file name is not a Python module name"),
    ],
)
def test_a_model_option_without_a_module_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, problem: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("json", "torch", "a-b", "mine"):
        (tmp_path / f"{name}.py").write_text(GOOD)
    with pytest.raises(ModelError) as caught:
        built(model)
    assert problem in str(caught.value)


def test_a_class_of_torch_itself_is_a_model(tmp_path: Path) -> None:
    model = built("torch.nn:Linear", bias=False)
    assert type(model.module) is torch.nn.Linear
    save_model(tmp_path, model, model.module.state_dict())
    assert not (tmp_path / "source").exists()
    assert load_built(tmp_path).module(torch.ones(1, 2)).shape == (1, 1)


def test_a_package_is_saved_whole_and_loaded_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "mypkg"
    (package / "deep").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "deep" / "__init__.py").write_text("")
    (package / "deep" / "parts.py").write_text("SCALE = 2.0\n")
    (package / "nets.py").write_text(
        GOOD.replace("self.inner(x)", "self.inner(x) * SCALE")
        + "from .deep.parts import SCALE\nimport beside\n"
    )
    (tmp_path / "beside.py").write_text("")
    (tmp_path / "unused.py").write_text("raise RuntimeError('nobody imports me')\n")
    monkeypatch.chdir(tmp_path)
    model = built("mypkg.nets:Net")
    x = torch.ones(3, 2)
    expected = model.module.eval()(x)
    save_model(tmp_path / "model", model, model.module.state_dict())
    travelled = {
        f.relative_to(tmp_path / "model").as_posix() for f in (tmp_path / "model").rglob("*.py")
    }
    assert travelled == {
        "source/beside.py", "source/mypkg/__init__.py", "source/mypkg/nets.py",
        "source/mypkg/deep/__init__.py", "source/mypkg/deep/parts.py",
    }  # fmt: skip
    (package / "deep" / "parts.py").write_text("SCALE = 3.0\n")
    (package / "nets.py").unlink()
    assert torch.equal(load_built(tmp_path / "model").module(x), expected)
    assert not any(name.startswith(("mypkg", "beside")) for name in sys.modules)


def test_lazy_parameters_and_extra_buffers_come_back(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        GOOD.replace("nn.Linear(n_features, hidden)", "nn.LazyLinear(hidden)").replace(
            "super().__init__()", "super().__init__(); self.register_buffer('k', torch.arange(2))"
        )
    )
    model = built(f"{tmp_path}/mine.py:Net")
    check_module(model.module, torch.ones(2, 2), (1,))
    expected = model.module.eval()(torch.ones(2, 2))
    save_model(tmp_path / "model", model, model.module.state_dict())
    assert torch.equal(load_built(tmp_path / "model").module(torch.ones(2, 2)), expected)


def test_a_module_is_importable_while_it_is_pickled(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(GOOD)
    own = import_class(locate(f"{tmp_path}/mine.py:Net"))
    assert "mine" not in sys.modules
    with own.importable():
        assert sys.modules["mine"].Net is own.cls
    assert "mine" not in sys.modules


def test_third_party_imports_become_requirements(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import os, torch, numpy\nimport sibling\nfrom . import x\n"
        "def f():\n    from scipy.special import expit\n"
    )
    (tmp_path / "sibling.py").write_text("import hypothesis.strategies\nimport not_installed\n")
    names = [pin.partition("==")[0] for pin in requirements(tmp_path)]
    assert names == ["hypothesis", "scipy"]
    assert requirements(tmp_path / "empty") == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"own_module": "os"}, "the source of os is missing"),
        ({"own_module": "../../evil"}, "is not the name of a Python module"),
        ({"own_module": "evil"}, "the source of evil is missing"),
        ({"model": "mine.py:__import__('os')"}, "is not the name of a class"),
        ({"model": "mine.py:Net", "own_module": ""}, "'mine.py:Net' is not one of"),
        ({"model_args": {"hidden": "x" * 9}}, "refuses"),
        ({"features": "ab"}, "the entry 'features' is"),
        ({"format": 99}, "not a model of format 1"),
    ],
)
def test_a_tampered_spec_is_refused(
    tmp_path: Path, change: dict[str, object], problem: str
) -> None:
    (tmp_path / "mine.py").write_text(GOOD)
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    model = built(f"{tmp_path}/mine.py:Net")
    save_model(tmp_path / "model", model, model.module.state_dict())
    assert load_built(tmp_path / "model").user_class is not None
    spec = tmp_path / "model" / "model.json"
    spec.write_text(json.dumps({**json.loads(spec.read_text()), **change}))
    write_digests(tmp_path / "model")
    with pytest.raises(ModelError) as caught:
        load_built(tmp_path / "model")
    assert problem in str(caught.value)
    assert not (tmp_path / "ran").exists()
