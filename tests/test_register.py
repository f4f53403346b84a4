"""`run.register`: a module of one's own loop comes back by the run's ID."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import runback
from clean_env import CleanEnvironment
from conftest import Workspace, wait_until
from own_runs import program, runs_of
from runback.cli import main
from runback.commands.predict import predict_file
from runback.model.own_inputs import Inputs
from runback.model.own_spec import OwnSpec
from runback.model.structure import build, structure_of
from runback.own_loop.own_run import OwnRun

NETS = """
import torch
from torch import nn

class Wide(nn.Module):
    def __init__(self, width, scale=1.0, note="x"):
        super().__init__()
        self.width, self.scale = width, scale
        self.layer, self.drop = nn.Linear(2, width), nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(self.layer(x)) * self.scale

class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Bilinear(2, 3, 1)

    def forward(self, one, two):
        return {"sum": self.layer(one, two), "parts": [one + 1]}

class Hidden(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.secret = nn.Linear(2, 1), 1.0

    def forward(self, x):
        return self.layer(x) * self.secret

class Unknown(nn.Module):
    def __init__(self, n_outputs, layers):
        super().__init__()
        self.layer, self.layers = nn.Linear(2, n_outputs), layers

    def forward(self, x):
        return self.layer(x)
"""


# What a module is built from


MODULES: dict[str, tuple[nn.Module, torch.Tensor]] = {
    "linear": (nn.Linear(3, 2, bias=False), torch.randn(4, 3)),
    "convolution": (
        nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=(2, 1), padding=1, groups=1, padding_mode="circular"),
            nn.BatchNorm2d(4, eps=0.1, affine=False), nn.PReLU(4), nn.MaxPool2d(2),
            nn.ConvTranspose2d(4, 2, 2), nn.GroupNorm(2, 2), nn.Upsample(scale_factor=2.0),
            nn.Flatten(), nn.LayerNorm([120], bias=False), nn.Unflatten(1, (4, 30)),
        ),
        torch.randn(2, 1, 8, 8),
    ),
    "embedding": (
        nn.Sequential(nn.Embedding(9, 4, padding_idx=0), nn.Dropout(0.3)), torch.tensor([[1, 2]]),
    ),
    "recurrent": (
        nn.LSTM(3, 5, num_layers=2, bidirectional=True, batch_first=True), torch.randn(2, 4, 3),
    ),
    "named": (
        nn.Sequential(OrderedDict(a=nn.Linear(2, 2), b=nn.Sequential(nn.GELU("tanh")))),
        torch.randn(1, 2),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_modules_of_torch_are_built_again(name: str) -> None:
    module, x = MODULES[name]
    structure = json.loads(json.dumps(structure_of(module)))
    again = build(structure, None)
    again.load_state_dict(module.state_dict())
    assert repr(again) == repr(module)
    one, other = module.eval()(x), again.eval()(x)
    assert torch.equal(*(out if isinstance(out, torch.Tensor) else out[0] for out in (one, other)))


def test_containers_keep_the_names_of_their_parts() -> None:
    parts = nn.ModuleDict({"b": nn.Linear(1, 2), "a": nn.ModuleList([nn.ReLU(), nn.Linear(2, 1)])})
    again = build(structure_of(parts), None)
    assert list(again.state_dict()) == list(parts.state_dict())


@pytest.mark.parametrize(
    ("structure", "text"),
    [
        ([], "'structure' is damaged"),
        ({"class": "Linear"}, "'structure' is damaged"),
        ({"class": "no", "args": {}}, "names no class of torch.nn: 'no'"),
        ({"class": "functional", "args": {}}, "names no class of torch.nn"),
        ({"class": "own", "args": {}}, "names no class of torch.nn: 'own'"),
        ({"class": "Linear", "args": {}, "parts": []}, "'structure' is damaged"),
        ({"class": "Linear", "args": {"x": 1}}, "Linear refuses {'x': 1}"),
    ],
)
def test_a_damaged_structure_is_refused(structure: Any, text: str) -> None:
    with pytest.raises(runback.ModelError, match=text):
        build(structure, None)


@pytest.mark.parametrize(
    "entry", ["structure", "own_class", "dtype", "outputs", "inputs", "format"]
)
def test_a_damaged_own_description_is_refused(entry: str) -> None:
    inputs = Inputs("array", (), "float32", (3,))
    stored = OwnSpec(structure_of(nn.Linear(3, 1)), "", "float32", inputs, (1,)).as_json()
    assert OwnSpec.from_json(stored).as_json() == stored
    with pytest.raises(runback.ModelError, match=f"'{entry}'|format 1"):
        OwnSpec.from_json({**stored, entry: 3.5})


# Registered in one run


class Registered(NamedTuple):
    run_id: str
    uri: str
    wide: nn.Module
    image: nn.Module


FRAME = pd.DataFrame({"b": [1, 2, 3], "a": [0.5, 0.25, 4.0]}, index=["x", "y", "z"])


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A module of Python with the user's classes."""
    folder = tmp_path_factory.mktemp("nets")
    (folder / "own_nets.py").write_text(NETS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        import own_nets  # type: ignore[import-not-found]

        yield own_nets
        del sys.modules["own_nets"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[str]:
    """A store, a home and a working directory."""
    folder = tmp_path_factory.mktemp("own")
    uri = f"sqlite:///{folder}/mlflow.db"
    (folder / "mlflow.db").write_bytes(empty_database.read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        patch.setenv("RUNBACK_HOME", str(folder / "home"))
        patch.chdir(folder)
        yield uri


@pytest.fixture(scope="module")
def registered(place: str, nets: Any) -> Registered:
    torch.manual_seed(0)
    wide, image = nets.Wide(2, scale=0.5), nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
    with runback.run("first", register="wide") as run:
        for _ in run.epochs(2):
            run.log(cost=1.0)
        run.register(image, example=np.zeros((1, 1, 4, 4)), name="image")
        run.register(wide, example=FRAME[["a", "b"]])
    return Registered(run.id, place, wide, image)


def test_the_runs_id_gives_the_last_module_back(registered: Registered) -> None:
    module = runback.load_model(registered.run_id)
    x = torch.randn(5, 2)
    assert torch.equal(module(x), registered.wide.eval()(x))
    assert not module.training and module.width == 2 and module.scale == 0.5
    image, samples = runback.load_model("models:/image/1"), torch.randn(2, 1, 4, 4)
    assert torch.equal(image(samples), registered.image(samples))


def test_versions_say_where_they_come_from(registered: Registered) -> None:
    client = mlflow.MlflowClient(registered.uri)
    for name in ("wide", "image"):
        (version,) = client.search_model_versions(f"name = '{name}'")
        assert version.run_id == registered.run_id and version.tags["runback.epoch"] == "2"
    models = client.search_logged_models([client.get_run(registered.run_id).info.experiment_id])
    assert {str(model.status) for model in models} == {"READY"}
    assert all([(m.key, m.value) for m in model.metrics] == [("cost", 1.0)] for model in models)
    assert [file.path for file in client.list_artifacts(registered.run_id, "source")] == [
        "source/own_nets.py"
    ]


def test_predict_takes_frames_arrays_and_files(registered: Registered) -> None:
    expected = registered.wide.eval()(torch.tensor([[0.5, 1], [0.25, 2], [4, 3]])).detach()
    found = runback.predict(registered.run_id, FRAME, keep=["b"])
    assert list(found.columns) == ["b", "output_0", "output_1"]
    assert list(found.index) == ["x", "y", "z"]
    assert np.array_equal(found[["output_0", "output_1"]], expected.numpy())
    array = runback.predict(registered.run_id, FRAME[["a", "b"]].to_numpy())
    assert np.array_equal(array, expected.numpy())
    FRAME.to_csv("frame.csv", index=False)
    assert predict_file(registered.run_id, "frame.csv", "out.parquet", keep=["b"]) == 3
    assert np.array_equal(pd.read_parquet("out.parquet").iloc[:, 1:], expected.numpy())
    assert len(runback.predict(registered.run_id, FRAME[:0])) == 0


def test_pyfunc_gives_what_the_module_gives(registered: Registered) -> None:
    expected = runback.predict(registered.run_id, FRAME)
    wide = mlflow.pyfunc.load_model("models:/wide/1")
    assert np.array_equal(wide.predict(FRAME), expected)
    x = np.random.default_rng(0).normal(size=(2, 1, 4, 4)).astype("float32")
    image = mlflow.pyfunc.load_model("models:/image/1").predict(x)
    assert np.array_equal(image, registered.image(torch.from_numpy(x)).detach())


@pytest.mark.parametrize(
    ("use", "text"),
    [
        (lambda r: runback.evaluate(r.run_id), "use it with predict, load_model or mlflow.pyfunc"),
        (
            lambda r: runback.promote(r.run_id),
            r"has a loop of its own: name the metric .* --metric",
        ),
        (lambda r: runback.promote(r.run_id, metric="no"), "did not log 'no': name the metric"),
        (lambda r: runback.promote(r.run_id, data="t.csv"), "data and significant, which need"),
        (lambda r: runback.export(r.run_id, "pt2", "m.pt2"), "registered from a loop of its own"),
        (lambda r: runback.predict(r.run_id, FRAME[["a"]]), "table: no column 'b'"),
        (lambda r: runback.predict(r.run_id, FRAME, keep=["c"]), "no column 'c'"),
        (lambda r: runback.predict(r.run_id, np.ones((2, 3))), r"the model takes \[n, 2\]"),
        (lambda r: runback.predict(r.run_id, FRAME, probabilities=True), "numbers, not classes"),
        (lambda r: runback.predict("models:/image/1", np.ones((1, 1, 4, 4))), "which is no table"),
    ],
    ids=[
        "evaluate",
        "promote",
        "metric",
        "rows",
        "export",
        "column",
        "keep",
        "shape",
        "classes",
        "image",
    ],
)
def test_what_a_run_cannot_do_is_said(registered: Registered, use: Any, text: str) -> None:
    with pytest.raises(runback.UsageError, match=text) as caught:
        use(registered)
    assert "\n" not in str(caught.value)


def test_promote_compares_what_own_loops_logged(
    registered: Registered, capsys: pytest.CaptureFixture[str]
) -> None:
    with runback.run("second") as run:
        for _ in run.epochs(1):
            run.log(cost=0.5)
    client = mlflow.MlflowClient(registered.uri)
    source = client.get_model_version("wide", "1").source
    client.create_registered_model("ladder")
    for run_id in (registered.run_id, run.id):
        client.create_model_version("ladder", source, run_id)
    worse, good = "models:/ladder/1", "models:/ladder/2"
    first = runback.promote(worse, metric="cost", better="lower")
    assert (first.moved, first.score, first.reason) == (True, 1.0, "no version had the alias")
    assert main(["promote", good, "--metric", "cost", "--better", "lower"]) == 0
    second = json.loads(capsys.readouterr().out)
    assert (second["moved"], second["score"], second["holder_score"]) == (True, 0.5, 1.0)
    refused = runback.promote(worse, metric="cost", better="lower")
    assert (refused.moved, refused.reason) == (False, "its cost is not better")
    assert runback.promote(worse, metric="cost", better="lower", force=True).moved
    assert runback.rollback(good).version == "2"
    assert runback.promote(worse, metric="cost", better="higher").moved
    for better in ("", "low"):
        assert main(["promote", good, "--metric", "cost", "--better", better]) == 2
        assert "--better lower or higher" in capsys.readouterr().err


# Registering, with one epoch begun


@pytest.fixture(scope="module")
def open_run(registered: Registered) -> Iterator[OwnRun]:
    with runback.run("second") as run:
        for _ in run.epochs(1):
            yield run


X = torch.ones(1, 2)
MISTAKES = {
    "module": (lambda n: (3, {"example": X}), "register: a int is no torch.nn.Module"),
    "weights": (lambda n: (nn.ReLU(), {"example": X}), "ReLU has no parameters"),
    "name": (lambda n: (nn.Linear(2, 1), {"example": X, "name": "a/b"}), "contains / or :"),
    "example": (lambda n: (nn.Linear(2, 1), {"example": "x"}), "a str is no tensor"),
    "no_row": (lambda n: (nn.Linear(2, 1), {"example": X[:0]}), "give at least one row"),
    "shape": (lambda n: (nn.Linear(3, 1), {"example": X}), "forward fails on the example"),
    "args": (
        lambda n: (n.Unknown(1, object()), {"example": X}),
        "the arguments n_outputs, layers of Unknown are not known; give them: args={'n_outputs'",
    ),
    "wrong_args": (
        lambda n: (n.Wide(2), {"example": X, "args": {"size": 3}}),
        "Wide is not called with ['size']: missing a required argument: 'width'",
    ),
    "no_json": (
        lambda n: (n.Unknown(1, 3), {"example": X, "args": {"n_outputs": 1, "layers": X}}),
        "args['layers']: a Tensor is neither text",
    ),
    "torch_args": (lambda n: (nn.Linear(2, 1), {"example": X, "args": {}}), "a class of your own"),
    "inside": (
        lambda n: (nn.Sequential(n.Wide(2)), {"example": X}), "the module contains Wide, which is not",
    ),
    "layer": (
        lambda n: (nn.TransformerEncoderLayer(2, 1), {"example": X}), "d_model, nhead of nn.Trans",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_register_is_one_sentence(open_run: OwnRun, nets: Any, name: str) -> None:
    mistake, text = MISTAKES[name]
    module, given = mistake(nets)
    with pytest.raises(runback.ModelError) as caught:
        open_run.register(module, **given)
    assert text in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).startswith("register: ")


def test_a_module_that_is_not_rebuilt_is_refused(open_run: OwnRun, nets: Any) -> None:
    hidden = nets.Hidden()
    hidden.secret = 2.0
    with pytest.raises(runback.RebuildError, match="secret differs and is not in the state_dict"):
        open_run.register(hidden, example=X)
    with pytest.raises(runback.RebuildError, match=r"weights do not fit.*args=\{\.\.\.\}"):
        open_run.register(nets.Wide(3), example=X, args={"width": 2})


def test_registering_changes_nothing_of_the_module(open_run: OwnRun, nets: Any) -> None:
    module = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.5), nn.Linear(2, 1))
    module[0].eval()
    before, drawn = {k: v.clone() for k, v in module.state_dict().items()}, torch.get_rng_state()
    open_run.register(module, example=X, name="none")
    assert [part.training for part in module] == [False, True, True] and module.training
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


def test_several_inputs_are_for_load_model_only(open_run: OwnRun, nets: Any, place: str) -> None:
    pair = nets.Pair()
    given = {"one": torch.ones(1, 2), "two": np.ones((1, 3), dtype="float32")}
    open_run.register(pair, example=given, name="pair")
    client = mlflow.MlflowClient(place)
    wait_until(lambda: len(client.search_model_versions("name = 'pair'")) == 1)
    module = runback.load_model("models:/pair/1")
    tensors = {"one": given["one"], "two": torch.ones(1, 3)}
    assert torch.equal(module(**tensors)["sum"], pair(**tensors)["sum"])
    with pytest.raises(runback.DataError, match="the model takes several inputs"):
        runback.predict("models:/pair/1", FRAME)


def test_before_the_loop_nothing_is_registered(place: str) -> None:
    run = OwnRun(None)  # type: ignore[arg-type]
    with pytest.raises(runback.UsageError, match="use it inside its with block"):
        run.register(nn.Linear(2, 1), example=X)


# Elsewhere


def test_code_of_ones_own_needs_consent_elsewhere(
    registered: Registered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with pytest.raises(runback.TrustError, match=r"own_nets.py; SHA-256.*--trust true"):
        runback.load_model(registered.run_id)
    assert runback.load_model("models:/image/1")  # of torch.nn only
    assert runback.load_model(registered.run_id, trust=True)


def test_pyfunc_needs_no_runback(registered: Registered, clean_env: CleanEnvironment) -> None:
    clean_env.require_no_runback()
    FRAME.to_csv("given.csv", index=False)
    code = (
        "import mlflow, pandas; model = mlflow.pyfunc.load_model('models:/wide/1'); "
        "model.predict(pandas.read_csv('given.csv')).to_csv('served.csv', index=False)"
    )
    done = clean_env.run("-c", code, cwd=Path.cwd(), env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    served = pd.read_csv("served.csv").astype("float32")
    expected = runback.predict(registered.run_id, FRAME).reset_index(drop=True)
    assert served.equals(expected)


def test_a_killed_registration_is_delivered_once(workspace: Workspace) -> None:
    killed, again = (program(workspace, "own_register.py") for _ in range(2))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert again.returncode == 0, again.stderr
    (run,) = runs_of(workspace)
    (version,) = workspace.client.search_model_versions("name = 'nets'")
    assert version.run_id == run.info.run_id and run.info.status == "FINISHED"
    assert len(workspace.client.search_logged_models(["0"])) == 1
    module = runback.load_model(run.info.run_id)
    assert module(torch.ones(1, 3)).tolist() == json.loads(again.stdout)
