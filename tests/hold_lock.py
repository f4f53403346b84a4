"""Holds the lock of the file that is named, until it is killed; with `--worker`, forks a child."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from runback.storage.lock import FileLock

lock = FileLock(Path(sys.argv[1])).acquire("it")
print("held", flush=True)  # noqa: T201
if "--worker" in sys.argv and os.fork() == 0:
    print(os.getpid(), flush=True)  # noqa: T201
time.sleep(60)
