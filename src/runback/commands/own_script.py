"""`runback resume` of a run with a loop of its own: starts its script again, as it was started."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Collection
from pathlib import Path
from typing import NoReturn

from runback.commands.launch import RUN_VARIABLE
from runback.console.progress import say
from runback.errors import ConfigError, UsageError
from runback.storage.scripts import ScriptStart, start_of
from runback.tracking.record import RunRecord


def script_of(record: RunRecord, given: Collection[str]) -> ScriptStart:
    """How the script of a run was started on this machine.

    Args:
        record: of the run.
        given: names of options, none of which a script takes from this command.

    Raises:
        UsageError: the run was not begun by a script on this machine, or its file is gone.
        ConfigError: an option is given.
    """
    record.require_active()
    run_id = record.run_id
    for name in given:
        raise ConfigError(
            f"option {name}: run {run_id} has a loop of its own; change its script, and resume it "
            "without options"
        )
    start = start_of(run_id)
    if start is None:
        raise UsageError(
            f"run {run_id} has a loop of its own, and how its script is started is known only on the "
            f"machine that ran it; start it yourself, with {RUN_VARIABLE}={run_id}"
        )
    if not start.script:
        raise UsageError(
            f"run {run_id} was begun in a notebook or an interactive session: run its cell again, with "
            f"its key or with runback.run(..., resume={run_id!r})"
        )
    _require_files(run_id, start)
    return start


def start_again(run_id: str, start: ScriptStart) -> NoReturn:
    """Replaces this process by the script, which finds its run in RUNBACK_RUN_ID and continues it."""
    names = ", ".join(start.environment)
    say(
        f"run {run_id}: starting {shlex.join(['python', *start.arguments])} in {start.folder}"
        + (f" with the recorded {names}" if names else "")
    )
    if start.has_changed:
        say(f"warning: {start.script} has changed since; it is started as it is now")
    os.chdir(start.folder)
    environment = {**os.environ, **start.environment, RUN_VARIABLE: run_id}
    sys.stdout.flush(), sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, *start.arguments], environment)  # noqa: S606


def _require_files(run_id: str, start: ScriptStart) -> None:
    for what, path, exists in (
        ("script", start.script, Path(start.script).is_file()),
        ("folder", start.folder, Path(start.folder).is_dir()),
    ):
        if not exists:
            raise UsageError(
                f"run {run_id}: its {what} {path} does not exist; restore it, or start the script from "
                f"its new place with {RUN_VARIABLE}={run_id}"
            )
