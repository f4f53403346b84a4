"""The command line: one table of commands; parses, calls, prints.

Imports neither torch nor mlflow before a command runs, and pydantic only to read a value.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import runback
from runback.config import (
    FIELDS,
    MUTABLE_ON_RESUME,
    TrainConfig,
    choices,
    decode,
    parse,
    render,
    unknown_option,
)
from runback.errors import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_UNDELIVERED,
    ConfigError,
    RunbackError,
    StorageError,
    UsageError,
)
from runback.tracking import QUIET

RUN_HELP = (
    "run ID, unique prefix of one, latest, runs:/ID, models:/NAME/VERSION or models:/NAME@ALIAS"
)


@dataclass(frozen=True)
class Argument:
    """One argument of a command, which is also a parameter of its MLproject entry point.

    Args:
        name: of the option and of the parameter; the parameter of RUN is `run_id`.
        help: one line; empty: the argument is accepted, and not shown.
        kind: a switch takes no value, or true or false, as `mlflow run` always gives a value.
        required: the command line refuses the absence of the argument.
        default: None where the entry point has none either.
        if_given: the default is not passed to the command.
        in_project: `mlflow run` passes the argument on.
    """

    name: str
    help: str
    kind: Literal["positional", "option", "switch"] = "option"
    metavar: str | None = None
    required: bool = False
    default: str | None = ""
    if_given: bool = False
    in_project: bool = True

    @property
    def flag(self) -> str:
        """The option as users write it, such as `--batch-size`."""
        return f"--{self.name.replace('_', '-')}"


@dataclass(frozen=True)
class Command:
    """One command: what `--help` says of it, its arguments, and what it does.

    Args:
        function: prints the result and returns the exit code.
    """

    name: str
    help: str
    arguments: tuple[Argument, ...]
    function: Callable[[argparse.Namespace], int]


def _train(options: argparse.Namespace) -> int:
    with _telling_run(trains=True):
        config = read_config(options.config, _given(options))
    import runback.run.signals  # noqa: F401 - first, as it remembers who started us
    from runback.tracking.client import CourierClient

    with CourierClient() as desk:  # the courier imports mlflow while torch is imported here
        from runback.commands.train import run_training

        outcome = run_training(config, desk)
    return _finished(outcome)


def _resume(options: argparse.Namespace) -> int:
    from runback.tracking.client import CourierClient

    # `mlflow run -e resume` passes what nobody gave as empty text
    given = {name: value for name, value in _given(options).items() if value != ""}
    with CourierClient() as desk:
        from runback.commands.train import run_resume

        outcome = run_resume(options.run, given, desk)
    return _finished(outcome)


def _evaluate(options: argparse.Namespace) -> int:
    _print_json(runback.evaluate(options.run, options.data or None))
    return EXIT_DONE


def _predict(options: argparse.Namespace) -> int:
    from runback.commands.predict import predict_file

    keep = parse("features", options.keep)
    with _writing_out():
        rows = predict_file(options.run, options.data, options.output, keep)
    print(f"runback: predicted {rows} rows", file=sys.stderr)  # noqa: T201
    return EXIT_DONE


def _promote(options: argparse.Namespace) -> int:
    force, back = _truth("force", options.force), _truth("rollback", options.rollback)
    if back:
        found = runback.rollback(options.run, options.alias)
    else:
        found = runback.promote(
            options.run, options.alias, options.metric, options.data or None, force
        )
    _print_json(found)
    return EXIT_DONE


def _truth(name: str, text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ConfigError(f"option {name}: {text!r} is neither true nor false")
    return text.lower() == "true"


def _export(options: argparse.Namespace) -> int:
    _print_json(runback.export(options.run, options.format, options.output))
    return EXIT_DONE


def _reproduce(options: argparse.Namespace) -> int:
    found = runback.reproduce(options.run)
    _print_json(found)
    return EXIT_DONE if found["equal"] else EXIT_FAILED


def _sync(options: argparse.Namespace) -> int:
    counts = runback.sync(options.run)
    _print_json(counts)
    return EXIT_DONE if counts["waiting"] == 0 else EXIT_UNDELIVERED


def _train_help(name: str) -> str:
    allowed = f" [{', '.join(choices(name))}]" if choices(name) else ""
    return f"{FIELDS[name].metadata['help']}{allowed} (default: {_default(name) or 'empty'})"


def _resume_help(name: str) -> str:
    """Empty for the options that a resume refuses."""
    text = f"{FIELDS[name].metadata['help']} (default: as the run has it)"
    return text if name in MUTABLE_ON_RESUME else ""


def _default(name: str) -> str:
    factory = FIELDS[name].default_factory
    return render(factory() if callable(factory) else FIELDS[name].default)


def _switch(name: str, text: str) -> Argument:
    return Argument(name, text, "switch", "true|false", default="false")


RUN = Argument("run", RUN_HELP, "positional", required=True, default=None)
CONFIG = Argument(
    "config", "options from a TOML file", metavar="FILE.toml", default=None, in_project=False
)
TRAIN_OPTIONS = tuple(
    Argument(name, _train_help(name), default=_default(name), if_given=True) for name in FIELDS
)
# All of them, so that those that a resume cannot change are refused by name.
RESUME_OPTIONS = tuple(
    Argument(name, _resume_help(name), if_given=True, in_project=name == "epochs")
    for name in FIELDS
)

COMMANDS = (
    Command("train", "train a new run; prints the run ID", (CONFIG, *TRAIN_OPTIONS), _train),
    Command(
        "resume",
        "continue a run in place; prints the run ID",
        (dataclasses.replace(RUN, default=""), *RESUME_OPTIONS),
        _resume,
    ),
    Command(
        "evaluate",
        "score a run on its test rows; prints JSON",
        (RUN, Argument("data", "score all rows of this table instead", metavar="FILE")),
        _evaluate,
    ),
    Command(
        "predict",
        "predict the rows of a table; prints CSV",
        (
            RUN,
            Argument(
                "data", "a .csv or .parquet table", metavar="FILE", required=True, default=None
            ),
            Argument(
                "output", "write here, .csv or .parquet, instead of CSV on stdout", metavar="FILE"
            ),
            Argument("keep", "columns to repeat in front, comma-separated", metavar="COLUMNS"),
        ),
        _predict,
    ),
    Command(
        "promote",
        "give RUN's version an alias if it is better; prints JSON",
        (
            RUN,
            Argument("alias", "the alias (default: champion)", default="champion"),
            Argument("metric", "cost, rmse, mae or r2 (default: rmse)", default="rmse"),
            Argument(
                "data", "score both on this table instead of the run's test rows", metavar="FILE"
            ),
            _switch("force", "move the alias whatever the figures say"),
            _switch("rollback", "give the alias back to whom it was last taken from"),
        ),
        _promote,
    ),
    Command(
        "export",
        "write RUN's model to a file; prints JSON",
        (
            RUN,
            Argument("format", "state_dict, torch, pt2 or onnx", required=True, default=None),
            Argument("output", "a file to be made", metavar="FILE", required=True, default=None),
        ),
        _export,
    ),
    Command(
        "reproduce",
        "train RUN again and compare point by point; prints JSON",
        (RUN,),
        _reproduce,
    ),
    Command(
        "sync",
        "deliver what is still in the journal; prints counts",
        (Argument("run", "a run ID; all runs otherwise", "positional"),),
        _sync,
    ),
)


class _Parser(argparse.ArgumentParser):
    """argparse whose mistakes are `UsageError`s: one sentence, exit code 2."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = _Parser(
        prog="runback",
        description="Train a PyTorch module, and get the run back by its ID.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=runback.__version__)
    parsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        added = parsers.add_parser(
            command.name, help=command.help, description=command.help, allow_abbrev=False
        )
        added.set_defaults(function=command.function)
        for argument in command.arguments:
            _add_argument(added, argument)
    return parser


def _add_argument(parser: argparse.ArgumentParser, argument: Argument) -> None:
    """Values stay text here: TrainConfig or the command itself reads them."""
    shared: dict[str, Any] = {
        "default": argparse.SUPPRESS if argument.if_given else argument.default,
        "help": argument.help.replace("%", "%%") or argparse.SUPPRESS,
        "metavar": argument.metavar or argument.name.upper(),
    }
    if argument.kind == "positional":
        parser.add_argument(argument.name, nargs=None if argument.required else "?", **shared)
        return
    if argument.kind == "switch":
        shared |= {"nargs": "?", "const": "true"}
    names = dict.fromkeys((argument.flag, f"--{argument.name}"))
    parser.add_argument(*names, dest=argument.name, required=argument.required, **shared)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    _open_standard_streams()
    os.environ.update({**QUIET, **os.environ})
    try:
        return _run(list(sys.argv[1:] if argv is None else argv))
    except RunbackError as error:
        print(f"runback: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has gone
        _drop_output()
        return EXIT_FAILED


def _open_standard_streams() -> None:
    """Nothing at all where a stream is closed: the next file opened would take its number, and
    receive what is meant for a terminal.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            handle = os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
            os.set_inheritable(handle, True)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def _drop_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _run(argv: list[str]) -> int:
    with _telling_run(trains=argv[:1] == ["train"]):
        options, extra = build_parser().parse_known_args(argv)
        if extra:
            raise ConfigError(_unknown(extra[0]))
    function: Callable[[argparse.Namespace], int] = options.function
    return function(options)


@contextmanager
def _telling_run(trains: bool) -> Iterator[None]:
    """Fails the run that was made for a training whose arguments are refused."""
    try:
        yield
    except UsageError as error:
        if trains:
            from runback.tracking.client import fail_launch

            fail_launch(str(error))
        raise


def read_config(file: str | None, given: dict[str, Any]) -> TrainConfig:
    """Default < file < command line.

    Raises:
        ConfigError: an unknown option or a value that does not fit, or a file that cannot count
            because every option is on the command line, as it is under `mlflow run`.
    """
    if file is None:
        return TrainConfig.from_mapping(given)
    if len(given) == len(FIELDS):
        raise ConfigError(
            "option config: every option is given on the command line already (mlflow run does so), "
            "and the file could change nothing; give the options with -P"
        )
    values = _read_toml(file)
    TrainConfig.from_mapping(values, where=file)  # the file's own mistakes are told as such
    return TrainConfig.from_mapping({**values, **given})


def _read_toml(file: str) -> dict[str, Any]:
    import tomllib
    from pathlib import Path  # here, as --help should answer at once

    try:
        values: dict[str, Any] = decode(tomllib.loads, Path(file).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: not TOML: it is not UTF-8 text") from None
    except ValueError as error:  # also a number with thousands of digits
        raise ConfigError(f"{file}: not TOML: {error}") from None
    return values


def _given(options: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name, value in vars(options).items() if name in FIELDS}


def _finished(outcome: Any) -> int:
    _print(outcome.run_id)
    if outcome.delivered:
        return EXIT_DONE
    print(  # noqa: T201
        f"runback: the training is done, but not all of it has reached the tracking server; "
        f"deliver the rest with: runback sync {outcome.run_id}",
        file=sys.stderr,
    )
    return EXIT_UNDELIVERED


def _unknown(argument: str) -> str:
    if not argument.startswith("-"):
        return f"{argument!r} is one argument too many; see runback --help"
    return unknown_option(argument.lstrip("-").partition("=")[0].replace("-", "_"))


def _print_json(result: Any) -> None:
    """Prints a dict, or the dict that `as_json` returns, as strict JSON: a number that is not
    finite becomes null.
    """
    value = result.as_json() if hasattr(result, "as_json") else result
    plain = json.loads(json.dumps(value), parse_constant=lambda _: None)
    _print(json.dumps(plain, sort_keys=True))


def _print(text: str) -> None:
    with _writing_out():
        print(text)  # noqa: T201


@contextmanager
def _writing_out() -> Iterator[None]:
    """Writes standard output to its end; one sentence where that is a file on a full disk."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _drop_output()
        raise StorageError(f"standard output cannot be written: {error.strerror}") from error
