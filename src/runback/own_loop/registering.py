"""Registers a module of a user's loop: its weights, its class with the source, and its arguments."""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from runback.errors import ModelError, RebuildError, RunbackError, first_line
from runback.limits import artifact_path_problem, model_name_problem
from runback.model import own_rebuild, rebuild
from runback.model.digests import into_place
from runback.model.own_inputs import DTYPES, Example, example_of
from runback.model.own_rebuild import Computed, computed, in_eval_mode, inputs_of
from runback.model.own_source import reference_of
from runback.model.own_spec import OwnSpec, dtype_of, save_own
from runback.model.spec import EXAMPLE_FILE
from runback.model.structure import is_of_torch, structure_of
from runback.open_run.run import Run
from runback.stateful import cloned
from runback.storage.trust import remember, source_of
from runback.tracking import tags
from runback.user_code import UserClass, copy_sources, import_class, locate

CHOSEN = "registered by its own loop"
NOT_REGISTERED = "none"


@dataclass(frozen=True)
class Registration:
    """What `OwnRun.register` was called with.

    Attributes:
        module: to register.
        example: an input of it.
        args: of its constructor; None to find them.
        name: of the registered model; "none" for a logged model only.
        epoch: of the weights, in epochs or steps completed.
    """

    module: nn.Module
    example: Any
    args: Mapping[str, Any] | None
    name: str
    epoch: int


def register(run: Run, given: Registration) -> None:
    """Writes the model folder, checks it and adds it to the outbox; the courier registers it.

    Raises:
        ModelError: a module, an example, a name or arguments that cannot be registered.
        RebuildError: the module built from the folder is not the user's; nothing is registered.
    """
    with _naming_the_method(), tempfile.TemporaryDirectory(prefix="runback-") as temporary:
        module = _checked(given)
        example = example_of(given.example, _weights_dtype(module))
        structure = structure_of(module, given.args)
        own = _class_of(module, Path(temporary))
        expected = _expected(module, example)
        dtype, outputs = dtype_of(module), _row_of(expected, example)
        spec = OwnSpec(structure, own.code.reference if own else "", dtype, example.inputs, outputs)
        folder, sha256 = _written(run, module, spec, example, own)
        _require_rebuilt(folder, expected, example, own)
        if own is not None and own.files:
            remember(source_of(own.code.root, own.files), "trained")
            _post_source(run, own)
    _post(run, given, sha256)


@contextmanager
def _naming_the_method() -> Iterator[None]:
    """Names the method in errors about modules, which elsewhere are about an option."""
    try:
        yield
    except ModelError as error:
        raise ModelError(f"register: {str(error).removeprefix('option model: ')}") from error


def _checked(given: Registration) -> nn.Module:
    """The module; of one that was compiled, the original.

    Raises:
        ModelError: it is no module, has no parameters, or the registered name is invalid.
    """
    if given.name != NOT_REGISTERED and (problem := model_name_problem(given.name)):
        raise ModelError(f"name {given.name!a} {problem}; give another: name=...")
    module = getattr(given.module, "_orig_mod", given.module)
    if not isinstance(module, nn.Module):
        raise ModelError(f"a {type(module).__name__} is no torch.nn.Module")
    if next(module.parameters(), None) is None:
        raise ModelError(f"{type(module).__name__} has no parameters")
    return module


def _weights_dtype(module: nn.Module) -> torch.dtype:
    found = (p.dtype for p in module.parameters() if p.is_floating_point())
    return next(found, torch.float32)


def _class_of(module: nn.Module, folder: Path) -> UserClass | None:
    """The class of a module with its source, imported anew; None for one of torch.nn."""
    cls = type(module)
    if is_of_torch(cls):
        return None
    reference = reference_of(cls, "model", folder)
    file = Path(reference.rpartition(":")[0])
    is_written = not file.is_absolute() and (folder / file).is_file()
    return import_class(locate(f"{folder}/{reference}" if is_written else reference))


def _expected(module: nn.Module, example: Example) -> Computed:
    """What the module returns for the example on the CPU, where it is rebuilt; it is not changed."""
    places = {value.device.type for value in (*module.parameters(), *module.buffers())}
    if places != {"cpu"}:
        try:
            module = copy.deepcopy(module).cpu()
        except Exception as error:  # a user's attribute can raise anything
            raise ModelError(
                f"the module cannot be copied to the CPU: {first_line(error)}"
            ) from error
    try:
        with in_eval_mode(module):
            return computed(module, inputs_of(example))
    except RebuildError as error:
        raise ModelError(str(error)) from error


def _row_of(computed: Computed, example: Example) -> tuple[int, ...] | None:
    """The shape of an output's row; None if the module does not return a row for each row."""
    output = computed.outputs.get("")
    if example.inputs.kind == "several" or output is None or not output.dim():
        return None
    is_rows = len(output) == len(example.args[0])
    return tuple(output.shape[1:]) if is_rows and output.dtype in DTYPES.values() else None


def _written(
    run: Run, module: nn.Module, spec: OwnSpec, example: Example, own: UserClass | None
) -> tuple[Path, str]:
    """Writes the model folder; returns it with the SHA-256 of its digests.

    One with the same weights is used again, also if its example is another.
    """
    root = run.folder.model
    shutil.rmtree(root / "new", ignore_errors=True)
    weights = {name: _on_cpu(value) for name, value in cloned(module.state_dict()).items()}
    sha256 = save_own(root / "new", spec, weights, example, own)
    return into_place(root, sha256, ignored=EXAMPLE_FILE)


def _on_cpu(value: Any) -> Any:
    return value.cpu() if isinstance(value, Tensor) else value


def _require_rebuilt(
    folder: Path, expected: Computed, example: Example, own: UserClass | None
) -> None:
    """Builds the module from its files, the user's code in a process of its own, and compares.

    Raises:
        RebuildError: it cannot be built, or returns something else.
    """
    inputs = inputs_of(example)
    try:
        if own is None:
            found = own_rebuild.rebuilt(folder, inputs)
        else:
            process = rebuild.start("own_rebuild")
            try:
                found = Computed(**rebuild.ask(process, folder, inputs))
            finally:
                rebuild.end(process)
    except RunbackError as error:
        raise RebuildError(
            f"register: the module cannot be rebuilt from its class, and nothing was registered: "
            f"{error}; if its constructor was called with other arguments, give them as args={{...}}"
        ) from error
    own_rebuild.require_equal(expected, found)


def _post_source(run: Run, own: UserClass) -> None:
    """Adds the code of the user's class to the run's artifacts, in `source/`."""
    copy_sources([own], run.folder.source)
    for file in own.files:
        kept = run.folder.source / file.relative_to(own.code.root)
        path = kept.relative_to(run.folder.path).as_posix()
        if problem := artifact_path_problem(path):
            raise ModelError(f"{path!a} cannot be stored with the run: it {problem}")
        run.post_file(kept, kept.parent.relative_to(run.folder.path).as_posix())


def _post(run: Run, given: Registration, sha256: str) -> None:
    run.journal.flush()
    points = run.journal.points_at(given.epoch)
    name = type(given.module).__name__
    run.journal.post(
        "model",
        register=given.name,
        model_type=None,
        epoch=given.epoch,
        sha256=sha256,
        description=f"{name} of run {run.id}, registered by its loop at {given.epoch}",
        tags={tags.EPOCH: str(given.epoch), tags.CHOSEN: CHOSEN},
        metrics=[[p.key, p.value, p.timestamp, p.step] for p in points],
    )
