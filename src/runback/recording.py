"""A run that is being trained: its folder, lock, journal, checkpoints and courier in one place."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from runback.config import TrainConfig
from runback.durable.checkpoints import CheckpointWriter, prune, write_checkpoint
from runback.durable.home import RunFolder
from runback.durable.journal import Journal
from runback.environment import versions
from runback.errors import DivergedError
from runback.progress import say
from runback.tracking.desk import Desk
from runback.training.loop import EpochResult
from runback.training.state import TrainState


class Recorder:
    """Writes down what a training does; nothing here waits for a server.

    Args:
        folder: of the run; the caller holds its lock.
        config: of the run.
        desk: the courier, which carries the journal from `begin` on.
    """

    def __init__(self, folder: RunFolder, config: TrainConfig, desk: Desk) -> None:
        self.folder, self.config, self.desk = folder, config, desk
        self.journal = Journal(folder.journal)
        self._lr: float | None = None
        self._versions = versions()
        self._writer = CheckpointWriter(self._write)
        self._last_saved = (-1, -1)
        self._told = 0

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
        self._writer.submit({**saved, **state.state_dict(), "config": self.config.as_json()})
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
        self.folder.outbox.mkdir(parents=True, exist_ok=True)
        file = self.folder.outbox / name
        file.write_text(json.dumps(value, sort_keys=True) + "\n", encoding="utf-8")
        self.post_file(file, "")

    def end(self, status: str, error: str = "") -> bool:
        """Notes how the training ended, and waits for the courier; says whether all has arrived."""
        self._writer.close()
        self._tell_mismatches()
        self.journal.set_fact("ended_ms", time.time_ns() // 1_000_000)
        self.journal.set_fact("status", [status, error])
        self.journal.close()
        return self.desk.finish()

    def _write(self, state: dict[str, Any]) -> None:
        """On the writer's thread: metrics durable first, then the file, its manifest, the outbox."""
        self.journal.flush(durable=True)
        folder = self.folder.checkpoints
        manifest = write_checkpoint(folder, state, self.config.identity(), self._versions)
        self.post_file(folder / manifest.file, "checkpoints")
        self.post_file(folder / manifest.manifest_file, "checkpoints")
        for gone in prune(folder, self.config.keep_checkpoints):
            for name in (gone.manifest_file, gone.file):
                self.journal.post("delete", path=f"checkpoints/{name}")

    def _tell_mismatches(self) -> None:
        """Says and tags every re-trained value that differs from the published one."""
        for found in self.journal.mismatches[self._told :]:
            text = (
                f"{found.key} of epoch {found.step} was {found.recorded!r} and is {found.retrained!r} "
                "when trained again; the recorded value stays"
            )
            say(f"determinism broke: {text}")
            self.journal.post("tags", tags={"runback.mismatch": text})
        self._told = len(self.journal.mismatches)
