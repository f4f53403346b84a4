"""Writes MLproject from the table of commands (make mlproject)."""

from __future__ import annotations

import json
from pathlib import Path

from runback.cli import COMMANDS, Argument, Command

FILE = Path(__file__).parents[1] / "MLproject"
HEADER = """\
name: runback

# Written by make mlproject from the commands' table in src/runback/cli.py.
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
    arguments = [argument for argument in command.arguments if argument.in_project]
    lines = [
        f"  {name}:",
        "    parameters:",
        *(f"      {_parameter(a)}: {_declaration(a)}" for a in arguments),
        "    command: >-",
        f'      PYTHONPATH="src:$PYTHONPATH" exec python -m runback {command.name}',
        *(f"      {_passed(a)}" for a in arguments),
    ]
    return "".join(f"{line}\n" for line in lines)


def _parameter(argument: Argument) -> str:
    return "run_id" if argument.name == "run" else argument.name


def _declaration(argument: Argument) -> str:
    """Text always: MLflow refuses "1e-4" for a float, and runback checks the values itself."""
    if argument.default is None:
        return "{type: string}"
    return f"{{type: string, default: {json.dumps(argument.default)}}}"


def _passed(argument: Argument) -> str:
    value = f"{{{_parameter(argument)}}}"
    return value if argument.kind == "positional" else f"{argument.flag} {value}"


if __name__ == "__main__":
    FILE.write_text(mlproject(), encoding="utf-8")
