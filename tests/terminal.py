"""A program on a terminal of its own, and what the terminal's user reads."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SECONDS = 120.0
ERASE = "\r\x1b[2K"
_CODES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


@dataclass
class Terminal:
    """`python -m runback` whose standard error is a terminal.

    Attributes:
        process: the program.
        text: everything that it has written, with control codes.
    """

    process: subprocess.Popen[str]
    handle: int
    text: str = ""

    @classmethod
    def start(
        cls, arguments: list[str], folder: Path, env: Mapping[str, str], width: int = 140
    ) -> Terminal:
        """Starts the program on a terminal of so many columns."""
        handle, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
        own = {name: value for name, value in env.items() if name not in ("COLUMNS", "LINES")}
        process = subprocess.Popen(
            [sys.executable, "-m", "runback", *arguments],
            cwd=folder, env={**own, "TERM": "xterm-256color"}, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=other,
        )  # fmt: skip
        os.close(other)
        return cls(process, handle)

    def read_until(self, wanted: str = "") -> None:
        """Reads until a text has been written, or to the program's end."""
        deadline = time.monotonic() + SECONDS
        while not wanted or wanted not in self.text:
            assert time.monotonic() < deadline, self.text[-2000:]
            if not select.select([self.handle], [], [], 0.1)[0]:
                continue
            try:
                block = os.read(self.handle, 65_536)
            except OSError:  # the terminal's other end is closed
                block = b""
            if not block:
                assert not wanted, self.text[-2000:]
                break
            self.text += block.decode()

    def end(self) -> int:
        """Reads to the program's end; returns its exit code."""
        self.read_until()
        self.process.communicate(timeout=SECONDS)
        os.close(self.handle)
        return self.process.returncode

    @property
    def screen(self) -> list[str]:
        """The lines that are left on the screen, without colours."""
        lines = self.text.replace("\r\n", "\n").split("\n")
        return [_CODES.sub("", line.rpartition(ERASE)[2]).strip("\r") for line in lines]

    @property
    def drawings(self) -> list[str]:
        """Every line that was drawn in the place of another one, without colours."""
        parts = re.split(r"\r\x1b\[2K|\r\n", self.text)
        return [text for text in map(lambda part: _CODES.sub("", part), parts) if text]
