"""Which checkpoints of a run stay, and which are deleted."""

from __future__ import annotations

import bisect
import contextlib
from collections.abc import Callable
from pathlib import Path

from runback.errors import CheckpointError
from runback.storage.checkpoints import (
    CheckpointKey,
    Manifest,
    Position,
    checkpoint_name,
    local_positions,
    manifest_name,
    verify,
)


class Retention:
    """The checkpoints of a run, and which of them may go.

    All of those between epochs are kept, or the newest `keep`; those inside an epoch only while
    they are among the newest two, as they are there to resume from, not for the record. Two that
    verify always stay. The best weights need no file of their own: every checkpoint holds them
    beside its own.

    Args:
        folder: the checkpoints' folder.
        owner: of the checkpoints; those of another do not count as good.
        keep: how many of those between epochs to keep; 0 keeps all.
    """

    def __init__(self, folder: Path, owner: CheckpointKey, keep: int) -> None:
        self.folder, self.owner, self.keep = folder, owner, keep
        found = local_positions(folder)
        self._between = [position for position in found if not position[1]]
        self._inside = [position for position in found if position[1]]

    def add(self, manifest: Manifest, note: Callable[[str], None] = lambda _: None) -> list[str]:
        """Counts in a checkpoint just written; deletes what may go, and returns its file names.

        Args:
            manifest: of the checkpoint.
            note: told each file's name before it is deleted, so that whoever misses it knows why.
        """
        row, position = self._row(manifest.position), manifest.position
        index = bisect.bisect_left(row, position)
        if row[index : index + 1] != [position]:
            row.insert(index, position)
        surplus = self._surplus()
        good = self._two_good() if surplus else []
        gone = [position for position in surplus if position not in good] if len(good) == 2 else []
        names = [name for position in gone for name in _names(position)]
        for name in names:
            note(name)
        for position in gone:
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
            manifest.check_key(self.owner)
            verify(self.folder, manifest)
        except CheckpointError:
            return False
        return True

    def _delete(self, position: Position) -> None:
        self._row(position).remove(position)
        for name in _names(position):
            with contextlib.suppress(OSError):  # a file that cannot be deleted does no harm
                (self.folder / name).unlink(missing_ok=True)

    def _row(self, position: Position) -> list[Position]:
        return self._inside if position[1] else self._between


def _names(position: Position) -> list[str]:
    """The files of a checkpoint, the manifest first: a file without one does not count."""
    file = checkpoint_name(*position)
    return [manifest_name(file), file]
