"""The checkpoints of a live run: written on a background thread, posted, and pruned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from runback.environment import conditions
from runback.stateful import Position
from runback.storage.atomic import make_folder, remove_leftovers
from runback.storage.checkpoint_writer import CheckpointWriter
from runback.storage.checkpoints import CheckpointKey, write_checkpoint
from runback.storage.journal import Journal
from runback.storage.paths import RunDir
from runback.storage.retention import Retention


@dataclass(frozen=True)
class Checkpointing:
    """The checkpoint settings of a run.

    Attributes:
        config_sha256: digest of the configuration; checkpoints with another digest are ignored.
        keep: checkpoints between epochs to keep, at least two; 0 keeps all.
        minutes: between checkpoints, also inside an epoch; 0 for no limit.
    """

    config_sha256: str = ""
    keep: int = 0
    minutes: float = 0.0

    def key(self, folder: RunDir) -> CheckpointKey:
        """The owner of the run's checkpoints."""
        return CheckpointKey(folder.run_id, self.config_sha256)


class RunCheckpoints:
    """Writes the checkpoints of a run and adds them to its outbox.

    Args:
        folder: of the run; the caller holds its lock.
        journal: of the run.
        settings: of the run.
        saved: position of the newest checkpoint; None if there is none.

    Raises:
        CheckpointError: the folder cannot be used.
    """

    def __init__(
        self, folder: RunDir, journal: Journal, settings: Checkpointing, saved: Position | None
    ) -> None:
        self._folder, self._journal, self._saved = folder, journal, saved
        make_folder(folder.checkpoints)
        remove_leftovers(folder.checkpoints)
        self._key = settings.key(folder)
        self._conditions: dict[str, str] = {}  # of the checkpoint that was submitted last
        self._retention = Retention(folder.checkpoints, self._key, settings.keep)
        self._writer = CheckpointWriter(self._write)

    def is_saved(self, position: Position) -> bool:
        """Whether the newest checkpoint is at a position."""
        return self._saved == position

    def submit(self, position: Position, state: dict[str, Any]) -> None:
        """Queues a copy of the state for writing; blocks while an earlier one is being written.

        Raises:
            CheckpointError, JournalError: an earlier one could not be written.
        """
        self._conditions = conditions()  # here: another thread may have another number of threads
        self._writer.submit(state)
        self._saved = position

    def wait(self) -> None:
        """Blocks until every checkpoint is on disk and in the outbox.

        Raises:
            CheckpointError, JournalError: one could not be written.
        """
        self._writer.wait()

    def close(self) -> None:
        """Ends the thread after the submitted checkpoints are written; raises nothing."""
        self._writer.close()

    def post(self, *names: str) -> None:
        """Adds the files of a checkpoint to the outbox."""
        for name in names:
            self._journal.post_file(
                self._folder.path, self._folder.checkpoints / name, "checkpoints"
            )

    def _write(self, state: dict[str, Any]) -> None:
        """Runs on the writer's thread: metrics first, then the file, its manifest, the outbox."""
        self._journal.flush(durable=True)
        manifest = write_checkpoint(self._folder.checkpoints, state, self._key, self._conditions)
        self.post(manifest.file, manifest.manifest_file)
        self._retention.add(manifest, self._post_deletion)

    def _post_deletion(self, name: str) -> None:
        self._journal.post("delete", path=f"checkpoints/{name}")
