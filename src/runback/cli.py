"""The command line: parses, calls a job, prints. Imports neither torch nor mlflow before a job runs."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from runback import __version__
from runback.config import FIELDS, MUTABLE_ON_RESUME, TrainConfig, parse, render, unknown_option
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


class _Parser(argparse.ArgumentParser):
    """argparse whose mistakes are `UsageError`s: one sentence, exit code 2."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


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
    handler: Callable[[argparse.Namespace], int] = options.handler
    return handler(options)


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


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = _Parser(
        prog="runback",
        description="Train a PyTorch module, and get the run back by its ID.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_train(commands)
    _add_resume(commands)
    _add_evaluate(commands)
    _add_predict(commands)
    _add_promote(commands)
    _add_export(commands)
    _add_reproduce(commands)
    _add_sync(commands)
    return parser


def _command(commands: Any, name: str, text: str, handler: Callable[..., int]) -> _Parser:
    command: _Parser = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
    command.set_defaults(handler=handler)
    return command


def _add_train(commands: Any) -> None:
    command = _command(commands, "train", "train a new run; prints the run ID", _train)
    command.add_argument("--config", metavar="FILE.toml", help="options from a TOML file")
    for name in FIELDS:
        _add_option(command, name, _option_help(name))


def _add_option(command: argparse.ArgumentParser, name: str, text: str) -> None:
    """One option of TrainConfig; its value is parsed by TrainConfig, not by argparse."""
    command.add_argument(
        *dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name}")),
        dest=name,
        default=argparse.SUPPRESS,
        metavar=name.upper(),
        help=text,
    )


def _option_help(name: str) -> str:
    spec = FIELDS[name]
    default = spec.default_factory() if callable(spec.default_factory) else spec.default
    choices = spec.metadata["choices"]
    shown = f" [{', '.join(choices)}]" if choices else ""
    text = f"{spec.metadata['help']}{shown} (default: {render(default) or 'empty'})"
    return text.replace("%", "%%")


def _add_run(command: argparse.ArgumentParser) -> None:
    command.add_argument("run", metavar="RUN", help=RUN_HELP)


def _add_resume(commands: Any) -> None:
    command = _command(commands, "resume", "continue a run in place; prints the run ID", _resume)
    _add_run(command)
    for name in FIELDS:  # all are known, so that those that cannot change are refused by name
        text = f"{FIELDS[name].metadata['help']} (default: as the run has it)"
        _add_option(command, name, text if name in MUTABLE_ON_RESUME else argparse.SUPPRESS)


def _add_evaluate(commands: Any) -> None:
    command = _command(commands, "evaluate", "score a run on its test rows; prints JSON", _evaluate)
    _add_run(command)
    command.add_argument("--data", metavar="FILE", help="score all rows of this table instead")


def _add_predict(commands: Any) -> None:
    command = _command(commands, "predict", "predict the rows of a table; prints CSV", _predict)
    _add_run(command)
    command.add_argument("--data", metavar="FILE", required=True, help="a .csv or .parquet table")
    command.add_argument(
        "--output",
        metavar="FILE",
        default="",
        help="write here, .csv or .parquet, instead of CSV on stdout",
    )
    command.add_argument(
        "--keep", metavar="COLUMNS", default="", help="columns to repeat in front, comma-separated"
    )


def _add_promote(commands: Any) -> None:
    command = _command(
        commands, "promote", "give RUN's version an alias if it is better; prints JSON", _promote
    )
    _add_run(command)
    command.add_argument("--alias", default="champion", help="the alias (default: champion)")
    command.add_argument(
        "--metric", default="", help="the score that decides (default: the task's primary metric)"
    )
    command.add_argument(
        "--data", metavar="FILE", help="score both on this table instead of the run's test rows"
    )
    _add_flag(command, "--force", "move the alias whatever the figures say")
    _add_flag(command, "--rollback", "give the alias back to whom it was last taken from")


def _add_flag(command: argparse.ArgumentParser, name: str, text: str) -> None:
    """A switch that also takes true or false, as `mlflow run` always gives a value."""
    command.add_argument(
        name, nargs="?", const="true", default="false", metavar="true|false", help=text
    )


def _truth(name: str, text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ConfigError(f"option {name}: {text!r} is neither true nor false")
    return text.lower() == "true"


def _add_export(commands: Any) -> None:
    command = _command(commands, "export", "write RUN's model to a file; prints JSON", _export)
    _add_run(command)
    command.add_argument("--format", required=True, help="state_dict, torch, pt2 or onnx")
    command.add_argument("--output", metavar="FILE", required=True, help="a file to be made")


def _add_reproduce(commands: Any) -> None:
    command = _command(
        commands, "reproduce", "train RUN again and compare point by point; prints JSON", _reproduce
    )
    _add_run(command)


def _add_sync(commands: Any) -> None:
    command = _command(
        commands, "sync", "deliver what is still in the journal; prints counts", _sync
    )
    command.add_argument(
        "run", metavar="RUN", nargs="?", default="", help="a run ID; all runs otherwise"
    )


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
    from runback.commands.evaluate import evaluate

    _print_json(evaluate(options.run, options.data or None).as_json())
    return EXIT_DONE


def _predict(options: argparse.Namespace) -> int:
    from runback.commands.predict import predict_file

    keep = parse("features", options.keep)
    with _writing_out():
        rows = predict_file(options.run, options.data, options.output, keep)
    print(f"runback: predicted {rows} rows", file=sys.stderr)  # noqa: T201
    return EXIT_DONE


def _promote(options: argparse.Namespace) -> int:
    from runback.commands.promote import promote, rollback

    force, back = _truth("force", options.force), _truth("rollback", options.rollback)
    if back:
        _print_json(rollback(options.run, options.alias).as_json())
        return EXIT_DONE
    data = options.data or None
    _print_json(promote(options.run, options.alias, options.metric, data, force).as_json())
    return EXIT_DONE


def _export(options: argparse.Namespace) -> int:
    from runback.commands.export import export

    _print_json(export(options.run, options.format, options.output).as_json())
    return EXIT_DONE


def _reproduce(options: argparse.Namespace) -> int:
    from runback.commands.reproduce import reproduce

    found = reproduce(options.run)
    _print_json(found.as_json())
    return EXIT_DONE if found.equal else EXIT_FAILED


def _sync(options: argparse.Namespace) -> int:
    from runback.commands.sync import sync

    counts = sync(options.run)
    _print_json(counts)
    return EXIT_DONE if counts["waiting"] == 0 else EXIT_UNDELIVERED


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
    values = _read_toml(Path(file))
    TrainConfig.from_mapping(values, where=file)  # the file's own mistakes are told as such
    return TrainConfig.from_mapping({**values, **given})


def _read_toml(path: Path) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not TOML: it is not UTF-8 text") from None
    except (ValueError, RecursionError) as error:  # also a number with thousands of digits
        raise ConfigError(f"{path}: not TOML: {error}") from None


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


def _print_json(value: Any) -> None:
    """Strict JSON, for any reader: a number that is not finite becomes null."""
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
