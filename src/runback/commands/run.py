"""`runback.run`: an open run for a training loop of the user's own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from runback.commands.launch import launch_id, run_to_continue
from runback.errors import UsageError
from runback.limits import model_name_problem
from runback.open_run.checkpoints import Checkpointing
from runback.open_run.keys import key_of
from runback.own_loop.leaving import end_with_sentence
from runback.own_loop.loop import Settings
from runback.own_loop.opening import Request
from runback.own_loop.own_run import OwnRun
from runback.own_loop.values import params_of, require_name
from runback.storage.scripts import this_start
from runback.tracking import tags
from runback.tracking.messages import RunDescription


def run(
    name: str,
    *,
    params: Mapping[str, Any] | None = None,
    experiment: str = "",
    register: str = "",
    key: str | None = None,
    resume: str = "",
    fork: str = "",
    at: int | None = None,
    environment: Sequence[str] = (),
    checkpoint_every: int = 1,
    checkpoint_minutes: float = 5,
    keep_checkpoints: int = 3,
    seed: int | None = 0,
) -> OwnRun:
    """An open run for a loop of your own, as a context manager.

        with runback.run("gan", params={"lr": 2e-4}, key="gan-1") as run:
            run.keep(generator=g, discriminator=d, g_optimizer=go, d_optimizer=do)
            for epoch in run.epochs(100):
                for x, y in run.batches(loader):
                    ...
                run.log(g_cost=..., d_cost=...)
            run.log_final(test_fid=...)
            run.register(g, example=z[:1])

    A run that was killed is continued by the same script, found by its key, `resume` or
    MLFLOW_RUN_ID: from the newest checkpoint, bit-identical to an uninterrupted one. SIGINT and
    SIGTERM end it as KILLED: at the end of the batch if `OwnRun.batches` is used, else at once. An
    exception ends it as FAILED. An error of ours that nothing catches ends a script with one
    sentence and the exit code of the command line.

    Args:
        name: of a new run.
        params: recorded with a new run; a resumed one must have the same.
        experiment: of the run, created if missing; by default the one of the environment.
        register: the default name of the models that `OwnRun.register` registers; by default `name`.
        key: the newest unfinished run with this key in the experiment is resumed, and a new run gets
            it; by default RUNBACK_KEY.
        resume: ID of the run to resume; by default RUNBACK_RUN_ID, else MLFLOW_RUN_ID.
        fork: RUN, of a loop of your own, from which a new run is forked: what is kept, the state and
            the place are those of its checkpoint, and params may differ. The new run is in its
            experiment, unless another is given.
        at: completed epochs (or steps) of that checkpoint; by default the newest one.
        environment: names of environment variables whose present values `runback resume` gives to the
            script again. They are kept on this machine only.
        checkpoint_every: epochs (or steps) between checkpoints.
        checkpoint_minutes: a safe point after so many minutes writes a checkpoint, too; 0 for never.
        keep_checkpoints: checkpoints between epochs to keep, at least 2; 0 for all.
        seed: of the generators and of the order of batches. None leaves the generators alone: each
            checkpoint has their states.

    Raises:
        UsageError: a value is invalid, or the params differ from those of the run.
        RunHeldError: another process holds the run, or its key.
        TrackingError: the tracking server is unreachable.
        Interrupted: SIGINT or SIGTERM.
    """
    end_with_sentence()
    texts, key = {**params_of(params or {}), "seed": str(seed)}, key_of(key)
    if at is not None and not fork:
        raise UsageError("run: at is the place of a fork; give the other run as fork")
    _require_cadence(checkpoint_every, checkpoint_minutes, keep_checkpoints)
    digest = hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()
    marks = {tags.RUN_NAME: require_name(name), **({tags.KEY: key} if key else {})}
    return OwnRun(
        Request(
            description=RunDescription(params=texts, tags=marks),
            run_id=resume or run_to_continue() or launch_id(),
            key=key,
            experiment=experiment,
            fork=fork,
            at=at,
            script=this_start(_names(environment)),
            register=_registered_name(register, name),
            checkpointing=Checkpointing(digest, keep_checkpoints),
            loop=Settings(checkpoint_every, checkpoint_minutes, seed),
        )
    )


def _names(environment: Sequence[str]) -> Sequence[str]:
    """The names of environment variables.

    Raises:
        UsageError: it is one text instead of a list.
    """
    if isinstance(environment, str):
        raise UsageError(f"run: environment is {environment!r}; give a list of names")
    return environment


def _registered_name(register: str, name: str) -> str:
    """The default name of registered models; that of the run is checked when it is used.

    Raises:
        UsageError: the registry would refuse the name that was given.
    """
    if register and (problem := model_name_problem(register)):
        raise UsageError(f"run: register {register!a} {problem}")
    return register or name


def _require_cadence(every: int, minutes: float, keep: int) -> None:
    """Checks when checkpoints are written, and how many are kept.

    Raises:
        UsageError: a value is out of its range; it is named.
    """
    for name, value, is_valid, range_ in (
        ("checkpoint_every", every, every >= 1, "at least 1"),
        ("checkpoint_minutes", minutes, minutes >= 0, "at least 0"),
        ("keep_checkpoints", keep, keep == 0 or keep >= 2, "0 or at least 2"),
    ):
        if not is_valid:
            raise UsageError(f"run: {name} is {value}; it must be {range_}")
