"""Each benchmark in its quick form: that it runs, and writes its section. Figures are not looked at."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.__main__ import NOT_BENCHMARKS

from conftest import ROOT

# The packages of the extra `bench` that a benchmark needs.
NEEDS = {
    "frameworks": ("transformers", "lightning"),
    "tracked_training": ("skorch", "transformers"),
}
NAMES = sorted({file.stem for file in (ROOT / "benchmarks").glob("*.py")} - NOT_BENCHMARKS)

pytestmark = pytest.mark.chaos


@pytest.mark.parametrize("name", NAMES)
def test_a_quick_benchmark_writes_its_section(name: str, tmp_path: Path) -> None:
    missing = [p for p in NEEDS.get(name, ()) if importlib.util.find_spec(p) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (extra bench)")
    shutil.copytree(ROOT / "benchmarks", tmp_path / "benchmarks")
    (tmp_path / "benchmarks" / "RESULTS.md").write_text("# Results\n")
    for folder in ("src", "data", "examples", "tests"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    paths = os.pathsep.join([str(tmp_path), str(tmp_path / "src")])
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--quick"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    written = (tmp_path / "benchmarks" / "RESULTS.md").read_text()
    assert f"python -m benchmarks.{name} --quick" in written
