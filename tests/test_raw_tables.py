"""Tables with texts, dates and missing cells: prepared from training rows only, trained and served."""

from __future__ import annotations

import dataclasses
import gzip
import json
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import mlflow.pyfunc.scoring_server as scoring_server
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import runback
from conftest import Workspace
from in_process import train_until
from runback.columns.layout import layout_of
from runback.commands.predict import predict_file
from runback.config import TrainConfig
from runback.data.csv_format import CsvFormat
from runback.data.prepare import Prepared, prepare_table
from runback.errors import ConfigError, DataError, RunbackError
from runback.model.expanding import OneHot
from runback.model.spec import build_model
from runback.training.setup import prepare, spec_of

N = 200


def houses() -> pd.DataFrame:
    """A table with all kinds of columns."""
    random = np.random.default_rng(3)
    frame = pd.DataFrame(
        {
            "city, name": random.choice(["Ulm", "Köln", "東京"], N),
            "sold": random.choice(["yes", "no"], N),
            "when": pd.to_datetime("2020-01-01") + pd.to_timedelta(random.integers(0, 900, N), "D"),
            "size": random.normal(100, 20, N).round(1),
            "rooms": random.integers(1, 6, N),
            "flag": random.random(N) < 0.5,
        }
    )
    frame.loc[frame.index % 17 == 0, "size"] = np.nan
    frame.loc[frame.index % 23 == 0, "city, name"] = None
    return frame.assign(price=(frame["rooms"] * 30 + random.normal(0, 3, N)).round(2))


def written(folder: Path, frame: pd.DataFrame, name: str = "houses.csv") -> str:
    file = folder / name
    frame.to_csv(file, index=False) if name.endswith(".csv") else frame.to_parquet(
        file, index=False
    )
    return str(file)


def prepared(data: str, **options: Any) -> Prepared:
    return prepare_table(TrainConfig(data=data, target=("price",), **options), torch.float32)


def refused(data: str, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        prepared(data, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{data}: ")


# Columns are found from the training rows


def test_every_column_is_used_by_its_kind(tmp_path: Path) -> None:
    table = prepared(written(tmp_path, houses())).table
    kinds = [(column.name, column.kind, column.missing) for column in table.encoders]
    assert kinds == [
        ("city, name", "category", True), ("sold", "boolean", False), ("when", "date", False),
        ("size", "number", True), ("rooms", "number", False), ("flag", "boolean", False),
    ]  # fmt: skip
    assert table.features.shape == (N, layout_of(table.encoders).width) == (N, 11)
    assert table.features.isfinite().all()


def test_files_and_orders_of_columns_give_the_same_bits(tmp_path: Path) -> None:
    frame = houses()
    one = prepared(written(tmp_path, frame))
    for name, other in (("b.parquet", frame), ("c.csv", frame.iloc[:, ::-1])):
        order = ("city, name", "sold", "when", "size", "rooms", "flag")
        again = prepared(written(tmp_path, other, name), features=order)
        assert torch.equal(again.table.features, one.table.features)
        assert torch.equal(again.table.targets, one.table.targets)
        own = [dataclasses.replace(c, raw="text") if c.name == "flag" else c
               for c in again.table.encoders]  # type: ignore[type-var]  # fmt: skip
        assert own == list(one.table.encoders)


def wildly_changed(frame: pd.DataFrame, held_out: list[int]) -> pd.DataFrame:
    changed = frame.astype({"city, name": object, "sold": object})
    rows = np.isin(np.arange(len(frame)), held_out)
    changed.loc[rows, "city, name"] = [f"new {index}" for index in range(rows.sum())]
    changed.loc[rows, "sold"] = None
    changed.loc[rows, "when"] = pd.Timestamp("1969-05-04")
    changed.loc[rows, "size"] = 1e9
    changed.loc[rows, "rooms"] = -7
    changed.loc[rows, "price"] = 1e6
    return changed


def weights_after_training(folder: Path, data: str) -> dict[str, torch.Tensor]:
    config = TrainConfig(
        data=data, target=("price",), model="mlp", normalize="standard", optimizer="adam",
        epochs=3, batch_size=16, checkpoint_every=3,
    )  # fmt: skip
    folder.mkdir()
    train_until(folder, config)
    (file,) = (folder / "checkpoints").glob("*000003.pt")
    weights: dict[str, torch.Tensor] = torch.load(file, weights_only=True)["model_state_dict"]
    return weights


def test_held_out_rows_change_neither_encoder_nor_weights(tmp_path: Path) -> None:
    frame, data = houses(), written(tmp_path, houses())
    before = prepared(data)
    held_out = [*before.split.validation.tolist(), *before.split.test.tolist()]
    other = written(tmp_path, wildly_changed(frame, held_out), "other.csv")
    after = prepared(other)
    assert after.table.encoders == before.table.encoders
    one, two = (
        weights_after_training(tmp_path / name, file) for name, file in (("1", data), ("2", other))
    )
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_plain_numbers_are_the_tensor_that_was_read(tmp_path: Path) -> None:
    frame = houses()[["rooms", "price"]].assign(size=np.arange(N))
    table = prepared(written(tmp_path, frame)).table
    assert table.features.tolist() == frame[["rooms", "size"]].to_numpy(np.float32).tolist()


def test_a_missing_number_of_a_test_row_becomes_the_median(tmp_path: Path) -> None:
    frame = houses()[["rooms", "price"]].assign(size=np.arange(float(N)))
    split = prepared(written(tmp_path, frame)).split
    row = int(split.test[0])
    frame.loc[row, "size"] = np.nan
    table = prepared(written(tmp_path, frame)).table
    expected = np.median(frame["size"].to_numpy()[split.train.numpy()])
    assert table.features[row].tolist() == [frame["rooms"][row], expected]


# What is refused or left out


def test_all_unusable_columns_are_named_at_once(tmp_path: Path) -> None:
    frame = houses().assign(id=[f"r{i}" for i in range(N)])
    frame["size"] = frame["size"].astype(str).mask(frame.index == 40, "?")
    message = refused(written(tmp_path, frame[["id", *houses().columns]]))
    assert message == (
        "column 'id' has 160 different texts in 160 training rows, as free text or an identifier "
        "has; column 'size', data row 41: '?' is not a number, as most of its cells are; leave them "
        'out with --columns \'{"id": "ignore", "size": "ignore"}\', or as categories with "category" '
        "instead"
    )
    table = prepared(
        str(tmp_path / "houses.csv"), columns={"id": "category", "size": "ignore"}
    ).table
    assert "size" not in table.columns.features


def test_constant_columns_are_left_out(tmp_path: Path) -> None:
    frame = houses().assign(one=1, text="a", empty=None)
    found = prepared(written(tmp_path, frame[["one", "text", "empty", "rooms", "price"]]))
    assert found.constant == ("one", "text", "empty")
    assert found.table.columns.features == ("rooms",)
    assert refused(written(tmp_path, frame[["one", "text", "price"]])) == (
        "no feature column is left; in the training rows all are constant: one, text"
    )


@pytest.mark.parametrize(
    ("features", "chosen"),
    [
        (("*",), ("a1", "a2", "b", "-c")),
        (("a*",), ("a1", "a2")),
        (("*", "-a*"), ("b", "-c")),
        (("-b",), ("a1", "a2", "-c")),
        (("-c", "b"), ("-c", "b")),
        (("a*", "b", "-a2"), ("a1", "b")),
    ],
)
def test_patterns_choose_the_features(tmp_path: Path, features: Any, chosen: Any) -> None:
    frame = pd.DataFrame({name: range(20) for name in ("a1", "a2", "b", "-c", "price")})
    data = written(tmp_path, frame)
    assert prepared(data, features=features).table.columns.features == chosen
    assert "no column matches 'z*' (option features); the columns" in refused(
        data, features=("z*",)
    )
    assert "no column 'z' (option features)" in refused(data, features=("-z",))


def test_kinds_are_given_by_name_before_pattern(tmp_path: Path) -> None:
    frame = pd.DataFrame({"z1": [1, 2] * 20, "z2": [1, 2] * 20, "price": range(40)})
    data = written(tmp_path, frame)
    table = prepared(data, columns={"z*": "category", "z2": "number"}).table
    assert [column.kind for column in table.encoders] == ["category", "number"]
    assert "no column 'q' (option columns)" in refused(data, columns={"q": "ignore"})
    assert refused(data, columns={"*": "ignore"}).endswith("option columns ignores all")
    assert "'price' is the target, not a feature" in refused(data, columns={"price": "date"})
    with pytest.raises(ConfigError, match="option columns: the kind of 'a' is 'text', not one of"):
        TrainConfig(columns={"a": "text"})


def test_texts_far_down_make_a_column_of_texts(tmp_path: Path) -> None:
    rows = 60_000
    column = pd.Series(["1", "2"] * (rows // 2))
    column[rows // 2 + 5 :] = "three"
    frame = pd.DataFrame({"x": np.arange(rows), "c": column, "price": np.arange(rows)})
    table = prepared(written(tmp_path, frame)).table
    assert [column.kind for column in table.encoders] == ["number", "category"]
    assert table.features[:, 1].unique().tolist() == [1.0, 2.0, 3.0]


# Forms of CSV files


def test_other_forms_of_csv_are_read(tmp_path: Path) -> None:
    text = "größe;ort;price\n1,5;Köln;1\n2,5;?;2\n3,5;Köln;3\n4,5;Ulm;4\n5,5;Ulm;5\n"
    file = tmp_path / "t.csv"
    file.write_bytes(text.encode("latin-1"))
    form = {"delimiter": ";", "decimal": ",", "encoding": "latin-1", "null_values": ["?"]}
    table = prepared(str(file), csv=form, split="1:0:0").table
    assert table.columns.features == ("größe", "ort")
    assert table.features.tolist() == [[1.5, 1], [2.5, 3], [3.5, 1], [4.5, 2], [5.5, 2]]
    assert 'read the file with --csv \'{"delimiter": ";"}\'' in refused(
        str(file), csv={"encoding": "latin-1"}
    )


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_compressed_csv_files_are_read(tmp_path: Path, suffix: str) -> None:
    plain = Path(written(tmp_path, houses()))
    file = tmp_path / f"houses.csv.{suffix}"
    with pa.output_stream(str(file), compression="detect") as out:
        out.write(plain.read_bytes())
    one, two = prepared(str(plain)), prepared(str(file))
    assert torch.equal(one.table.features, two.table.features)
    file.write_bytes(file.read_bytes()[:200])
    assert "cannot be read as a table" in refused(str(file)) or "has a header" in refused(str(file))
    file.write_bytes(gzip.compress(b"a;price\n1;2\n")[:-4])
    assert refused(str(file))


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (
            {"separator": ";"},
            "unknown entry 'separator'; the entries are delimiter, quote, decimal, ",
        ),
        ({"delimiter": ";;"}, "delimiter ';;' is not one ASCII character"),
        ({"delimiter": "\n"}, "delimiter '\\n' is not one ASCII character"),
        ({"decimal": ""}, "decimal '' is not one ASCII character"),
        ({"decimal": ","}, "delimiter, quote and decimal must differ"),
        ({"encoding": "klingon"}, "encoding 'klingon' is not known"),
        ({"encoding": 3}, "encoding 3 is not known"),
        ({"null_values": "?"}, "null_values '?' is not a list of texts"),
    ],
)
def test_an_invalid_csv_option_is_refused(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        CsvFormat.from_option(given)
    assert str(caught.value).startswith(f"option csv: {problem}")


# Any table at all

NAMES = st.lists(
    st.text("ab ,;\"/😀é\n-*", min_size=1, max_size=4).filter(lambda name: name.strip() == name),
    min_size=2, max_size=4, unique=True,
)  # fmt: skip
CELLS = st.sampled_from(["1", "2.5", "-3", "", "NA", "yes", "no", "a", "b", "2026-01-02", "Ω, x"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(NAMES, st.data(), st.integers(1, 30))
def test_any_table_is_encoded_or_refused_in_one_line(
    tmp_path: Path, names: list[str], data: st.DataObject, n_rows: int
) -> None:
    columns = {name: data.draw(st.lists(CELLS, min_size=n_rows, max_size=n_rows)) for name in names}
    frame = pd.DataFrame({**columns, "price": np.arange(n_rows)})
    file = written(tmp_path, frame)
    try:
        found = prepared(file, split="1:0:0")
    except RunbackError as error:
        assert len(str(error).splitlines()) == 1
        return
    assert found.table.features.isfinite().all()
    assert len(found.table) == n_rows


# Modules


def test_one_hot_columns_are_those_of_pandas(tmp_path: Path) -> None:
    frame = houses()
    table = prepared(written(tmp_path, frame)).table
    layout = layout_of(table.encoders)
    found = OneHot(layout)(table.features)
    assert found.shape == (N, layout.one_hot_width)
    texts = frame["city, name"].fillna("\U0010ffff")
    expected = pd.get_dummies(texts).to_numpy(np.float32)
    assert found[:, -expected.shape[1] :].tolist() == expected.tolist()
    assert torch.equal(found[:, : len(layout.numbers)], table.features[:, 1:])


@pytest.mark.parametrize("model", ["linear", "polynomial", "mlp"])
def test_built_in_modules_take_categories(tmp_path: Path, model: str) -> None:
    data = written(tmp_path, houses())
    config = TrainConfig(data=data, target=("price",), model=model, normalize="standard")
    setup = prepare(config)
    output = setup.state.model(setup.table.features)
    assert output.shape == (N, 1) and output.isfinite().all()
    scaled = setup.state.model.module if model == "mlp" else setup.state.model
    scale = scaled.scale  # type: ignore[union-attr]
    assert (scale.offset[0].item(), scale.scale[0].item()) == (0.0, 1.0)  # codes stay codes
    assert scale.scale[1].item() != 1.0


def test_a_module_may_ask_for_the_columns(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from torch import nn\nclass Net(nn.Module):\n"
        "    def __init__(self, n_features, n_targets, columns, width=2):\n"
        "        super().__init__()\n        self.columns = columns\n"
        "        self.layer = nn.Linear(n_features, n_targets)\n"
        "    def forward(self, x):\n        return self.layer(x)\n"
    )
    table = prepared(written(tmp_path, houses())).table
    config = TrainConfig(model=f"{tmp_path}/own.py:Net", normalize="standard")
    built = build_model(spec_of(config, table.columns, table.encoders))
    inner: Any = built.module.module  # type: ignore[union-attr]
    assert isinstance(inner.layer, nn.Linear) and inner.layer.in_features == 11
    first = inner.columns[0]
    assert (first.name, first.kind, first.position, first.n_categories) == (
        "city, name", "category", 0, 5,
    )  # fmt: skip
    assert first.one_hot == (1, 2, 3, 4)


# From the table to the registry and back


@pytest.mark.filterwarnings("ignore")
def test_a_raw_frame_is_trained_resumed_and_served(workspace: Workspace) -> None:
    frame = houses()
    options: dict[str, Any] = {
        "target": "price", "model": "mlp", "normalize": "standard", "optimizer": "adam",
        "epochs": 4, "checkpoint_every": 2,
    }  # fmt: skip
    run = runback.train(frame, **options).run_id
    expected = runback.predict(run, frame)["price"].to_numpy()
    model = mlflow.pyfunc.load_model(f"runs:/{run}/model")
    schema = model.metadata.get_input_schema()
    plain = json.loads(frame.drop(columns="price").to_json(orient="split", date_format="iso"))
    served = scoring_server.infer_and_parse_data({"dataframe_split": plain}, schema)
    columns = [frame, frame.iloc[:, ::-1], frame.astype({"sold": "category"}), served]
    for one in columns:
        assert np.array_equal(model.predict(one), expected)
    for name in ("in.csv", "in.parquet"):
        predict_file(run, written(workspace.folder, frame, name), "out.parquet")
        assert np.array_equal(pd.read_parquet("out.parquet")["price"].to_numpy(), expected)
    scores = runback.evaluate(run).scores
    (workspace.home(run) / "data" / "frame.parquet").unlink()
    assert runback.evaluate(run).scores == scores
    assert runback.resume(run, epochs=5).delivered
    assert runback.evaluate(run, frame).data == "frame"
    assert runback.reproduce(run).equal
