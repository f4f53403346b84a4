"""The directives `command` and `options`: tables made of the command line, so that they cannot differ.

`command` has the name of a command as its argument, `options` has none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from runback import cli
from runback.config import FIELDS, choices, render

# Commands that take the options of `train`, which have a page of their own.
TRAINING = ("train", "fork")


def escaped(text: str) -> str:
    """Text without markup, for the cell of a Markdown table."""
    return re.sub(r"([\\`*_{}\[\]<>|])", r"\\\1", text)


def code(text: str) -> str:
    """Text as code for the cell of a Markdown table; nothing for none."""
    return f"`{text}`" if text else ""


def table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    """A Markdown table; empty without rows."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join((f"| {' | '.join(head)} |", "|---" * len(head) + "|", *lines)) if lines else ""


def arguments(command: cli.Command) -> list[cli.Argument]:
    """The arguments that `--help` shows, without the options of `train`."""
    shown = [argument for argument in command.arguments if argument.help]
    trains = command.name in TRAINING
    return [a for a in shown if not (trains and a.name in FIELDS)]


def usage(command: cli.Command) -> str:
    """The command with what it takes, as `--help` has it."""
    words = [f"runback {command.name}"]
    words += [_usage(argument) for argument in arguments(command)]
    if command.name in TRAINING:
        words.append("[--OPTION VALUE ...]")
    return wrapped(words)


def wrapped(words: list[str], width: int = 84) -> str:
    """Words in lines; none is divided."""
    lines = [words[0]]
    for word in words[1:]:
        fits = len(lines[-1]) + 1 + len(word) <= width
        lines[-1:] = [f"{lines[-1]} {word}"] if fits else [lines[-1], f"    {word}"]
    return "\n".join(lines)


def _usage(argument: cli.Argument) -> str:
    name = argument.metavar or argument.name.upper()
    if argument.kind == "several":
        return f"{name} {name} ..."
    text = {"positional": name, "switch": argument.flag}.get(
        argument.kind, f"{argument.flag} {name}"
    )
    return text if argument.required else f"[{text}]"


def argument_rows(command: cli.Command) -> Iterator[tuple[str, ...]]:
    """The arguments of a command with their meaning."""
    for argument in arguments(command):
        positional = argument.kind in ("positional", "several")
        name = argument.name.upper() if positional else argument.flag
        yield code(name), escaped(argument.help)


def option_rows() -> Iterator[tuple[str, ...]]:
    """The options of `train` with their defaults, also those of an mlp."""
    for name, field in FIELDS.items():
        about = field.metadata
        allowed = ", ".join(code(value) for value in choices(name))
        default, mlp = render(about["default"]), about["by_model"].get("mlp")
        yield (
            code(f"--{name.replace('_', '-')}"),
            code(default),
            "" if mlp is None else code(render(mlp)),
            escaped(about["help"]) + (allowed and f". One of {allowed}"),
        )


class CommandReference(SphinxDirective):
    """What `runback COMMAND --help` says."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Returns the usage line and the table of arguments."""
        (command,) = (c for c in cli.COMMANDS if c.name == self.arguments[0])
        found = table(("argument", "meaning"), argument_rows(command))
        return self.parse_text_to_nodes(f"```text\n{usage(command)}\n```\n\n{found}")


class OptionsReference(SphinxDirective):
    """All options of `train`."""

    def run(self) -> list[nodes.Node]:
        """Returns the table."""
        return self.parse_text_to_nodes(
            table(("option", "default", "of an mlp", "meaning"), option_rows())
        )


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the directives."""
    app.add_directive("command", CommandReference)
    app.add_directive("options", OptionsReference)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
