"""`python -m runback`, and the console script."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import NoReturn

from runback.cli import main
from runback.console.streams import ignore_errors_of_standard_error, open_standard_streams


def program() -> NoReturn:
    """Runs one command, then exits without interpreter shutdown.

    The teardown of torch's modules takes a fifth of a short training. All files are closed and the
    courier has replied by then.
    """
    open_standard_streams()
    ignore_errors_of_standard_error()
    code = main()
    if "multiprocessing" in sys.modules:  # not imported here, to keep --help fast
        for worker in sys.modules["multiprocessing"].active_children():
            worker.terminate()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # the reader has exited
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    program()
