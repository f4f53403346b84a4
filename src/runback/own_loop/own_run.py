"""OwnRun: the open run of a user's own training loop."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar

from runback.console.progress import say
from runback.errors import UsageError
from runback.open_run.run import Run
from runback.own_loop.files import keep_figure, keep_file
from runback.own_loop.fluent import active_in_mlflow
from runback.own_loop.leaving import saying_how_to_continue
from runback.own_loop.loop import EPOCHS, STEPS, Loop, Place
from runback.own_loop.opening import Opened, Request, open_run
from runback.own_loop.registering import Registration, register
from runback.own_loop.values import numbers, require_tag
from runback.stateful import Stateful

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import nn


class OwnRun:
    """The open run of a loop of your own, from `runback.run`; used in a `with` statement."""

    _is_any_open: ClassVar[bool] = False

    def __init__(self, request: Request) -> None:
        self._request, self._stack = request, ExitStack()
        self._opened: Opened | None = None
        self._begun: Loop | None = None
        self._is_open = False

    @property
    def id(self) -> str:
        """The run's ID, also after the end."""
        return self._entered.run.id

    @property
    def folder(self) -> Path:
        """The run's local files."""
        return self._entered.run.folder.path

    @property
    def is_resumed(self) -> bool:
        """Whether the run existed before."""
        return self._entered.is_resumed

    @property
    def epoch(self) -> int:
        """Completed epochs; known when the loop has begun."""
        return self._place.done

    @property
    def step(self) -> int:
        """Completed steps of a loop over `steps`; known when the loop has begun."""
        return self._place.done

    @property
    def state(self) -> dict[str, Any]:
        """Values of JSON (texts, numbers, lists, dicts) that each checkpoint has, to be changed in
        place; empty at the beginning of a new run, and restored when the loop begins."""
        return self._place.state

    def keep(self, /, **objects: Stateful) -> None:
        """Names the objects whose state each checkpoint has; `epochs` and `steps` restore them.

        Args:
            objects: modules, optimizers, schedulers, or others with `state_dict` and
                `load_state_dict`, whose states have only tensors, numbers, texts, lists and dicts.

        Raises:
            UsageError: a name is used twice, an object lacks the two methods, or the loop has begun.
        """
        self._loop.keep(objects)

    def epochs(self, count: int) -> Iterator[int]:
        """Yields the index of each epoch that is left of `count`, from 0 on.

        Before the first, the kept objects and `state` are restored if the run is resumed. Each epoch
        begins with the generators of Python, NumPy and torch seeded by (seed, epoch). Its end is a
        safe point: metrics are recorded, and a checkpoint is written if it is due. An epoch that is
        left with `break` counts as completed.

        Raises:
            UsageError: the run has trained more epochs, a kept object rejects its state, or no
                checkpoint is left of a run that has trained.
            Interrupted: a signal was received.
        """
        return self._loop.left(EPOCHS, count)

    def steps(self, count: int) -> Iterator[int]:
        """Yields the index of each step that is left of `count`, from 0 on; for loops without epochs.

        The generators of Python, NumPy and torch are seeded before the first step, and each
        checkpoint has their states. `checkpoint_every` counts steps; metrics are recorded by step.

        Raises:
            UsageError, Interrupted: as in `epochs`.
        """
        return self._loop.left(STEPS, count)

    def batches(self, loader: Iterable[Any]) -> Iterator[Any]:
        """Yields the batches of a loader, in an order that is a function of (seed, epoch).

        The end of each batch but the last of an epoch is a safe point, too: a checkpoint may be
        written, and a resumed run continues with the next batch. What the loop adds up over the
        batches of an epoch must be in `state`, or it begins at zero there. Random numbers that a
        dataset draws in worker processes are drawn anew there.

        In a loop over `steps` the batches do not end, and may be taken with `next`.

        Args:
            loader: a `torch.utils.data.DataLoader`, whose order is drawn anew; or another iterable
                (also one of an `IterableDataset`), which is read again from its beginning.

        Raises:
            UsageError: no loop has begun, it is used twice in an epoch, the loader is an iterator,
                or it has another number of batches than before.
        """
        return self._loop.batches(loader)

    def checkpoint(self) -> None:
        """Requests a checkpoint at the next safe point: the end of this batch, epoch or step."""
        self._loop.is_requested = True

    def log(self, /, **metrics: Any) -> None:
        """Records metrics of the current epoch or step.

        Args:
            metrics: numbers, tensors or arrays of one element, or mappings of them, which are named
                "outer/inner".

        Raises:
            UsageError: a value is not a number, a name is invalid, one is recorded twice in an epoch
                or step, or no loop has begun.
        """
        self._loop.log(metrics)

    def log_final(self, /, **metrics: Any) -> None:
        """Records scores of the whole run, at its last epoch or step.

        Raises:
            UsageError: a value is not a number, a name is invalid, or no loop was there.
            Interrupted: a signal was received.
        """
        loop, values = self._loop, numbers(metrics)
        if not loop.kind:
            raise UsageError("log_final: use it after the loop")
        loop.end()
        self._run.log(values, step=loop.place.done)

    def log_file(self, path: str | Path, folder: str = "files") -> None:
        """Adds a copy of a file to the run's artifacts.

        Args:
            path: of the file.
            folder: of the artifact; "" for the root.

        Raises:
            UsageError: no such file, or the store would refuse its name.
        """
        keep_file(self._run, Path(path), folder)

    def log_figure(self, figure: Figure, name: str) -> None:
        """Adds a figure to the run's artifacts, in the folder "plots".

        Args:
            figure: of matplotlib.
            name: of the file, such as "samples.png"; its ending is the format.

        Raises:
            UsageError: matplotlib does not know the format, or the store would refuse the name.
        """
        keep_figure(self._run, figure, name)

    def tag(self, name: str, value: object) -> None:
        """Sets a tag of the run.

        Raises:
            UsageError: the store would refuse it, or the name is reserved.
        """
        require_tag(name, str(value))
        self._run.journal.post("tags", tags={name: str(value)})

    def register(
        self,
        module: nn.Module,
        *,
        example: Any,
        name: str | None = None,
        args: Mapping[str, Any] | None = None,
    ) -> None:
        """Registers a module as it is now, so that the run's ID gives it back.

        The model is the state_dict, the source of the module's class and the arguments of its
        constructor as JSON; no pickle. It is built from these, the code of your own class in a new
        process, and its output for the example is compared bit for bit on the CPU. The module itself
        is not changed. The same weights are registered once, however often this is called.

        Args:
            module: of a class at the top of a file, a script or a notebook, or of torch.nn (also
                `nn.Sequential` and other containers of such modules).
            example: an input: a tensor, an array or a frame `[n, ...]`, with which `predict` and
                `mlflow.pyfunc` take the same, with any n; or a tuple of positional or a dict of
                keyword arguments, for `load_model` only.
            name: of the registered model; by default that of `runback.run(register=)`, or the run's.
                "none" logs the model without registering it.
            args: the arguments of the constructor, by name, in values of JSON; by default the
                attributes of the same names, or the constructor's defaults.

        Raises:
            UsageError: no loop has begun.
            ModelError: no module, example or name that can be registered, or arguments are missing.
            RebuildError: the module that was built from the files returns something else.
        """
        loop = self._loop
        if not loop.kind:
            raise UsageError("register: use it in the loop or after it")
        name = self._request.register if name is None else name
        register(self._run, Registration(module, example, args, name, loop.reached))

    @property
    def _entered(self) -> Opened:
        if self._opened is None:
            raise UsageError("the run is not open: use it in a with statement")
        return self._opened

    @property
    def _place(self) -> Place:
        assert self._entered is not None and self._begun is not None
        return self._begun.place

    @property
    def _run(self) -> Run:
        if not self._is_open:
            raise UsageError("the run is not open: use it inside its with block")
        return self._entered.run

    @property
    def _loop(self) -> Loop:
        assert self._run is not None and self._begun is not None
        return self._begun

    def __enter__(self) -> OwnRun:
        if OwnRun._is_any_open:
            raise UsageError("run: another run is open in this process; end its block first")
        with ExitStack() as stack:
            stack.enter_context(saying_how_to_continue())
            opened = open_run(self._request, stack)
            stack.enter_context(active_in_mlflow(opened.run.id))
            self._stack = stack.pop_all()
        self._opened = opened
        self._is_open = OwnRun._is_any_open = True
        self._begun = Loop(
            opened.run, opened.signals, self._request.loop, self._request.description, opened.start
        )
        seen = opened.run.seen()
        say(f"run {self.id}" + (f": see it {seen}" if seen else ""))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        run, loop = self._run, self._loop
        self._is_open = OwnRun._is_any_open = False
        if error is not None:
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:
            if run.is_live:
                loop.end()
                seen = run.seen()
                run.finish()
                if seen:
                    say(f"see it {seen}")
