"""The command line, TrainConfig and MLproject have the same options and defaults."""

from __future__ import annotations

import argparse
import runpy
import shlex
from typing import Any

import pytest
import yaml
from mlflow.projects._project_spec import EntryPoint

from conftest import ROOT
from runback import cli
from runback.commands.options import TrainOptions
from runback.config import FIELDS, OPTION_NAMES, TrainConfig, choices, render

ENTRY_POINTS: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "MLproject").read_text())[
    "entry_points"
]
MAIN = ENTRY_POINTS["main"]
PARSER = cli.build_parser()


def commands() -> dict[str, argparse.ArgumentParser]:
    (action,) = (a for a in PARSER._actions if isinstance(a, argparse._SubParsersAction))
    return dict(action.choices)


def arguments(command: str) -> list[argparse.Action]:
    return [a for a in commands()[command]._actions if a.dest != "help"]


def command_of(entry: str) -> str:
    """The name of the command that an entry point runs."""
    return "train" if entry == "main" else entry


def test_the_command_line_has_exactly_the_options() -> None:
    assert [a.dest for a in arguments("train")] == ["config", "quiet", *OPTION_NAMES]
    for action in arguments("train")[2:]:
        assert action.option_strings[0] == f"--{action.dest.replace('_', '-')}"
        assert len(set(action.option_strings)) == len(action.option_strings)
        assert FIELDS[action.dest].metadata["help"] in str(action.help).replace("%%", "%")


def test_mlproject_is_what_make_mlproject_writes() -> None:
    script = runpy.run_path(str(ROOT / "tools" / "write_mlproject.py"))
    assert script["mlproject"]() == (ROOT / "MLproject").read_text(encoding="utf-8")


def test_every_command_is_an_entry_point() -> None:
    assert {command_of(entry) for entry in ENTRY_POINTS} == set(commands())


@pytest.mark.parametrize("entry", ENTRY_POINTS)
def test_only_the_run_is_a_declared_parameter(entry: str) -> None:
    """Of a declared parameter MLflow logs the default, as if it had been chosen."""
    run = [a for a in arguments(command_of(entry)) if not a.option_strings]
    assert len(ENTRY_POINTS[entry].get("parameters", {})) == len(run)


@pytest.mark.parametrize("entry", ENTRY_POINTS)
def test_every_parameter_reaches_the_option_of_its_name(entry: str) -> None:
    """The command of an entry point, as MLflow makes it, parses to the given values."""
    known = arguments(command_of(entry))
    given = {"run_id" if a.dest == "run" else a.dest: f"<{a.dest}> 'x' & y" for a in known}
    command = EntryPoint(
        entry, ENTRY_POINTS[entry].get("parameters", {}), ENTRY_POINTS[entry]["command"]
    )
    words = shlex.split(command.compute_command(given, None))
    start = ["PYTHONPATH=src:$PYTHONPATH", "exec", "python", "-m", "runback", command_of(entry)]
    assert words[:6] == start
    parsed = vars(PARSER.parse_args(words[5:]))
    for name, value in given.items():
        assert parsed["run" if name == "run_id" else name] == value


@pytest.mark.parametrize("name", OPTION_NAMES)
def test_every_command_line_option_is_read(name: str) -> None:
    other: dict[str, str] = {
        "data": "x.csv", "target": "a,b", "features": "c", "model": "mlp",
        "columns": '{"c": "category"}', "csv": '{"delimiter": ";"}',
        "data_args": '{"train": true}', "loss": "huber",
        "metrics": "m.py:f,m.py:g", "model_args": '{"degree": 3}', "optimizer": "RMSprop",
        "optimizer_args": '{"alpha": 0.5}', "scheduler": "ExponentialLR",
        "scheduler_args": '{"gamma": 0.5}', "split": "7:2:1",
        "device": "cpu", "register": "m", "name": "n", "key": "k",
    }  # fmt: skip
    default = getattr(TrainConfig(), name)
    if name in other:
        text = other[name]
    elif choices(name):
        text = choices(name)[-1]
    else:
        text = render(not default if isinstance(default, bool) else default + 1)
    with_name = ["--scheduler", "step"] if name == "scheduler_args" else []
    for option in (f"--{name}", f"--{name.replace('_', '-')}"):
        options = PARSER.parse_args(["train", *with_name, option, text])
        config = cli.read_config(None, cli._given(options))
        assert render(getattr(config, name)) == text != render(default)


def test_the_keywords_of_train_are_its_options() -> None:
    assert tuple(TrainOptions.__annotations__) == OPTION_NAMES
