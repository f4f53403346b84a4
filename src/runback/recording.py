"""A run that is being trained: its folder, lock, journal, checkpoints and courier in one place."""

from __future__ import annotations

import json
import sqlite3
import time
from pathlib import Path
from typing import Any

from runback.config import TrainConfig
from runback.durable.checkpoints import CheckpointWriter, Owner, Shelf, write_checkpoint
from runback.durable.files import make_folder, remove_leftovers, write_bytes
from runback.durable.home import RunFolder
from runback.durable.journal import Journal
from runback.environment import versions
from runback.errors import DivergedError, JournalError
from runback.progress import say
from runback.restoring import Restored
from runback.tracking.desk import Desk
from runback.training.loop import EpochResult
from runback.training.state import TrainState

# Once determinism has broken, every later epoch differs as well.
TOLD_MISMATCHES = 3


class Recorder:
    """Writes down what a training does; nothing here waits for a server.

    Args:
        folder: of the run; the caller holds its lock.
        config: of the run.
        desk: the courier, which carries the journal from `begin` on.
        restored: where a resumed training continues.

    Raises:
        CheckpointError, JournalError: the folder cannot be used.
    """

    def __init__(
        self, folder: RunFolder, config: TrainConfig, desk: Desk, restored: Restored | None = None
    ) -> None:
        self.folder, self.config, self.desk = folder, config, desk
        make_folder(folder.checkpoints)
        remove_leftovers(folder.checkpoints)
        self.journal = Journal(folder.journal)
        self._owner = Owner(folder.run_id, config.identity())
        self._shelf = Shelf(folder.checkpoints, self._owner, config.keep_checkpoints)
        self._lr = restored.lr if restored else None
        self._last_saved = restored.manifest.place if restored else (-1, -1)
        self._versions = versions()
        self._writer = CheckpointWriter(self._write)
        self._told = 0
        if restored and not restored.uploaded:  # killed between the manifest and the outbox
            self._post_checkpoint(restored.manifest.file, restored.manifest.manifest_file)

    def begin(self) -> None:
        """Notes where the run is, forgets how it last ended, and lets the courier begin."""
        self.journal.set_fact("tracking_uri", self.desk.ask("uri"))
        self.journal.set_fact("status", None)
        self.journal.set_fact("status_delivered", None)
        self.desk.deliver(self.folder.run_id)

    def epoch(self, result: EpochResult) -> None:
        """Notes an epoch's metrics in memory, and writes them down when it is time."""
        points = [("cost", result.cost)]
        if result.val_cost is not None:
            points.append(("val_cost", result.val_cost))
        if result.lr != self._lr:
            self._lr = result.lr
            points.append(("lr", result.lr))
        self.journal.record(points, result.epoch)
        if self.journal.flush_if_due():
            self.desk.watch()
            self._tell_mismatches()

    def checkpoint(self, state: TrainState) -> None:
        """Saves the state: the copy now, the writing on another thread.

        Raises:
            DivergedError: the weights are no longer finite; the last good checkpoint stays.
        """
        place = (state.epoch, state.batch)
        if place == self._last_saved:
            return
        if not state.is_finite():
            raise DivergedError(
                f"the weights are not finite after epoch {state.epoch}; try a smaller lr"
            )
        name = self.config.model
        saved = {"model": name, "description": f"{name} checkpoint of epoch {state.epoch}"}
        more = {"config": self.config.as_json(), "lr": self._lr}
        self._writer.submit({**saved, **state.state_dict(), **more})
        self._last_saved = place

    def wait(self) -> None:
        """Returns when every checkpoint is on disk and in the outbox."""
        self._writer.wait()

    def post_file(self, file: Path, artifact_path: str) -> None:
        """Adds a file of the run's folder to the outbox."""
        name = str(file.relative_to(self.folder.path))
        self.journal.post("artifact", file=name, artifact_path=artifact_path)

    def post_json(self, name: str, value: Any) -> None:
        """Adds a JSON artifact at the root of the run."""
        make_folder(self.folder.outbox)
        file = self.folder.outbox / name
        write_bytes(file, (json.dumps(value, sort_keys=True) + "\n").encode())
        self.post_file(file, "")

    def end(self, status: str, error: str = "") -> bool:
        """Notes how the training ended, and waits for the courier; says whether all has arrived.

        Raises nothing of its own: what ended the training must not be hidden by what came after.
        """
        self._writer.close()
        try:
            self.journal.flush()
            self._tell_mismatches()
            self.journal.set_fact("ended_ms", time.time_ns() // 1_000_000)
            self.journal.set_fact("status", [status, error])
            self.journal.close()
        except (JournalError, sqlite3.Error) as failure:
            say(f"warning: the end is not in the journal: {failure}")
        return self.desk.finish()

    def _write(self, state: dict[str, Any]) -> None:
        """On the writer's thread: metrics durable first, then the file, its manifest, the outbox."""
        self.journal.flush(durable=True)
        manifest = write_checkpoint(self.folder.checkpoints, state, self._owner, self._versions)
        self._post_checkpoint(manifest.file, manifest.manifest_file)
        for name in self._shelf.add(manifest):
            self.journal.post("delete", path=f"checkpoints/{name}")

    def _post_checkpoint(self, *names: str) -> None:
        for name in names:
            self.post_file(self.folder.checkpoints / name, "checkpoints")

    def _tell_mismatches(self) -> None:
        """Says and tags that re-trained values differ from those recorded; the first few in full."""
        found = self.journal.mismatches
        if len(found) == self._told:
            return
        texts = [
            f"{m.key} of epoch {m.step} was {m.recorded!r} and is {m.retrained!r} when trained again"
            for m in found[:TOLD_MISMATCHES]
        ]
        for text in texts[self._told :]:
            say(f"determinism broke: {text}; the recorded value stays")
        more = f"; {len(found)} values in all" if len(found) > len(texts) else ""
        self.journal.post("tags", tags={"runback.mismatch": "; ".join(texts) + more})
        self._told = len(found)
