"""A thread that writes checkpoints while the training continues."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any


class CheckpointWriter:
    """Writes checkpoints on a background thread, one at a time, in order.

    `submit` takes a copy of the state that is not modified later, so the loop waits for the copy
    only. An error is raised by the next `submit` or `wait`.
    """

    def __init__(self, write: Callable[[dict[str, Any]], None]) -> None:
        self._write = write
        self._jobs: queue.Queue[dict[str, Any] | None] = queue.Queue(maxsize=1)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="checkpoint-writer", daemon=True)
        self._thread.start()

    def submit(self, state: dict[str, Any]) -> None:
        """Queues a state; blocks while an earlier one is being written."""
        self._jobs.join()
        self._raise()
        self._jobs.put(state)

    def wait(self) -> None:
        """Blocks until every submitted state is on disk."""
        self._jobs.join()
        self._raise()

    def close(self) -> None:
        """Ends the thread after the submitted states are written; raises nothing."""
        if self._thread.is_alive():
            self._jobs.put(None)
            self._thread.join()

    def _work(self) -> None:
        while (state := self._jobs.get()) is not None:
            try:
                self._write(state)
            except BaseException as error:
                self._error = error
            finally:
                del state
                self._jobs.task_done()
        self._jobs.task_done()

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error
