"""A run that is being trained: its folder, lock, journal, checkpoints and courier in one place."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runback.config import TrainConfig
from runback.console.progress import say
from runback.environment import versions
from runback.errors import DivergedError, JournalError
from runback.run.restore import Restored
from runback.storage.atomic import make_folder, remove_leftovers, sha256_of, write_bytes
from runback.storage.checkpoint_writer import CheckpointWriter
from runback.storage.checkpoints import CheckpointKey, Position, write_checkpoint
from runback.storage.journal import Journal
from runback.storage.paths import RunDir
from runback.storage.retention import Retention
from runback.tracking.client import CourierClient
from runback.training.loop import EpochResult
from runback.training.state import TrainState

# Once determinism has broken, every later epoch differs as well.
TOLD_MISMATCHES = 3


class Run:
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
        self,
        folder: RunDir,
        config: TrainConfig,
        desk: CourierClient,
        restored: Restored | None = None,
    ) -> None:
        self.folder, self.config, self.desk = folder, config, desk
        make_folder(folder.checkpoints)
        remove_leftovers(folder.checkpoints)
        self.journal = Journal(folder.journal, tidy=False)
        self._owner = CheckpointKey(folder.run_id, config.identity())
        self._shelf = Retention(folder.checkpoints, self._owner, config.keep_checkpoints)
        self._lr = restored.lr if restored else None
        self._last_saved = restored.manifest.position if restored else Position(-1, -1)
        self._versions = versions()
        self._writer = CheckpointWriter(self._write)
        self._told = 0
        if restored and not restored.uploaded:  # killed between the manifest and the outbox
            self._post_checkpoint(restored.manifest.file, restored.manifest.manifest_file)

    def begin(self) -> None:
        """Lets the courier begin; the run is open, and its journal says so."""
        self.desk.deliver(self.folder.run_id)

    def epoch(self, result: EpochResult) -> None:
        """Notes an epoch's metrics in memory, and writes them down when it is time."""
        points = [("cost", result.cost)]
        if result.val_cost is not None:
            points.append(("val_cost", result.val_cost))
        if result.lr != self._lr:
            self._lr = result.lr
            points.append(("lr", result.lr))
        self.journal.reach(result.epoch)
        self.journal.record(points, result.epoch)
        if self.journal.flush_if_due():
            self.desk.watch()
            self._tell_news()

    def checkpoint(self, state: TrainState) -> None:
        """Saves the state: the copy now, the writing on another thread.

        Raises:
            DivergedError: the weights are no longer finite; the last good checkpoint stays.
        """
        place = Position(state.epoch, state.batch)
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
        """Adds a file of the run's folder to the outbox, with its digest."""
        name = str(file.relative_to(self.folder.path))
        self.journal.post(
            "artifact", file=name, artifact_path=artifact_path, sha256=sha256_of(file)
        )

    def post_json(self, name: str, value: Any) -> None:
        """Adds a JSON artifact at the root of the run."""
        make_folder(self.folder.outbox)
        file = self.folder.outbox / name
        write_bytes(file, (json.dumps(value, sort_keys=True) + "\n").encode())
        self.post_file(file, "")

    def end(self, status: str, error: str = "", leave: Callable[[], bool] = lambda: False) -> bool:
        """Notes how the training ended, and waits for the courier; says whether all has arrived.

        Raises nothing of its own: what ended the training must not be hidden by what came after.

        Args:
            status: FINISHED, KILLED or FAILED.
            error: the reason, where it failed.
            leave: asked while waiting; where it is true, the courier goes on alone.
        """
        self._writer.close()
        try:
            self._note_end(status, error)
        except JournalError as failure:  # the courier is told as well
            say(f"warning: the end is not in the journal: {failure}")
        return self.desk.finish(status, error, leave)

    def _note_end(self, status: str, error: str) -> None:
        self.journal.flush()
        self._tell_news()
        ended_ms = time.time_ns() // 1_000_000
        self.journal.set_facts({"ended_ms": ended_ms, "status": [status, error]})
        self.journal.flush(durable=True)
        self.journal.close()

    def _write(self, state: dict[str, Any]) -> None:
        """On the writer's thread: metrics durable first, then the file, its manifest, the outbox."""
        self.journal.flush(durable=True)
        manifest = write_checkpoint(self.folder.checkpoints, state, self._owner, self._versions)
        self._post_checkpoint(manifest.file, manifest.manifest_file)
        self._shelf.add(manifest, self._post_deletion)

    def _post_deletion(self, name: str) -> None:
        self.journal.post("delete", path=f"checkpoints/{name}")

    def _post_checkpoint(self, *names: str) -> None:
        for name in names:
            self.post_file(self.folder.checkpoints / name, "checkpoints")

    def _tell_news(self) -> None:
        """Says and tags what flushes have found: values that differ, or are no numbers."""
        self._tell_non_finite()
        self._tell_mismatches()

    def _tell_non_finite(self) -> None:
        """Once a run: MLflow keeps NaN, but shows an infinity as the largest number."""
        point = self.journal.non_finite
        if point is None or self.journal.fact("non_finite") is not None:
            return
        text = f"{point.key} of epoch {point.step} is {point.value}"
        say(f"{text}; MLflow shows infinities as +-1.797e308")
        self.journal.post("tags", tags={"runback.non_finite": text})
        self.journal.set_fact("non_finite", text)

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
