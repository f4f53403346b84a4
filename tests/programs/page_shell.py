"""Runs the shell blocks of a page of the documentation; their variables stay for the next one."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path


def shell(text: str) -> None:
    """Runs commands in bash, the first failing one ends the program; keeps their variables."""
    with tempfile.NamedTemporaryFile() as variables:
        script = f"set -aeuo pipefail\n{text}\nenv -0 > {variables.name}"
        subprocess.run(["bash", "-c", script], check=True)
        items = Path(variables.name).read_text().split("\0")
    os.environ.update(item.split("=", 1) for item in items if "=" in item)


def write(name: str, text: str) -> None:
    """Writes a file of the page."""
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text)
