"""A virtual environment with all packages of the current one except runback."""

from __future__ import annotations

import os
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest

# The installed uvicorn script would start the Python of the current environment.
UVICORN = "#!{python}\nimport sys\nfrom uvicorn.main import main\nsys.exit(main())\n"


class CleanEnvironment:
    """A virtual environment with one `.pth` file, which names the current site-packages.

    Python reads `.pth` files in its own site-packages only, so an editable install of runback,
    which is such a file, is not found.
    """

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=False, symlinks=True)
        self.bin = folder / "bin"
        self.python = self.bin / "python"
        paths = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
        self._own_site().joinpath("packages.pth").write_text("".join(f"{p}\n" for p in paths))
        script = self.bin / "uvicorn"
        script.write_text(UVICORN.format(python=self.python))
        script.chmod(0o755)

    def env(self, other: dict[str, str]) -> dict[str, str]:
        """The environment variables of its processes: its programs first on PATH, no PYTHONPATH."""
        path = f"{self.bin}{os.pathsep}{other['PATH']}"
        return {k: v for k, v in other.items() if k != "PYTHONPATH"} | {"PATH": path}

    def run(
        self, *arguments: str, cwd: Path, env: dict[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """Runs its Python with arguments, to the end."""
        return subprocess.run(
            [self.python, *arguments], cwd=cwd, env=self.env(env), text=True, capture_output=True,
            timeout=180,
        )  # fmt: skip

    def require_no_runback(self) -> None:
        """Skips the test if runback is installed as a copy, which the `.pth` file makes importable."""
        done = self.run("-c", "import runback", cwd=self.bin, env=dict(os.environ))
        if done.returncode == 0:
            pytest.skip(
                "runback is installed and not editable: it is importable from every environment"
            )
        assert "No module named 'runback'" in done.stderr, done.stderr

    def _own_site(self) -> Path:
        base = str(self.bin.parent)
        return Path(sysconfig.get_path("purelib", vars={"base": base, "platbase": base}))
