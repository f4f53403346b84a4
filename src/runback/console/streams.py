"""The standard streams of the program: results on standard output, everything else on standard error.

The command line uses this module; the functions of `runback` leave the streams of their caller alone.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from runback.errors import StorageError


class ReaderGoneError(Exception):
    """The reader of standard output has exited."""


_results: TextIO | None = None  # inside `results_apart`


def open_standard_streams() -> None:
    """Opens closed standard streams on the null device: otherwise the next opened file would get
    the stream's number, and its output.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            handle = os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
            os.set_inheritable(handle, True)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def ignore_errors_of_standard_error() -> None:
    """Standard error ignores failed writes from here on: no message is worth a training.

    Its reader may exit at any time (`2>&1 | tee`, a closed terminal), and messages come from
    libraries, from user code and from Python itself.
    """
    old = sys.stderr
    raw = _Lossy(old.fileno(), "w", closefd=False)
    sys.stderr = sys.__stderr__ = io.TextIOWrapper(  # type: ignore[misc]
        io.BufferedWriter(raw), old.encoding, "backslashreplace", line_buffering=True
    )


class _Lossy(io.FileIO):
    """A file that reports failed writes as done."""

    def write(self, data: io.Buffer) -> int:  # type: ignore[name-defined]
        with contextlib.suppress(OSError):
            written = super().write(data)
            if written is not None:  # None: it would block
                return written
        return memoryview(data).nbytes


@contextmanager
def results_apart() -> Iterator[None]:
    """Inside the block only `write_result` writes to standard output.

    All other output is redirected to standard error: what user code and libraries print, in C and
    in subprocesses, too. So `RUN=$(runback train)` is the run ID whatever the module prints.
    """
    global _results
    printed = sys.stdout
    printed.flush()
    saved = os.dup(1)
    is_descriptor = _number(printed) == 1  # not if a test has replaced the stream
    _results = _text(os.dup(1), printed) if is_descriptor else printed
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    try:
        yield
    finally:
        if is_descriptor:
            with contextlib.suppress(OSError):  # an error was reported by `flush_results`
                _results.close()
        _results, sys.stdout = None, printed
        os.dup2(saved, 1)
        os.close(saved)


def write_result(text: str) -> None:
    """Writes a part of a command's result to standard output.

    Raises:
        StorageError: it cannot be written, such as a file on a full disk.
        ReaderGoneError: its reader has exited.
    """
    with _converted():
        _stream().write(text)


def can_write(text: str) -> bool:
    """Whether standard output has the characters of a text."""
    try:
        text.encode(_stream().encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def flush_results() -> None:
    """Writes what is buffered.

    Raises:
        StorageError, ReaderGoneError: as in `write_result`.
    """
    with _converted():
        _stream().flush()


def _stream() -> TextIO:
    return _results or sys.stdout


def _number(stream: TextIO) -> int:
    try:
        return stream.fileno()
    except (OSError, ValueError, AttributeError):
        return -1


def _text(handle: int, like: TextIO) -> TextIO:
    return os.fdopen(handle, "w", encoding=like.encoding, errors=like.errors)


@contextmanager
def _converted() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise ReaderGoneError from None
    except OSError as error:
        raise StorageError(f"standard output cannot be written: {error.strerror}") from error
