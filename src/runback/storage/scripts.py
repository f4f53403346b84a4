"""How the scripts of own loops were started on this machine, to start them again.

Each run has one file, named by its ID, in the user's state folder: neither a store nor RUNBACK_HOME
says which program is started.
"""

from __future__ import annotations

import builtins
import dataclasses
import json
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runback.console.progress import say
from runback.decoding import decode
from runback.errors import CheckpointError
from runback.processes import FOLDER
from runback.storage.atomic import sha256_of, write_bytes
from runback.storage.paths import run_dir, state_folder


@dataclass(frozen=True)
class ScriptStart:
    """How a program was started.

    Attributes:
        script: the absolute path of its file; empty for a notebook or an interactive session.
        sha256: of the file.
        arguments: of the interpreter: its options, the script, and the script's arguments.
        folder: the working directory.
        environment: the variables that the program has named, with their values.
    """

    script: str = ""
    sha256: str = ""
    arguments: tuple[str, ...] = ()
    folder: str = ""
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def has_changed(self) -> bool:
        """Whether the file has another content now; it exists."""
        return sha256_of(Path(self.script)) != self.sha256


def this_start(names: Iterable[str] = ()) -> ScriptStart:
    """How this program was started, with the values of some environment variables."""
    script = _script()
    if script is None:
        return ScriptStart()
    return ScriptStart(
        script=str(script),
        sha256=sha256_of(script),
        arguments=tuple(sys.orig_argv[1:]),
        folder=FOLDER,
        environment={name: os.environ[name] for name in names if name in os.environ},
    )


def remember_start(run_id: str, start: ScriptStart) -> None:
    """Records how the script of a run was started; a failure is a warning."""
    file = _file(run_id)
    try:
        if file is None:
            raise OSError("there is no home directory")
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        text = json.dumps(dataclasses.asdict(start), indent=2, sort_keys=True) + "\n"
        write_bytes(file, text.encode())
    except (OSError, CheckpointError) as error:
        say(f"warning: runback resume will not start this script again: {error}")


def start_of(run_id: str) -> ScriptStart | None:
    """How the script of a run was started on this machine; None if that is not known.

    Raises:
        UsageError: not a run ID.
    """
    file = _file(run_id)
    try:
        if file is None:
            return None
        stored: Any = decode(json.loads, file.read_text(encoding="utf-8"))
        stored["arguments"] = tuple(map(str, stored["arguments"]))
        stored["environment"] = dict(stored["environment"])
        return ScriptStart(**stored)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _script() -> Path | None:
    """The file of this program; None if it has none that can be started again."""
    file = getattr(sys.modules["__main__"], "__file__", None)
    is_interactive = (
        hasattr(sys, "ps1") or hasattr(builtins, "__IPYTHON__") or sys.flags.interactive
    )
    if is_interactive or not file:
        return None
    script = Path(FOLDER, file)
    return script if script.is_file() else None


def _file(run_id: str) -> Path | None:
    folder = state_folder()
    return None if folder is None else folder / "scripts" / f"{run_dir(run_id).run_id}.json"
