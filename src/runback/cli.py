"""The command line: a table of commands with their arguments and functions.

Imports neither torch nor mlflow before a command runs, and pydantic only to parse a value.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import runback
from runback.config import (
    FIELDS,
    FIXED_IN_FORK,
    MUTABLE_ON_RESUME,
    TrainConfig,
    choices,
    parse,
    parse_all,
    render,
    unknown_option,
)
from runback.console.progress import quietly
from runback.console.streams import (
    ReaderGoneError,
    flush_results,
    open_standard_streams,
    results_apart,
    write_result,
)
from runback.decoding import decode
from runback.errors import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_UNDELIVERED,
    ConfigError,
    RunbackError,
    UsageError,
)
from runback.tracking import QUIET
from runback.tracking.run_forms import require_form

if TYPE_CHECKING:
    from runback.commands.train import TrainResult
    from runback.tracking.record import RunRecord

RUN_HELP = (
    "run ID, unique prefix of one, name of one run, latest, runs:/ID, models:/NAME/VERSION or "
    "models:/NAME@ALIAS"
)


@dataclass(frozen=True)
class Argument:
    """One argument of a command, which is also a parameter of its MLproject entry point.

    Args:
        name: of the option and of the parameter; the parameter of RUN is `run_id`, the only one
            that is declared.
        help: one line; if empty, the argument is accepted but hidden.
        kind: a switch takes no value, or true or false, as `mlflow run` passes a value; several are
            one positional argument or more, whose value is one text.
        required: whether the argument is mandatory.
        default: None if the entry point has no default either.
        if_given: whether to pass the argument to the command only if it is given.
    """

    name: str
    help: str
    kind: Literal["positional", "several", "option", "switch"] = "option"
    metavar: str | None = None
    required: bool = False
    default: str | None = ""
    if_given: bool = False

    @property
    def flag(self) -> str:
        """The option as users write it, such as `--batch-size`."""
        return f"--{self.name.replace('_', '-')}"


@dataclass(frozen=True)
class Command:
    """One command: its help text, its arguments and its function.

    Args:
        function: prints the result and returns the exit code.
    """

    name: str
    help: str
    arguments: tuple[Argument, ...]
    function: Callable[[argparse.Namespace], int]


def _train(options: argparse.Namespace) -> int:
    from runback.commands.early import check_training

    with _failing_launch(trains=True):
        is_quiet = _truth("quiet", options.quiet)
        config = read_config(options.config, _given(options))
        check_training(config)
    from runback.tracking.client import CourierClient

    with CourierClient() as courier:  # imports mlflow while this process imports torch
        from runback.commands.train import train_or_resume

        with quietly(is_quiet):
            result = train_or_resume(config, courier)
    return _finished(result)


def _resume(options: argparse.Namespace) -> int:
    trust, from_scratch = _trusts(options), _truth("from_scratch", options.from_scratch)
    is_quiet = _truth("quiet", options.quiet)
    from runback.commands.early import importing, run_to_resume
    from runback.commands.launch import launch_id
    from runback.tracking.client import CourierClient
    from runback.tracking.messages import FindRun, NestLaunch

    name = run_to_resume(options.run)
    with CourierClient() as courier:
        with importing("runback.commands.resume"):
            record = courier.ask(FindRun(name))  # before torch is imported
        if not record.has_own_loop:
            from runback.commands.resume import run_resume

            with quietly(is_quiet):
                result = run_resume(name, _given(options), courier, from_scratch, trust)
            return _finished(result)
        if launch_id() and launch_id() != record.run_id:
            courier.ask(NestLaunch(launch_id(), record.run_id, "resume"))
    given = [*_given(options), *(["from_scratch"] if from_scratch else [])]
    return _resume_script(record, given)


def _resume_script(record: RunRecord, given: list[str]) -> int:
    """Starts the script of a run with a loop of its own; the exit code is that of the script."""
    from runback.commands.own_script import script_of, start_again

    start = script_of(record, given)
    _print(record.run_id)
    return start_again(record.run_id, start)


def _fork(options: argparse.Namespace) -> int:
    trust, at = _trusts(options), _whole_number("at", options.at) if options.at else None
    is_quiet = _truth("quiet", options.quiet)
    require_form(options.run)
    given = parse_all(_given(options))
    from runback.commands.early import importing
    from runback.tracking.client import CourierClient
    from runback.tracking.messages import FindRun

    with _failing_launch(trains=True), CourierClient() as courier:
        with importing("runback.commands.fork"):
            courier.ask(FindRun(options.run))  # an unknown run is reported before torch is imported
        from runback.commands.fork import run_fork

        with quietly(is_quiet):
            result = run_fork(options.run, at, given, courier, trust)
    return _finished(result)


def _evaluate(options: argparse.Namespace) -> int:
    _check_stored(options.run, options.data)
    data, args = options.data or None, _data_args(options)
    _print_json(runback.evaluate(options.run, data, _trusts(options), data_args=args))
    return EXIT_DONE


def _check_stored(run: str, data: str = "") -> None:
    from runback.commands.early import check_stored  # imported late to keep --help fast

    check_stored(run, data)


def _predict(options: argparse.Namespace) -> int:
    _check_stored(options.run, options.data)
    from runback.commands.predict import predict_file

    keep, trust = parse("features", options.keep), _trusts(options)
    shares = _truth("probabilities", options.probabilities)
    args = _data_args(options)
    rows = predict_file(options.run, options.data, options.output, keep, shares, trust, args)
    flush_results()
    print(f"runback: predicted {rows} rows", file=sys.stderr)  # noqa: T201
    return EXIT_DONE


def _promote(options: argparse.Namespace) -> int:
    force, back = _truth("force", options.force), _truth("rollback", options.rollback)
    _check_stored(options.run, options.data)
    if back:
        _print_json(runback.rollback(options.run, options.alias))
        return EXIT_DONE
    data, trust = options.data or None, _trusts(options)
    clearly = _truth("significant", options.significant)
    what = options.run, options.alias, options.metric, data
    _print_json(runback.promote(*what, force, trust, clearly, options.better))
    return EXIT_DONE


def _data_args(options: argparse.Namespace) -> dict[str, Any] | None:
    args: dict[str, Any] = parse("data_args", options.data_args)
    return args if options.data_args else None


def _trusts(options: argparse.Namespace) -> bool:
    return _truth("trust", options.trust)


def _truth(name: str, text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ConfigError(f"option {name}: {text!r} is not true or false")
    return text.lower() == "true"


def _export(options: argparse.Namespace) -> int:
    from runback.commands.early import check_export

    check_export(options.format, options.output)
    _check_stored(options.run)
    _print_json(runback.export(options.run, options.format, options.output, _trusts(options)))
    return EXIT_DONE


def _reproduce(options: argparse.Namespace) -> int:
    _check_stored(options.run)
    with quietly(_truth("quiet", options.quiet)):
        checkout = _truth("checkout", options.checkout)
        result = runback.reproduce(options.run, _trusts(options), checkout)
    _print_json(result)
    return EXIT_DONE if result.equal else EXIT_FAILED


def _runs(options: argparse.Namespace) -> int:
    as_json = _truth("json", options.json)
    last = _whole_number("last", options.last)
    from runback.commands.runs import as_table

    found = runback.runs(options.experiment, options.sort, last, options.filter)
    if as_json:
        _print_json([run.as_json() for run in found])
    else:
        _print(as_table(found))
    return EXIT_DONE


def _show(options: argparse.Namespace) -> int:
    as_json = _truth("json", options.json)
    require_form(options.run)
    from runback.commands.screen import as_screen

    found = runback.show(options.run)
    if as_json:
        _print_json(found)
    else:
        _print(as_screen(found))
    return EXIT_DONE


def _compare(options: argparse.Namespace) -> int:
    as_json, names = _truth("json", options.json), _names(options.run)
    if len(names) < 2:
        raise UsageError("give two runs or more to compare")
    for name in names:
        require_form(name)
    from runback.commands.early import check_new_file
    from runback.data.files import existing

    output = check_new_file(options.output) if options.output else None
    if options.data:
        existing(options.data)
    from runback.commands.compared_text import as_text

    found = runback.compare(*names, data=options.data or None, trust=_trusts(options))
    if output:
        from runback.commands.compared_html import write_page

        write_page(found, output)
    if as_json:
        _print_json(found)
    else:
        _print(as_text(found))
    return EXIT_DONE


def _names(text: str) -> list[str]:
    """The runs of a command; `mlflow run` passes one text, with commas."""
    names = text.split(_Several.SEPARATOR)
    return names if len(names) > 1 else [name.strip() for name in text.split(",")]


def _ui(options: argparse.Namespace) -> int:
    browse = not _truth("no_browser", options.no_browser)
    if options.run:
        require_form(options.run)
    port = _whole_number("port", options.port)
    from runback.commands.ui import open_browser, serving

    link = runback.ui(options.run, port)
    with contextlib.nullcontext() if link.is_served else serving(port) as process:
        _print(link.url)
        if browse:
            open_browser(link.url)
        if process is not None:
            process.wait()
    return EXIT_DONE


def _whole_number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or len(text) > 6:
        raise UsageError(f"--{name} {text}: not a whole number")
    return int(text)


def _sync(options: argparse.Namespace) -> int:
    result = runback.sync(options.run)
    _print_json(result)
    return EXIT_DONE if result.waiting == 0 else EXIT_UNDELIVERED


def _train_help(name: str) -> str:
    allowed = f" [{', '.join(choices(name))}]" if choices(name) else ""
    others = FIELDS[name].metadata["by_model"]
    special = "".join(f"; {model}: {render(value)}" for model, value in others.items())
    default = f"default: {_default(name) or 'empty'}{special}"
    return f"{FIELDS[name].metadata['help']}{allowed} ({default})"


def _resume_help(name: str) -> str:
    """The help text; empty for the options that a resume may not change."""
    text = f"{FIELDS[name].metadata['help']} (default: as the run has it)"
    return text if name in MUTABLE_ON_RESUME else ""


def _fork_help(name: str) -> str:
    """The help text; empty for the options that a fork may not change."""
    default = "empty" if name in ("name", "key") else "as RUN has it"
    text = f"{FIELDS[name].metadata['help']} (default: {default})"
    return "" if name in FIXED_IN_FORK else text


def _default(name: str) -> str:
    return render(FIELDS[name].metadata["default"])


def _switch(name: str, text: str) -> Argument:
    return Argument(name, text, "switch", "true|false", default="false")


RUN = Argument("run", RUN_HELP, "positional", required=True, default=None)
TRUST = _switch("trust", "run RUN's own code though it was not trained with or trusted here before")
QUIET_SWITCH = _switch("quiet", "print warnings and errors only")
DATA_ARGS = Argument("data_args", "arguments of a dataset in --data, as JSON (default: the run's)")
CONFIG = Argument("config", "options from a TOML file", metavar="FILE.toml", default=None)
TRAIN_OPTIONS = tuple(
    Argument(name, _train_help(name), default=_default(name), if_given=True) for name in FIELDS
)
# All options, so that the error message can name one that a resume or a fork may not change.
FORK_OPTIONS = tuple(Argument(name, _fork_help(name), if_given=True) for name in FIELDS)
RESUME_OPTIONS = tuple(Argument(name, _resume_help(name), if_given=True) for name in FIELDS)

COMMANDS = (
    Command(
        "train",
        "train a new run; prints the run ID",
        (CONFIG, QUIET_SWITCH, *TRAIN_OPTIONS),
        _train,
    ),
    Command(
        "resume",
        "continue a run in place; prints the run ID",
        (
            dataclasses.replace(RUN, default=""),
            *RESUME_OPTIONS,
            QUIET_SWITCH,
            _switch("from_scratch", "train again from epoch 0, without any checkpoint"),
            TRUST,
        ),
        _resume,
    ),
    Command(
        "fork",
        "train a new run from a checkpoint of RUN; prints the run ID",
        (
            RUN,
            Argument(
                "at", "epochs completed at the checkpoint (default: the newest)", metavar="EPOCH"
            ),
            *FORK_OPTIONS,
            QUIET_SWITCH,
            TRUST,
        ),
        _fork,
    ),
    Command(
        "evaluate",
        "score a run on its test rows; prints JSON",
        (
            RUN,
            Argument("data", "score all rows of this table instead", metavar="FILE"),
            DATA_ARGS,
            TRUST,
        ),
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
            Argument("keep", "columns to copy to the output, comma-separated", metavar="COLUMNS"),
            _switch("probabilities", "add a column TARGET=CLASS for each class"),
            DATA_ARGS,
            TRUST,
        ),
        _predict,
    ),
    Command(
        "promote",
        "give RUN's version an alias if it is better; prints JSON",
        (
            RUN,
            Argument("alias", "the alias (default: champion)", default="champion"),
            Argument("metric", "the score that decides (default: the task's primary metric)"),
            Argument("better", "lower or higher: the direction of a metric of an own loop"),
            Argument(
                "data", "score both on this table instead of the run's test rows", metavar="FILE"
            ),
            _switch("significant", "move it only if the difference is more than the rows' noise"),
            _switch("force", "move the alias regardless of the scores"),
            _switch("rollback", "undo the last promotion to the alias"),
            TRUST,
        ),
        _promote,
    ),
    Command(
        "export",
        "write RUN's model to a file; prints JSON",
        (
            RUN,
            Argument("format", "state_dict, torch, pt2 or onnx", required=True, default=None),
            Argument("output", "the new file", metavar="FILE", required=True, default=None),
            TRUST,
        ),
        _export,
    ),
    Command(
        "reproduce",
        "train RUN again and compare point by point; prints JSON",
        (
            RUN,
            _switch("checkout", "train in a git worktree of the recorded commit and changes"),
            QUIET_SWITCH,
            TRUST,
        ),
        _reproduce,
    ),
    Command(
        "runs",
        "list the newest runs; prints a table",
        (
            Argument("experiment", "name or ID of one experiment (default: all)", metavar="NAME"),
            Argument("sort", "a metric, ascending; -METRIC: descending (default: newest first)"),
            Argument("last", "the largest number of runs (default: 20)", default="20"),
            Argument("filter", "of MLflow's search, such as \"params.model = 'mlp'\""),
            _switch("json", "print JSON"),
        ),
        _runs,
    ),
    Command(
        "show",
        "show one run; prints a screen of text",
        (RUN, _switch("json", "print JSON")),
        _show,
    ),
    Command(
        "compare",
        "compare runs, and rank their models; prints a table",
        (
            dataclasses.replace(RUN, kind="several", help=f"two or more, each a {RUN_HELP}"),
            Argument("data", "rank the models on all rows of this table", metavar="FILE"),
            Argument("output", "also write a page, one HTML file", metavar="FILE.html"),
            _switch("json", "print JSON"),
            TRUST,
        ),
        _compare,
    ),
    Command(
        "ui",
        "open MLflow's UI on our view of the runs; prints the link",
        (
            dataclasses.replace(RUN, default="", required=False),
            Argument("port", "of the UI of a local store (default: 5000)", default="5000"),
            _switch("no_browser", "only print the link"),
        ),
        _ui,
    ),
    Command(
        "sync",
        "deliver the undelivered entries of local journals; prints counts",
        (Argument("run", "a run ID (default: all runs)", "positional"),),
        _sync,
    ),
)


class _Several(argparse.Action):
    """Stores several values as one text: the values of all arguments are texts."""

    SEPARATOR = "\n"

    def __call__(
        self,
        _parser: argparse.ArgumentParser,
        options: argparse.Namespace,
        values: Any,
        _: Any = None,
    ) -> None:
        setattr(options, self.dest, self.SEPARATOR.join(values))


class _Parser(argparse.ArgumentParser):
    """An argument parser that raises `UsageError` instead of exiting."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = _Parser(
        prog="runback",
        description="Train PyTorch modules, and resume or load each run by its ID.",
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
    """Adds an argument; its value stays text, which TrainConfig or the command parses."""
    shared: dict[str, Any] = {
        "default": argparse.SUPPRESS if argument.if_given else argument.default,
        "help": argument.help.replace("%", "%%") or argparse.SUPPRESS,
        "metavar": argument.metavar or argument.name.upper(),
    }
    if argument.kind == "several":
        parser.add_argument(argument.name, nargs="+", action=_Several, **shared)
        return
    if argument.kind == "positional":
        parser.add_argument(argument.name, nargs=None if argument.required else "?", **shared)
        return
    if argument.kind == "switch":
        shared |= {"nargs": "?", "const": "true"}
    names = dict.fromkeys((argument.flag, f"--{argument.name}"))
    parser.add_argument(*names, dest=argument.name, required=argument.required, **shared)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    open_standard_streams()
    os.environ.update({**QUIET, **os.environ})
    try:
        return _run(list(sys.argv[1:] if argv is None else argv))
    except RunbackError as error:
        print(f"runback: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except SystemExit as error:  # from user code: it must not look like a success
        print(f"runback: user code ended the program: SystemExit: {error}", file=sys.stderr)  # noqa: T201
        return EXIT_FAILED
    except ReaderGoneError:  # of standard output, such as head
        return EXIT_FAILED


def _run(argv: list[str]) -> int:
    try:
        with _failing_launch(trains=argv[:1] in (["train"], ["fork"])):
            options, extra = build_parser().parse_known_args(argv)
            if extra:
                raise ConfigError(_unknown(extra[0]))
    except SystemExit:  # --help or --version was printed
        flush_results()
        return EXIT_DONE
    function: Callable[[argparse.Namespace], int] = options.function
    with results_apart():
        _mark_launch(argv[0], getattr(options, "run", ""))
        return function(options)


def _mark_launch(command: str, run: str) -> None:
    """Describes the run of `mlflow run -e COMMAND`, whose RUN may be several."""
    if os.environ.get("MLFLOW_RUN_ID"):
        from runback.commands.launch import mark_launch

        mark_launch(command, run if len(_names(run)) == 1 else "")


@contextmanager
def _failing_launch(trains: bool) -> Iterator[None]:
    """On a usage error of a training, sets the run in MLFLOW_RUN_ID to FAILED."""
    try:
        yield
    except UsageError as error:
        if trains:
            from runback.tracking.client import fail_launch

            fail_launch(str(error))
        raise


def read_config(file: str | None, given: dict[str, Any]) -> TrainConfig:
    """The configuration; precedence: defaults < file < command line.

    Raises:
        ConfigError: an unknown option or an invalid value.
    """
    if file is None:
        return TrainConfig.from_mapping(given)
    values = parse_all(_read_toml(file), where=file)
    TrainConfig.from_mapping(values, where=file)  # errors in the file name it
    return TrainConfig(**{**values, **parse_all(given)})


def _read_toml(file: str) -> dict[str, Any]:
    import tomllib
    from pathlib import Path  # imported late to keep --help fast

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


def _finished(result: TrainResult) -> int:
    """Prints the run ID; the courier has said what is undelivered, and how to deliver it."""
    _print(result.run_id)
    return EXIT_DONE if result.delivered else EXIT_UNDELIVERED


def _unknown(argument: str) -> str:
    if not argument.startswith("-"):
        return f"unexpected argument {argument!r}; see runback --help"
    return unknown_option(argument.lstrip("-").partition("=")[0].replace("-", "_"))


def _print_json(result: Any) -> None:
    """Prints a dict, or the result of `as_json`, as strict JSON; non-finite numbers become null."""
    value = result.as_json() if hasattr(result, "as_json") else result
    plain = json.loads(json.dumps(value), parse_constant=lambda _: None)
    _print(json.dumps(plain, sort_keys=True))


def _print(text: str) -> None:
    write_result(f"{text}\n")
    flush_results()
