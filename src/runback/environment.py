"""The environment of a run: versions, the processor, the git commit, and the uncommitted diff."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from runback import __version__

GIT_SECONDS = 10.0
_CPUINFO = Path("/proc/cpuinfo")
# A longer patch is truncated, with a note at its end.
MAX_PATCH_BYTES = 5_000_000
TRUNCATED = b"\n[cut off by runback]\n"


def versions() -> dict[str, str]:
    """Versions of Python, torch and runback, and the processor, which affect a run's results."""
    return dict(_versions())


@cache
def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
        "runback": __version__,
        "processor": _processor(),
    }


def conditions() -> dict[str, str]:
    """What the last bits of a training in this process depend on: `versions`, threads, the GPU."""
    import torch  # late: the commands that do not train are faster without it

    has_gpu = torch.cuda.is_initialized()
    return {
        **versions(),
        "threads": str(torch.get_num_threads()),
        "gpu": torch.cuda.get_device_name() if has_gpu else "none",
    }


def _processor() -> str:
    """The processor's model, as far as the system tells it."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor())


def git_commit(folder: Path) -> str | None:
    """The commit checked out in a folder, or None outside a repository."""
    text = _git(folder, "rev-parse", "HEAD")
    return text.strip().decode() if text else None


def write_environment(folder: Path, cwd: Path) -> list[Path]:
    """Writes versions, the installed packages and the uncommitted diff of `cwd` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    written = [
        _write(folder / "versions.json", json.dumps(_facts(cwd), indent=2) + "\n"),
        _write(folder / "packages.txt", "".join(f"{line}\n" for line in _packages())),
    ]
    patch = _git(cwd, "diff", "HEAD", "--no-ext-diff", "--no-color")
    if patch:
        cut = TRUNCATED if len(patch) > MAX_PATCH_BYTES else b""
        (folder / "uncommitted.patch").write_bytes(patch[:MAX_PATCH_BYTES] + cut)
        written.append(folder / "uncommitted.patch")
    return written


def _facts(cwd: Path) -> dict[str, Any]:
    return {
        **versions(),
        "mlflow": importlib.metadata.version("mlflow"),
        "numpy": importlib.metadata.version("numpy"),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "git_commit": git_commit(cwd),
    }


def _packages() -> list[str]:
    packages = {(d.metadata["Name"], d.version) for d in importlib.metadata.distributions()}
    return sorted(f"{name}=={version}" for name, version in packages if name)


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def _git(folder: Path, *arguments: str) -> bytes | None:
    """git's output; None if git or the repository is missing, or git times out."""
    try:
        completed = subprocess.run(
            ["git", "-C", str(folder), *arguments],  # noqa: S607 - the user's own git
            capture_output=True, timeout=GIT_SECONDS, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return completed.stdout
