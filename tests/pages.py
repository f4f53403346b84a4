"""The code blocks of the README and of docs/: which are run, and a script that runs them in order.

Blocks of `python`, `sh` and `console` are run. In a console block the lines that begin with "$ " are
commands, the others their output. A block with a caption is a file of that name, which is written.
`{code-block}` with the class `before` is code of another library, and `fragment` a part of a program:
they are only compiled. With the class `not-run` it has commands that need a server, a GPU or the
network. In the README, whose blocks GitHub shows, a comment behind the block marks these.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

from conftest import ROOT

README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
RUN = {"python", "sh", "console"}
SHOWN = {"text", "toml", "json", "diff", "yaml"}
# Directives that are no code blocks.
OTHERS = {"command", "options", "toctree", "include", "eval-rst"}
_FENCE = re.compile(r"^( *)```([^\n`]+)\n(.*?)^\1```$\n?(<!-- not run)?", re.M | re.S)
_OPTION = re.compile(r":([\w-]+): *(.*)\n")


@dataclass(frozen=True)
class Block:
    """One block.

    Attributes:
        kind: the language.
        text: the code.
        mark: "before", "fragment" or "not-run"; empty for a block that is run or shown.
        file: the name under which it is written; empty if it is no file.
    """

    kind: str
    text: str
    mark: str = ""
    file: str = ""

    @property
    def is_run(self) -> bool:
        """Whether the test of its page executes it."""
        return self.kind in RUN and not self.mark and not self.file


def blocks(page: Path) -> list[Block]:
    """The code blocks of a page, in order."""
    found = _FENCE.findall(page.read_text(encoding="utf-8"))
    read = [_block(info.strip(), dedent(text), bool(mark)) for _, info, text, mark in found]
    return [block for block in read if block.kind not in OTHERS]


def _block(info: str, text: str, commented: bool) -> Block:
    directive = re.fullmatch(r"\{([\w-]+)\} *(.*)", info)
    if directive is None:
        return Block(info, text, "not-run" if commented else "")
    if directive[1] != "code-block":
        return Block(directive[1], text)
    options: dict[str, str] = {}
    while match := _OPTION.match(text):
        options[match[1]] = match[2]
        text = text[match.end() :]
    mark, file = options.get("class", ""), options.get("caption", "")
    return Block(directive[2], text.lstrip("\n"), mark, file)


def commands(block: Block) -> str:
    """The shell commands of a sh or console block."""
    if block.kind == "sh":
        return block.text
    continued, found = False, []
    for line in block.text.splitlines():
        if line.startswith("$ ") or continued:
            found.append(line.removeprefix("> " if continued else "$ "))
            continued = line.endswith("\\")
    return "\n".join(found) + "\n"


def as_script(found: Iterable[Block]) -> str:
    """A Python program that runs the blocks in order, in one process.

    Python blocks share their names, and shell blocks their variables, as in a terminal.
    """
    lines = ["from page_shell import shell, write\n"]
    for block in found:
        if block.file:
            lines.append(f"write({block.file!r}, {block.text!r})\n")
        elif block.is_run:
            shell = f"shell({commands(block)!r})\n"
            lines.append(block.text if block.kind == "python" else shell)
    return "\n".join(lines)
