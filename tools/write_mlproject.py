"""Writes MLproject from the table of commands (make mlproject)."""

from __future__ import annotations

import json
from pathlib import Path

from runback.cli import COMMANDS, Argument, Command

RUN_PARAMETER = "run_id"
POSITIONAL = ("positional", "several")
FILE = Path(__file__).parents[1] / "MLproject"
HEADER = """\
name: runback

# Written by make mlproject from the commands' table in src/runback/cli.py.
# Every option of a command is a parameter of its entry point: mlflow run . -P lr=0.01. MLflow adds
# parameters that are not declared to the command, as --lr 0.01. Only RUN is declared here: of a
# declared parameter MLflow would pass and log the default, too, as if it had been chosen.
#
# Commands start with exec, so that the training process is the child of `mlflow run` itself and
# notices when that is killed; and with src/ on the path, so that they run this checkout's code.

python_env: python_env.yaml

entry_points:
"""


def mlproject() -> str:
    """The text of the file."""
    return HEADER + "\n".join(_entry_point(command) for command in COMMANDS)


def _entry_point(command: Command) -> str:
    name = "main" if command.name == "train" else command.name
    run = [argument for argument in command.arguments if argument.kind in POSITIONAL]
    lines = [
        f"  {name}:",
        *("    parameters:" for _ in run),
        *(f"      {RUN_PARAMETER}: {_declaration(argument)}" for argument in run),
        "    command: >-",
        f'      PYTHONPATH="src:$PYTHONPATH" exec python -m runback {command.name}',
        *(f"      {{{RUN_PARAMETER}}}" for _ in run),
    ]
    return "".join(f"{line}\n" for line in lines)


def _declaration(argument: Argument) -> str:
    if argument.default is None:
        return "{type: string}"
    return f"{{type: string, default: {json.dumps(argument.default)}}}"


if __name__ == "__main__":
    FILE.write_text(mlproject(), encoding="utf-8")
