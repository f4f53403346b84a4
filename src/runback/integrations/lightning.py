"""RunbackLogger: Lightning's Trainer with a run of runback."""

from __future__ import annotations

import shutil
import sys
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runback.console.progress import say
from runback.integrations.framework_run import FrameworkRun
from runback.integrations.whole import is_whole
from runback.storage.atomic import write_atomically

try:
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
    from lightning.pytorch.utilities.rank_zero import rank_zero_only
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "runback.lightning needs Lightning: pip install 'runback[lightning]'", name=error.name
    ) from None

# A fact of the journal: the path of the file that ckpt_path="last" loads.
LAST = "lightning_last"


class RunbackLogger(Logger):
    """A logger for Lightning's Trainer, in the place of `MLFlowLogger`.

        logger = RunbackLogger("digits", key="digits-1")
        trainer = Trainer(logger=logger, callbacks=[ModelCheckpoint(save_last=True)])
        trainer.fit(model, loader, ckpt_path="last")

    Metrics and hyper-parameters go to the run through its journal, and so do the files of
    `ModelCheckpoint`, each with a manifest. The run is FINISHED when `fit` ends, FAILED by an
    exception, KILLED by Ctrl-C or SIGTERM; `fit`, `validate` or `test` afterwards continue it. The
    same script started again continues the unfinished run of its key from the newest checkpoint that
    is whole. Each (metric, step) is recorded once: of steps that are trained again the first value is
    kept. In a training of several processes the first one records.

    Args:
        name: of a new run.
        key: the newest unfinished run with this key in the experiment is resumed, and a new run gets
            it; by default RUNBACK_KEY.
        resume: ID of the run to resume; by default RUNBACK_RUN_ID, else MLFLOW_RUN_ID.
        experiment: of the run, created if missing; by default the one of the environment.
        checkpoints: whether the files of `ModelCheckpoint` become artifacts.

    Raises:
        UsageError: the name or the key is invalid, or there is no such run.
        RunHeldError: another process holds the run, or has its key.
        TrackingError: the tracking server is unreachable.
    """

    def __init__(
        self,
        name: str,
        *,
        key: str | None = None,
        resume: str = "",
        experiment: str = "",
        checkpoints: bool = True,
    ) -> None:
        super().__init__()
        self._name, self._checkpoints = name, checkpoints
        self._run = FrameworkRun("Lightning", name, key=key, resume=resume, experiment=experiment)
        if rank_zero_only.rank == 0 and self._run.is_resumed:
            restore_last(self._run)

    @property
    def name(self) -> str:
        """The run's name; with `version`, the folder of checkpoints without a `dirpath`."""
        return self._name

    @property
    def version(self) -> str:
        """The run's ID."""
        return self.run_id

    @property
    def run_id(self) -> str:
        """The run's ID; a new run is created for it. Empty in other processes than the first."""
        return self._run.id if rank_zero_only.rank == 0 else ""

    @property
    @rank_zero_experiment
    def experiment(self) -> FrameworkRun:
        """The run, with `log_file`, `log_figure` and `tag`."""
        self._run.begin()
        return self._run

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Records metrics of a step."""
        self._run.log(metrics, step or 0)

    @rank_zero_only
    def log_hyperparams(
        self, params: Mapping[str, Any] | Namespace, *_args: Any, **_kwargs: Any
    ) -> None:
        """Records hyper-parameters; those that a resumed run has are not changed."""
        self._run.log_params(params)

    @rank_zero_only
    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        """Adds the new files of a `ModelCheckpoint` to the run's artifacts."""
        if not self._checkpoints:
            return
        self._run.begin()
        for path in _files_of(checkpoint_callback):
            if Path(path).exists():
                self._run.files.add(Path(path), checkpoint_callback._last_global_step_saved)
        self._run.files.mirror()
        if last := _last_of(checkpoint_callback):
            self._run.journal.set_fact(LAST, last)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Ends the run: FINISHED, or by the exception that is being handled.

        Lightning calls this with "finished" before Slurm starts the job again; the run goes on.
        """
        if status == "success":
            self._run.end("FINISHED")
        elif status != "finished":
            self._run.end_by(sys.exception())


def _files_of(callback: ModelCheckpoint) -> list[str]:
    """The paths of what a callback has just saved."""
    saved = getattr(callback, "_last_checkpoint_saved", "")
    paths = [*callback.best_k_models, callback.best_model_path, callback.last_model_path]
    return [saved] if saved else [path for path in dict.fromkeys(paths) if path]


def _last_of(callback: ModelCheckpoint) -> str:
    """The path that `ckpt_path="last"` loads; empty if it cannot be known."""
    if not callback.save_last or "{" in callback.CHECKPOINT_NAME_LAST:
        return ""
    name = callback.CHECKPOINT_NAME_LAST + callback.FILE_EXTENSION
    return str(Path(callback.last_model_path or Path(callback.dirpath) / name).absolute())


def restore_last(run: FrameworkRun) -> None:
    """Replaces the file of `ckpt_path="last"` if it is older than another whole checkpoint.

    A process that is killed between the two leaves it so. A file that is whole and was written after
    the last record is left alone.
    """
    path = run.journal.fact(LAST, "")
    newest = run.files.newest(Path(path).parent) if path else None
    if newest is None:
        return
    source, file = newest
    last = Path(path)
    known = run.files.known.get(str(last.resolve()))  # it can be a link
    is_known = known is not None and known.is_intact(last)
    is_old = is_known and known is not None and known.step < file.step
    if is_old or (not is_known and not is_whole(last)):
        with source.open("rb") as content:
            write_atomically(last, lambda target: shutil.copyfileobj(content, target))
        say(f"{last.name} was older or cut off, and is now a copy of {source.name}")
