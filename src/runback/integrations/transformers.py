"""RunbackCallback: the Trainer of transformers with a run of runback."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import TracebackType
from typing import Any

from runback.console.progress import say
from runback.errors import Interrupted
from runback.integrations.framework_run import FrameworkRun
from runback.integrations.whole import is_whole

try:
    from transformers import (
        TrainerCallback,
        TrainerControl,
        TrainerState,
        TrainingArguments,
    )
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "runback.transformers needs transformers: pip install 'runback[transformers]'",
        name=error.name,
    ) from None

STATE = "trainer_state.json"  # which the Trainer writes last
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
# Durations, which are never equal again.
_TIMES = re.compile(r".*(_runtime|_per_second|_time)")


class RunbackCallback(TrainerCallback):
    """A callback for the Trainer of transformers, in the place of `report_to="mlflow"`.

        callback = RunbackCallback("gpt", key="gpt-1")
        arguments = TrainingArguments(output_dir="out", report_to="none", save_steps=500)
        trainer = Trainer(model, arguments, train_dataset=dataset, callbacks=[callback])
        trainer.train(resume_from_checkpoint=callback.checkpoint)

    Logs become metrics, the arguments and the model's configuration params, and each folder
    `checkpoint-N` artifacts with a manifest. The run is FINISHED when the training ends, FAILED by an
    exception that ends the process. SIGINT and SIGTERM write a checkpoint (unless `save_strategy` is
    "no") and end the run as KILLED, in a training of one process. The same script started again
    continues the unfinished run of its key; folders `checkpoint-N` that are not whole are renamed to
    `incomplete-checkpoint-N`. Each (metric, step) is recorded once: of steps that are trained again
    the first value is kept.

    Used as a context manager, an exception ends the run at the end of the block.

    Args:
        name: of a new run.
        key: the newest unfinished run with this key in the experiment is resumed, and a new run gets
            it; by default RUNBACK_KEY.
        resume: ID of the run to resume; by default RUNBACK_RUN_ID, else MLFLOW_RUN_ID.
        experiment: of the run, created if missing; by default the one of the environment.
        checkpoints: whether the folders of checkpoints become artifacts.

    Raises:
        UsageError: the name or the key is invalid; from `Trainer()`: there is no such run.
        RunHeldError: from `Trainer()`: another process holds the run, or has its key.
        TrackingError: from `Trainer()`: the tracking server is unreachable.
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
        self._checkpoints = checkpoints
        self._run = FrameworkRun(
            "Transformers", name, key=key, resume=resume, experiment=experiment
        )
        self._output: Path | None = None
        self._is_training = self._is_resumed = False

    @property
    def run_id(self) -> str:
        """The run's ID; a new run is created for it."""
        return self._run.id

    @property
    def checkpoint(self) -> str | None:
        """The newest whole checkpoint of a run that is resumed, for `resume_from_checkpoint`; None
        for a new run. Known when the Trainer is made."""
        if self._output is None or not self._is_resumed:
            return None
        found = sorted(_checkpoints(self._output))
        return str(found[-1][1]) if found else None

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Holds the run, and sets checkpoints aside that are not whole."""
        self._output = Path(args.output_dir)
        with args.main_process_first(local=False, desc="runback: checkpoints"):
            if state.is_world_process_zero:
                self._is_resumed = self._run.is_resumed
                if self._is_resumed:
                    _set_aside(self._output, self._run)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl,
        model: Any = None, **_: Any,
    ) -> None:  # fmt: skip
        """Begins the run and records the params."""
        if state.is_world_process_zero:
            self._is_training = True
            self._run.begin()
            if args.world_size == 1:  # several processes must stop at the same step
                self._run.handle_signals()
            config: Any = getattr(model, "config", None)
            described = config.to_dict() if hasattr(config, "to_dict") else {}
            self._run.log_params({**described, **args.to_dict()})

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl,
        logs: dict[str, Any] | None = None, **_: Any,
    ) -> None:  # fmt: skip
        """Records metrics of the step, but not the totals of a training that a signal has stopped."""
        if state.is_world_process_zero and not (
            "train_runtime" in (logs or {}) and self._run.signal
        ):
            self._run.begin()
            recorded = self._run.recorded(state.global_step)
            metrics = {
                name: value
                for name, value in (logs or {}).items()
                if not (name in recorded and _TIMES.fullmatch(name))
            }
            self._run.log(metrics, state.global_step)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Requests a checkpoint and the end after a signal."""
        if self._run.is_live and self._run.signal:
            control.should_training_stop = True
            control.should_save = control.should_save or args.save_strategy != "no"

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Adds the new checkpoint to the run's artifacts."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and self._checkpoints and folder.is_dir():
            self._run.begin()
            self._run.files.add(folder, state.global_step)
            self._run.files.mirror()

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Ends the run after an evaluation outside of the training."""
        if not self._is_training:
            self._run.end("FINISHED")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Ends the run.

        Raises:
            Interrupted: a signal was received.
        """
        self._is_training = False
        if not self._run.is_live:
            return
        run_id, received = self._run.id, self._run.signal
        self._run.end("KILLED" if received else "FINISHED")
        if received:
            raise Interrupted(run_id, received)

    def __enter__(self) -> RunbackCallback:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._run.end_by(error)


def _checkpoints(output: Path) -> list[tuple[int, Path]]:
    """The folders of checkpoints and their steps."""
    folders = [path for path in output.glob("checkpoint-*") if path.is_dir()]
    matches = [(_CHECKPOINT.fullmatch(path.name), path) for path in folders]
    return [(int(match[1]), path) for match, path in matches if match]


def _set_aside(output: Path, run: FrameworkRun) -> None:
    """Renames the checkpoints that a killed process has left incomplete."""
    for _, folder in _checkpoints(output):
        known = run.files.known.get(str(folder.absolute()))
        if known.is_intact(folder) if known else _is_complete(folder):
            continue
        aside = folder.with_name(f"incomplete-{folder.name}")
        number = 1
        while aside.exists():
            number += 1
            aside = folder.with_name(f"incomplete-{folder.name}-{number}")
        folder.rename(aside)
        say(f"{folder} is not whole, and is renamed to {aside.name}")


def _is_complete(folder: Path) -> bool:
    """Whether the Trainer has written the folder to its end, and each file is whole."""
    try:
        json.loads((folder / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return all(is_whole(path) for path in folder.rglob("*") if path.is_file())
