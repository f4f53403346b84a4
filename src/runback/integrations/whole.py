"""Whether a file was written to its end, by its structure; no content is loaded or unpickled."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path

LENGTH = struct.calcsize("<Q")
# Of a safetensors file; the largest header that the format allows.
LONGEST_HEADER = 100_000_000
# Formats that are never empty.
NEVER_EMPTY = {".bin", ".ckpt", ".json", ".pt", ".pth", ".safetensors"}


def is_whole(path: Path) -> bool:
    """Whether a file is not cut off: as a zip (of `torch.save`), safetensors or JSON; other files
    count as whole unless they are empty."""
    try:
        with path.open("rb") as file:
            begin = file.read(4)
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".safetensors":
            return _is_whole_safetensors(path)
        elif begin.startswith(b"PK"):
            zipfile.ZipFile(path).close()  # its directory is at the end of the file
        return bool(begin) or path.suffix not in NEVER_EMPTY
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


def _is_whole_safetensors(path: Path) -> bool:
    """A header of the length in its first eight bytes, and tensors up to the end of the file."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(LENGTH).ljust(LENGTH, b"\xff"))
        header = json.loads(file.read(min(length, LONGEST_HEADER)))
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    size: int = LENGTH + length + max(ends, default=0)
    return path.stat().st_size == size
