"""Checks that a model folder gives the trained module back.

The model is built from its files, on the CPU, as every reader of the registry does. User-defined
code is run in a process of its own, which holds nothing of the trained module. The process is
started before the training, as importing torch takes longer than the end of a training.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from runback.errors import DivergedError, RebuildError, RunbackError, first_line
from runback.model.batched_forward import predict_rows
from runback.model.hidden_state import changed_names, fingerprints, listed
from runback.model.spec import BuiltModel, load_built, load_tensors
from runback.seeding import seed_generators
from runback.user_code import pass_interruptions, refusing_exits


@dataclass(frozen=True)
class Predicted:
    """The output of a module `[n, ...]`, and the `fingerprints` of its attributes."""

    output: Tensor
    attributes: dict[str, str]


class Rebuilder:
    """Rebuilds the model of a training at its end; as a context manager it ends its process.

    Args:
        built: of the training; the process is started if its class is the user's own.
    """

    def __init__(self, built: BuiltModel) -> None:
        self._module = built.module
        is_own = built.user_class is not None and bool(built.user_class.files)
        self._process = start() if is_own else None

    def require_equal(self, folder: Path, features: Tensor) -> None:
        """Compares the predictions of the trained module and of the rebuilt one, bit for bit.

        The trained module is moved to the CPU. Both draw the same random numbers in forward.

        Args:
            folder: a model folder with the trained module's weights.
            features: `[n, n_features]` on the CPU.

        Raises:
            RebuildError: the model cannot be built or computed from its files, or predicts
                something else; the attributes that are not in the state_dict are named.
            DivergedError: a prediction is not finite.
        """
        try:
            expected = _predicted(self._module.cpu(), features)
        except RebuildError as error:
            raise RebuildError(f"the trained module cannot be used on the CPU: {error}") from None
        try:
            found = self._rebuilt(folder, features)
        except RunbackError as error:
            raise RebuildError(f"the model cannot be rebuilt from its files: {error}") from None
        _require_equal(expected, found)
        _require_finite(expected.output)

    def _rebuilt(self, folder: Path, features: Tensor) -> Predicted:
        if self._process is None:
            return rebuilt(folder, features)
        if self._process.poll() is not None:  # it was killed during the training
            self._end()
            self._process = start()
        return Predicted(**ask(self._process, folder, features))

    def __enter__(self) -> Rebuilder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        if self._process is not None:
            end(self._process)


def rebuilt(folder: Path, features: Tensor) -> Predicted:
    """The predictions of a model folder; what its `__init__` draws from generators is new.

    Raises:
        ModelError, CheckpointError, RebuildError: the model cannot be loaded or computed.
    """
    new_generators()
    return _predicted(load_built(folder, what="model").module, features)


def new_generators() -> None:
    """Seeds the generators with new numbers: users' modules draw from the global ones."""
    random.seed()
    np.random.seed()
    torch.seed()


def _require_equal(expected: Predicted, found: Predicted) -> None:
    for row in differing_rows(expected.output, found.output)[:1]:
        here, there = _shown(expected.output[row]), _shown(found.output[row])
        raise RebuildError(
            "the model rebuilt from its files does not predict what the trained module does "
            f"(checked row {row + 1}: {there} instead of {here}), so nothing was registered; "
            f"{advice(expected.attributes, found.attributes)}"
        )


def _require_finite(output: Tensor) -> None:
    finite = output.isfinite().flatten(1).all(dim=1)
    for row in torch.nonzero(~finite).flatten().tolist()[:1]:
        raise DivergedError(
            f"the model predicts {_shown(output[row])} for checked row {row + 1}, so "
            "nothing was registered; try a smaller lr, or scale the columns"
        )


def differing_rows(one: Tensor, other: Tensor) -> list[int]:
    """The rows of two outputs `[n, ...]` that are not equal bit for bit; NaN equals NaN."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return [0]
    whole = torch.int64 if one.dtype == torch.float64 else torch.int32
    equal = (one.view(whole) == other.view(whole)) | (one.isnan() & other.isnan())
    return torch.nonzero(~equal.flatten(1).all(dim=1)).flatten().tolist()


def advice(one: dict[str, str], other: dict[str, str]) -> str:
    """What is different in two modules with the same state_dict, from their `fingerprints`."""
    names = changed_names(one, other)
    if not names:
        return (
            "what forward computes with must be a parameter, a buffer that is in the state_dict, or "
            "an argument in model_args"
        )
    return (
        f"{listed(names)} differs and is not in the state_dict: register it as a buffer "
        "(register_buffer), or compute it from model_args"
    )


def _predicted(module: nn.Module, features: Tensor) -> Predicted:
    """The output in eval mode, with seeded generators.

    Raises:
        RebuildError: forward fails.
    """
    seed_generators(0, 0, torch.device("cpu"))
    try:
        return Predicted(predict_rows(module, features), fingerprints(module))
    except BaseException as error:  # a user's forward can raise anything
        pass_interruptions(error)
        raise RebuildError(f"forward fails: {first_line(error)}") from error


def _shown(row: Tensor) -> str:
    numbers = row.flatten()
    shown = ", ".join(f"{value:.9g}" for value in numbers[:3].tolist())
    return shown + (", ..." if len(numbers) > 3 else "")


def start(module: str = "rebuild") -> subprocess.Popen[str]:
    """Starts the process in a new session, so that Ctrl-C in the terminal does not reach it.

    With -P its `sys.path` does not begin with the working directory, where the user's files are.

    Args:
        module: of `runback.model`, whose `main` answers the task.
    """
    here = str(Path(__file__).resolve().parents[2])
    code = f"import sys; sys.path.append({here!r}); from runback.model import {module}; {module}.main()"
    return subprocess.Popen(
        [sys.executable, "-P", "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # what user code prints, it has printed in the training
        text=True,
        start_new_session=True,
    )


def ask(process: subprocess.Popen[str], folder: Path, inputs: Any) -> dict[str, Any]:
    """The fields of what a process from `start` has computed with a model folder.

    Args:
        process: which ends with its answer.
        folder: a model folder.
        inputs: tensors, also in dicts and lists, on the CPU.

    Raises:
        RebuildError: the process has ended without an answer, or the model cannot be used.
    """
    with tempfile.TemporaryDirectory(prefix="runback-") as temporary:
        torch.save(inputs, Path(temporary) / "features.pt")
        task = {"folder": str(folder.absolute()), "files": temporary}
        text = json.dumps({**task, "threads": torch.get_num_threads()})
        answer, _ = process.communicate(text)
        if process.returncode:
            raise RebuildError(f"its process has ended with code {process.returncode}")
        if answer:
            raise RebuildError(answer)
        found: dict[str, Any] = load_tensors(Path(temporary) / "predicted.pt")
        return found


def end(process: subprocess.Popen[str]) -> None:
    """Ends a process from `start`."""
    with process:  # closes its pipes and waits for it
        process.kill()


def main() -> None:
    """The process of a training's model."""
    answer_task(rebuilt)


def answer_task(compute: Callable[[Path, Any], Any]) -> None:
    """Reads one task as JSON from standard input; writes an error, if any, to standard output."""
    answer = os.dup(1)
    os.dup2(2, 1)  # what user code prints
    text = sys.stdin.read()
    if not text:  # the training has ended without a model
        return
    task = json.loads(text)
    files = Path(task["files"])
    os.chdir(files)
    torch.set_num_threads(task["threads"])
    inputs = load_tensors(files / "features.pt")
    try:
        with refusing_exits("the model"):
            torch.save(vars(compute(Path(task["folder"]), inputs)), files / "predicted.pt")
    except RunbackError as error:
        os.write(answer, str(error).encode())
    os._exit(0)  # the interpreter's end takes half a second, for which the training would wait
