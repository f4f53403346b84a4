"""`runback export`: writes a run's model to a file in a common format, and checks the file."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor, nn

from runback.columns.tensors import frame_to_tensor
from runback.commands.early import check_export
from runback.commands.load import Loaded, loading
from runback.errors import CheckpointError, ModelError, UsageError, first_line
from runback.model.samples import samples_to_tensor
from runback.model.spec import EXAMPLE_FILE, load_tensors, load_weights
from runback.storage.atomic import sha256_of, write_bytes

ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


Format = Literal["state_dict", "torch", "pt2", "onnx"]


@dataclass(frozen=True)
class ExportResult:
    """An exported file.

    Attributes:
        epoch: of the weights, in epochs completed.
        bytes: the size of the file.
        sha256: of the file, in hexadecimal.
    """

    run_id: str
    epoch: int
    format: Format
    output: str
    bytes: int
    sha256: str

    def as_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return dataclasses.asdict(self)


def export(run: str, format: Format, output: str, trust: bool = False) -> ExportResult:
    """Writes a run's model to a file, and checks the file by running it against the module.

    Args:
        run: RUN in any of its forms.
        format: "state_dict" (the weights), "torch" (the whole module as by `torch.save(model)`, a
            pickle, which runback never loads), "pt2" (an exported program for any number of rows)
            or "onnx" (the same for ONNX Runtime).
        output: the new file.
        trust: as in `load_model`.

    Raises:
        UsageError: an unknown format, an existing file, a missing folder, or missing packages for
            onnx.
        ModelError: the module cannot be exported to that format.
        CheckpointError: the file cannot be written, or its outputs differ from the module's.
        RunNotFoundError, TrackingError, TrustError: as in `load_model`.
    """
    target = check_export(format, output)
    write, check = _exporter(format)
    with loading(run, trust=trust) as loaded:
        x = _example(loaded)
        user_class = loaded.user_class
        importable = user_class.importable() if user_class else nullcontext()
        with importable:
            write_bytes(target, _written(write, loaded.module, x, format))
            try:
                _checked(check, target, loaded.module, x)
            except BaseException:
                target.unlink()
                raise
    size, digest = target.stat().st_size, sha256_of(target)
    return ExportResult(loaded.record.run_id, loaded.epoch, format, str(target), size, digest)


Write = Callable[[nn.Module, Tensor], bytes]
Check = Callable[[Path, nn.Module, Sequence[Tensor]], None]


def _exporter(name: str) -> tuple[Write, Check]:
    if name == "onnx":
        missing = [p for p in ONNX_PACKAGES if importlib.util.find_spec(p) is None]
        if missing:
            raise UsageError(
                f"--format onnx: needs {', '.join(missing)}; install them with: "
                "pip install 'runback[onnx]'"
            )
    return EXPORTERS[name]


def _example(loaded: Loaded) -> Tensor:
    """A few of the run's training rows; at least two, as exporters make a size of 1 constant."""
    text = (loaded.folder / EXAMPLE_FILE).read_text(encoding="utf-8")
    spec, example = loaded.spec, json.loads(text)
    if spec.shape:
        rows = samples_to_tensor(example["data"], spec.shape, spec.torch_dtype)
    else:
        frame = pd.DataFrame(example["data"], columns=example["columns"])
        rows = frame_to_tensor(frame, spec.features, spec.torch_dtype, columns=spec.columns)
    return rows if len(rows) > 1 else _repeated(rows, 2)


def _repeated(rows: Tensor, times: int) -> Tensor:
    """The rows `[n, ...]` several times, one after another."""
    return torch.cat([rows] * times)


def _written(write: Write, module: nn.Module, x: Tensor, name: str) -> bytes:
    try:
        with torch.no_grad(), _quiet():
            return write(module, x)
    except Exception as error:  # an exporter can raise anything about a user's forward
        line = first_line(error)
        raise ModelError(f"--format {name}: the module cannot be exported: {line}") from error


def _checked(check: Check, file: Path, module: nn.Module, x: Tensor) -> None:
    """Runs the file on one row, on the example rows, and on seven times as many."""
    try:
        with torch.no_grad(), _quiet():
            check(file, module, (x[:1], x, _repeated(x, 7)))
    except Exception as error:  # a wrong file can raise anything
        line = first_line(error)
        raise CheckpointError(f"{file}: the written file fails its check: {line}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses the exporters' warnings about deprecations and optional packages."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def _state_dict(module: nn.Module, x: Tensor) -> bytes:
    return _saved(module.state_dict())


def _check_state_dict(file: Path, module: nn.Module, inputs: Sequence[Tensor]) -> None:
    """Loads the file into the module; its outputs must not change."""
    before = [module(x) for x in inputs]
    load_weights(module, load_tensors(file))
    for x, expected in zip(inputs, before, strict=True):
        _same(module(x), expected)


def _torch(module: nn.Module, x: Tensor) -> bytes:
    return _saved(module)


def _check_torch(file: Path, module: nn.Module, inputs: Sequence[Tensor]) -> None:
    """Loads the module with the restricted unpickler, allowing only the classes in the file that
    are already imported.
    """
    names = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    known = [getattr(sys.modules[n.rpartition(".")[0]], n.rpartition(".")[2]) for n in names]
    with torch.serialization.safe_globals(known):
        copy = torch.load(file, weights_only=True)
    for x in inputs:
        _same(copy(x), module(x))


def _pt2(module: nn.Module, x: Tensor) -> bytes:
    rows = torch.export.Dim("rows")
    program = torch.export.export(module, (x,), dynamic_shapes=({0: rows},))
    file = io.BytesIO()
    torch.export.save(program, file)
    return file.getvalue()


def _check_pt2(file: Path, module: nn.Module, inputs: Sequence[Tensor]) -> None:
    program = torch.export.load(file).module()
    for x in inputs:
        _same(program(x), module(x))


def _onnx(module: nn.Module, x: Tensor) -> bytes:
    program = torch.onnx.export(
        module,
        (x,),
        input_names=["features"],
        output_names=["predictions"],
        dynamic_shapes=({0: torch.export.Dim("rows")},),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    content: bytes = program.model_proto.SerializeToString()
    return content


def _check_onnx(file: Path, module: nn.Module, inputs: Sequence[Tensor]) -> None:
    import onnxruntime

    # ONNX Runtime's kernels sum in another order than torch.
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    for x in inputs:
        (found,) = session.run(None, {"features": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), module(x), rtol=1e-4, atol=1e-5)


def _saved(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


EXPORTERS: dict[str, tuple[Write, Check]] = {
    "state_dict": (_state_dict, _check_state_dict),
    "torch": (_torch, _check_torch),
    "pt2": (_pt2, _check_pt2),
    "onnx": (_onnx, _check_onnx),
}
