"""The description of a run whose loop is not ours, as Markdown: what MLflow's UI shows above it."""

from __future__ import annotations

from pathlib import Path

from runback.console.markdown import code, code_block, paragraphs
from runback.open_run.forking import sentence
from runback.open_run.run import Run
from runback.storage.scripts import ScriptStart
from runback.tracking.record import ForkTags


def post_note(run: Run, start: ScriptStart, loop: str, fork: ForkTags | None = None) -> None:
    """Describes a new run.

    Args:
        run: the live run.
        start: how its program was started.
        loop: whose loop it has, in words.
        fork: of which run it is a fork, and where it began; None if it is none.
    """
    program = code(Path(start.script).name) if start.script else "a notebook"
    commands = [f"runback show {run.id}"]
    if start.script:
        commands.append(f"runback resume {run.id}")
    begin, what = sentence(fork) if fork else "", f"- Program: {program}, with {loop}"
    run.journal.post("note", text=paragraphs(begin, what, code_block(commands)))
