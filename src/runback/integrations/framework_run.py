"""FrameworkRun: the open run of a training whose loop belongs to a framework."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import os
import re
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runback.commands.launch import launch_id, run_to_continue
from runback.console.progress import say
from runback.errors import UsageError
from runback.integrations.checkpoint_files import CheckpointFiles
from runback.integrations.opening import Request, held_run
from runback.limits import MAX_PARAM, key_problem, text_problem
from runback.open_run.keys import key_of
from runback.open_run.run import Run
from runback.own_loop.files import keep_figure, keep_file
from runback.own_loop.leaving import end_with_sentence
from runback.own_loop.note import post_note
from runback.own_loop.opening import Opened
from runback.own_loop.values import numbers, require_name, require_tag
from runback.storage.journal import Journal
from runback.storage.scripts import remember_start, this_start
from runback.tracking import tags
from runback.tracking.messages import RunDescription
from runback.tracking.record import EndStatus

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN_PARAMS = 3
# By their names, as Lightning is not imported here.
INTERRUPTS = {"KeyboardInterrupt", "SIGTERMException"}
_NO_KEY = re.compile(r"[^/\w.\- :]")


class FrameworkRun:
    """A run that a framework's hooks hold, begin, fill and end, and may begin again.

    A process that exits without ending the run ends it as FAILED, with the exception that nothing
    has caught.

    Args:
        framework: its name.
        name: of a new run.
        key: the newest unfinished run with this key in the experiment is resumed, and a new run gets
            it; by default RUNBACK_KEY.
        resume: ID of the run to resume; by default RUNBACK_RUN_ID, else MLFLOW_RUN_ID.
        experiment: of the run, created if missing; by default the one of the environment.

    Raises:
        UsageError: the store would refuse the name or the key.
    """

    def __init__(
        self,
        framework: str,
        name: str,
        *,
        key: str | None = None,
        resume: str = "",
        experiment: str = "",
    ) -> None:
        end_with_sentence()
        key = key_of(key)
        marks = {tags.RUN_NAME: require_name(name), **({tags.KEY: key} if key else {})}
        self._request = Request(
            RunDescription(params={}, tags=marks),
            resume or run_to_continue() or launch_id(),
            key,
            experiment,
        )
        self._framework, self._stack = framework, ExitStack()
        self._opened: Opened | None = None
        self._files: CheckpointFiles | None = None
        self._id = ""
        self._recorded = 0
        self._handles_signals = False
        self._left_out: set[str] = set()

    # Held

    def hold(self) -> Opened:
        """Holds the run, or a place for a new one; changes nothing.

        Raises:
            UsageError: there is no such run.
            RunHeldError: another process holds the run, or has its key.
            TrackingError: the tracking server is unreachable.
        """
        if self._opened is not None:
            return self._opened
        for other in [other for other in _HELD if other._is_same_as(self)]:
            other.leave()  # a cell of a notebook that is run again
        with ExitStack() as stack:
            self._opened = held_run(self._request, stack)
            self._stack = stack.pop_all()
        _HELD.append(self)
        if self._opened.is_resumed:
            self._id = self._opened.run.id
            self._opened.run.catch_up()
            self._files = CheckpointFiles(self._opened.run)
        return self._opened

    @property
    def id(self) -> str:
        """The run's ID; a new run is created for it."""
        if not self._id:
            self.begin()
        return self._id

    @property
    def is_resumed(self) -> bool:
        """Whether the run existed before."""
        return self.hold().is_resumed

    @property
    def journal(self) -> Journal:
        """The journal of a run that exists."""
        return self.hold().run.journal

    @property
    def files(self) -> CheckpointFiles:
        """The checkpoints of a run that exists."""
        assert self._files is not None
        return self._files

    # Live

    @property
    def is_live(self) -> bool:
        """Whether the run is RUNNING."""
        return self._opened is not None and self._opened.run.is_live

    @property
    def signal(self) -> int:
        """The number of the first signal since `handle_signals`; 0 if there is none."""
        if not self._handles_signals:
            return 0
        signals = self.hold().signals
        signals.should_checkpoint()  # which looks after the parent process
        return signals.received

    def handle_signals(self) -> None:
        """Records SIGINT and SIGTERM for `signal` instead of ending the process."""
        if not self._handles_signals:
            self._handles_signals = True
            self._stack.enter_context(self.hold().signals).defer()

    def begin(self) -> None:
        """Creates the run, or sets it to RUNNING again, unless it is.

        Raises:
            UsageError, RunHeldError, TrackingError: as in `hold`.
        """
        if self.is_live:
            return
        opened = self.hold()
        run, description = opened.run, self._request.description
        if opened.is_resumed:
            run.reopen({}, description)
        else:
            run.create(description, self._request.experiment)
        self._id, start = run.id, this_start()
        remember_start(run.id, start)
        if not opened.is_resumed:
            post_note(run, start, f"the loop of {self._framework}")
        seen = run.seen()
        what = f"run {run.id} is resumed" if opened.is_resumed else f"run {run.id}"
        say(f"{what}: see it {seen}" if seen else what)
        self._recorded = run.journal.reached()
        self._files = self._files or CheckpointFiles(run)

    def recorded(self, step: int) -> set[str]:
        """The metrics that a resumed run has of a step that it trains again."""
        if step > self._recorded:
            return set()
        return {point.key for point in self._run.journal.points_at(step)}

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Records the metrics of a step; what is no number is left out, which is said once.

        A character that the store refuses in a name becomes "_". Of a point that is recorded, the
        first value is kept.
        """
        try:
            values = numbers(metrics)
        except UsageError:
            values = dict(self._accepted(metrics))
        self._run.log(values, step=step)

    def log_params(self, params: Mapping[str, Any] | Namespace) -> None:
        """Records params; nested ones are named "outer/inner". Those of the run are not changed."""
        texts = dict(_texts(vars(params) if isinstance(params, Namespace) else params))
        record = self._run.record
        known = record.params if record else {}
        self._say_changed(known, texts)
        if new := {name: text for name, text in texts.items() if name not in known}:
            self._run.journal.post("params", params=new)

    def log_file(self, path: str | Path, folder: str = "files") -> None:
        """Adds a copy of a file to the run's artifacts; see `OwnRun.log_file`."""
        keep_file(self._run, Path(path), folder)

    def log_figure(self, figure: Figure, name: str) -> None:
        """Adds a figure to the run's artifacts; see `OwnRun.log_figure`."""
        keep_figure(self._run, figure, name)

    def tag(self, name: str, value: object) -> None:
        """Sets a tag of the run; see `OwnRun.tag`."""
        require_tag(name, str(value))
        self._run.journal.post("tags", tags={name: str(value)})

    # The end

    def end(self, status: EndStatus, error: str = "") -> None:
        """Ends a live run and waits for its delivery; `begin` begins it again."""
        if self._opened is None or not self._opened.run.is_live:
            return
        run = self._opened.run
        self.files.mirror()
        run.end(status, error)
        self._request = dataclasses.replace(self._request, run_id=run.id)
        self._close()

    def end_by(self, error: BaseException | None) -> None:
        """Ends a live run as KILLED by an interrupt, or as FAILED with an exception."""
        names = {kind.__name__ for kind in type(error).__mro__}
        if names & INTERRUPTS or (self.is_live and self.signal):
            self.end("KILLED")
        elif error is None:
            self.end("FAILED", "the process has exited before the training ended")
        else:
            self.end("FAILED", f"{type(error).__name__}: {error}")

    def leave(self) -> None:
        """Ends the run by the exception that nothing has caught, if any, and lets go of it."""
        self.end_by(getattr(sys, "last_value", None))
        self._close()

    def _close(self) -> None:
        if self._opened is not None:
            _HELD.remove(self)
        self._opened = self._files = None
        self._handles_signals = False
        self._stack.close()

    def _is_same_as(self, other: FrameworkRun) -> bool:
        """Whether both mean the same run, by its ID or its key."""
        mine, others = self._request, other._request
        is_same_key = (mine.key, mine.experiment) == (others.key, others.experiment)
        return (bool(mine.key) and is_same_key) or (self._id != "" and self._id == others.run_id)

    @property
    def _run(self) -> Run:
        self.begin()
        return self.hold().run

    def _accepted(self, metrics: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
        for name, value in metrics.items():
            try:
                yield from numbers({_NO_KEY.sub("_", name): value}).items()
            except UsageError as error:
                if name not in self._left_out:
                    self._left_out.add(name)
                    say(f"warning: left out: {error}")

    def _say_changed(self, known: Mapping[str, str], texts: Mapping[str, str]) -> None:
        changed = [name for name, text in texts.items() if known.get(name, text) != text]
        if changed:
            shown = [f"{n} {known[n]:.40}, not {texts[n]:.40}" for n in changed[:SHOWN_PARAMS]]
            more = f" and {len(changed) - SHOWN_PARAMS} more" if len(changed) > SHOWN_PARAMS else ""
            say(f"warning: the run keeps the params that it has: {'; '.join(shown)}{more}")


_HELD: list[FrameworkRun] = []  # of this process
_PROCESS = os.getpid()


@atexit.register
def _leave_all() -> None:
    """Runs when the process exits, which has set `sys.last_value` to an uncaught exception."""
    if os.getpid() == _PROCESS:  # not in a forked one
        for run in list(_HELD):
            run.leave()


def _texts(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Params as texts that the store accepts; the rest is left out."""
    for key, value in params.items():
        name = _NO_KEY.sub("_", f"{prefix}{key}")
        if isinstance(value, Mapping) and value:
            yield from _texts(value, f"{name}/")
            continue
        with contextlib.suppress(Exception):  # a user's object can raise anything
            text = str(value)[:MAX_PARAM]
            if not (key_problem(name) or text_problem(text, MAX_PARAM)):
                yield name, text
