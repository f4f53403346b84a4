"""Holds the lock file of its first argument until killed; prints "held".

With "fork" as second argument it then forks a worker that outlives it, and prints its process ID.
"""

import os
import pathlib
import sys
import time

from runback.storage.lock import FileLock

lock = FileLock(pathlib.Path(sys.argv[1])).acquire("it")
print("held", flush=True)
if sys.argv[2:] == ["fork"] and os.fork() == 0:
    print(os.getpid(), flush=True)
time.sleep(60)
