"""A second environment: a virtual environment with all of this one's packages, but not runback."""

from __future__ import annotations

import os
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest

# What its console script does; the one of this environment would start this environment's Python.
UVICORN = "#!{python}\nimport sys\nfrom uvicorn.main import main\nsys.exit(main())\n"


class SecondEnvironment:
    """A virtual environment in a folder, whose one `.pth` file names our site-packages.

    Python reads `.pth` files in its own site-packages only, so that an editable install, which is
    one, does not come along.
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
        """An environment for its processes: its programs first, and no source folder of ours."""
        path = f"{self.bin}{os.pathsep}{other['PATH']}"
        return {k: v for k, v in other.items() if k != "PYTHONPATH"} | {"PATH": path}

    def run(self, script: str, cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
        """Runs a script in its Python, to the end."""
        return subprocess.run(
            [self.python, "-c", script], cwd=cwd, env=self.env(env), text=True, capture_output=True,
            timeout=180,
        )  # fmt: skip

    def require_no_runback(self) -> None:
        """Skips the test where runback was installed as a copy, which comes with the packages."""
        done = self.run("import runback", self.bin, dict(os.environ))
        if done.returncode == 0:
            pytest.skip("runback is installed, and not as editable: no environment is without it")
        assert "No module named 'runback'" in done.stderr, done.stderr

    def _own_site(self) -> Path:
        base = str(self.bin.parent)
        return Path(sysconfig.get_path("purelib", vars={"base": base, "platbase": base}))
