"""The README is correct: its blocks run, and its tables match the code."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT
from runback.config import FIELDS, TrainConfig, render

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```\n(<!-- not run by the README's own test)?", re.M | re.S)


def test_the_readme_lists_every_option_and_default() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", README, re.M))
    defaults = {name: render(getattr(TrainConfig(), name)) for name in FIELDS}
    assert {name: rows.get(name) for name in FIELDS} == {
        name: f"`{text}`" if text else "" for name, text in defaults.items()
    }


def test_the_readme_explains_every_dependency() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = list(project["dependencies"])
    for extra in project["optional-dependencies"].values():
        wanted += extra
    names = {re.split(r"[<>=\[ ]", item)[0] for item in wanted} - {"runback"}
    told = {
        name.strip("` ")
        for row in re.findall(r"^\| (`[^|]*`) \| [^|]+ \| [^|]+ \|$", README, re.M)
        for name in row.split(",")
    }
    assert names <= told, names - told


def test_the_readme_lists_every_command() -> None:
    text = subprocess.run(
        [sys.executable, "-m", "runback", "--help"], text=True, capture_output=True, check=True
    ).stdout
    commands = re.findall(r"^    (\w+) ", text, re.M)
    assert "train" in commands
    for command in commands:
        assert f"| `{command}" in README


def test_every_readme_block_is_run_or_marked() -> None:
    assert {kind for kind, _, _ in BLOCK.findall(README)} <= {"sh", "python", "text"}
    for kind, text, skipped in BLOCK.findall(README):
        if skipped:
            assert kind == "sh"
            assert re.search(r"^make |tracking_uri=http|--device cuda", text, re.M | re.I), text


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the repository's files, as in a fresh clone."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, text=True, capture_output=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    for name in listed:
        if (ROOT / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, tmp_path / name)
    return tmp_path


def test_the_readme_blocks_run_in_order(checkout: Path) -> None:
    script = ["set -euo pipefail"]
    for kind, text, skipped in BLOCK.findall(README):
        if kind == "sh" and not skipped:
            script.append(text)
        elif kind == "python":
            script.append(f"python - <<'END_OF_BLOCK'\n{text}END_OF_BLOCK\n")
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "RUNBACK_"))}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)], cwd=checkout, env=env, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
