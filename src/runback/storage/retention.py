"""Retention of a run's checkpoints: which are kept, and which are deleted."""

from __future__ import annotations

import bisect
import contextlib
from collections.abc import Callable
from pathlib import Path

from runback.errors import CheckpointError
from runback.stateful import Position
from runback.storage.checkpoints import (
    CheckpointKey,
    Manifest,
    checkpoint_name,
    local_positions,
    manifest_name,
    verify,
)


class Retention:
    """Deletes the old checkpoints of a run.

    Checkpoints between epochs are kept, all or the newest `keep`; checkpoints inside an epoch only
    while they are among the newest two. Two checkpoints that verify are always kept. The best
    weights need no file of their own: every checkpoint contains them.

    Args:
        folder: the checkpoints' folder.
        key: of the run; checkpoints with another key do not verify.
        keep: number of checkpoints between epochs to keep; 0 keeps all.
    """

    def __init__(self, folder: Path, key: CheckpointKey, keep: int) -> None:
        self.folder, self.key, self.keep = folder, key, keep
        existing = local_positions(folder)
        self._between = [position for position in existing if not position[1]]
        self._inside = [position for position in existing if position[1]]

    def add(
        self, manifest: Manifest, on_delete: Callable[[str], None] = lambda _: None
    ) -> list[str]:
        """Adds a new checkpoint, deletes surplus ones, and returns the names of deleted files.

        Args:
            manifest: of the checkpoint.
            on_delete: called with each file's name before the file is deleted.
        """
        row, position = self._row(manifest.position), manifest.position
        index = bisect.bisect_left(row, position)
        if row[index : index + 1] != [position]:
            row.insert(index, position)
        surplus = self._surplus()
        good = self._two_good() if surplus else []
        deleted = [p for p in surplus if p not in good] if len(good) == 2 else []
        names = [name for position in deleted for name in _names(position)]
        for name in names:
            on_delete(name)
        for position in deleted:
            self._delete(position)
        return names

    def _surplus(self) -> list[Position]:
        newest = sorted(self._between[-2:] + self._inside[-2:])[-2:]
        old = self._between[: -max(self.keep, 2)] if self.keep else []
        return [position for position in old + self._inside if position not in newest]

    def _two_good(self) -> list[Position]:
        good: list[Position] = []
        for position in sorted(self._between + self._inside, reverse=True):
            if len(good) < 2 and self._verifies(position):
                good.append(position)
        return good

    def _verifies(self, position: Position) -> bool:
        try:
            path = self.folder / manifest_name(checkpoint_name(*position))
            manifest = Manifest.read(path)
            manifest.check_key(self.key)
            verify(self.folder, manifest)
        except CheckpointError:
            return False
        return True

    def _delete(self, position: Position) -> None:
        self._row(position).remove(position)
        for name in _names(position):
            with contextlib.suppress(OSError):  # a leftover file is harmless
                (self.folder / name).unlink(missing_ok=True)

    def _row(self, position: Position) -> list[Position]:
        return self._inside if position[1] else self._between


def _names(position: Position) -> list[str]:
    """The files of a checkpoint, the manifest first: a file without a manifest is ignored."""
    file = checkpoint_name(*position)
    return [manifest_name(file), file]
