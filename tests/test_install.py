"""`make train` on a new machine: which Python is taken and what is said; the wheel of `make build`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from clean_env import CleanEnvironment
from conftest import DATA, ROOT, Workspace
from runback.config import EXAMPLE_DATA
from runback.data.files import PACKAGED_EXAMPLE
from tracking_parts import recorded

SCRIPT = ROOT / "tools" / "install.sh"
# Stands for an interpreter, whose downloads would take minutes: it writes down what it is asked for.
PYTHON = """#!/bin/sh
case "$1" in
    -c) exit {supported} ;;
    --version) echo "Python {version}" ;;
    -m) echo "{version} $*" >>"$LOG"
        if [ "$2" = venv ]; then mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; fi ;;
esac
"""
UV = """#!/bin/sh
echo "uv $*" >>"$LOG"
for last; do :; done
if [ "$1" = venv ]; then mkdir -p "$last/bin" && cp "{python}" "$last/bin/python"; fi
"""

COMPILE = """
import pathlib, sys
for file in pathlib.Path(sys.argv[1]).rglob("*.py"):
    compile(file.read_bytes(), file, "exec", dont_inherit=True)
"""


def executable(file: Path, text: str) -> Path:
    file.write_text(text)
    file.chmod(0o755)
    return file


def interpreter(folder: Path, name: str, *, supported: bool = True) -> Path:
    version = name.removeprefix("python") + ".1"
    return executable(folder / name, PYTHON.format(supported=int(not supported), version=version))


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder of programs, the only one on PATH."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name in ("sh", "mkdir", "cp", "date"):
        (folder / name).symlink_to(str(shutil.which(name)))
    return folder


def install(
    programs: Path, *arguments: str, **env: str
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Runs the script; returns how it ended, and the requests to the interpreters."""
    log = programs.parent / "log"
    log.write_text("")
    done = subprocess.run(
        ["/bin/sh", SCRIPT, *arguments],
        env={"PATH": str(programs), "LOG": str(log), **env}, cwd=programs.parent,
        capture_output=True, text=True,
    )  # fmt: skip
    return done, log.read_text().splitlines()


def test_the_first_supported_python_is_taken(programs: Path) -> None:
    interpreter(programs, "python3.11", supported=False)
    for name in ("python3.12", "python3.13", "python3"):
        interpreter(programs, name)
    done, asked = install(programs, "env")
    assert done.returncode == 0, done.stderr
    options = "--disable-pip-version-check --no-compile --constraint constraints.txt"
    pip = f"3.12.1 -m pip install {options}"
    compiled = "3.12.1 -m compileall -qq -j 0 -x /tests?/ env/lib src"
    assert asked == ["3.12.1 -m venv env", f"{pip} --editable .", compiled]
    lines = done.stderr.splitlines()
    assert lines[0] == "runback: creating env with Python 3.12.1"
    assert lines[1].startswith("runback: installing runback into env: some minutes, and a download")
    assert re.fullmatch(r"runback: installed in \d+ s", lines[2])
    again, asked = install(programs, "env", "dev", PYTHON="")
    assert again.returncode == 0 and asked == [f"{pip} --editable .[dev]", compiled]


def test_no_supported_python_is_one_sentence(programs: Path) -> None:
    other = interpreter(programs, "python3", supported=False)
    for env, named in (
        ({}, "none of python3.11 python3.12 "),
        ({"PYTHON": str(other)}, f"{other} is not;"),
    ):
        done, asked = install(programs, "env", **env)
        assert (done.returncode, asked, done.stdout) == (1, [], "")
        assert done.stderr.startswith("runback: Python 3.11 to 3.14 is needed, and ")
        assert named in done.stderr and done.stderr.count("\n") == 1


def test_uv_is_used_where_it_is_installed(programs: Path) -> None:
    python = interpreter(programs, "python3.13")
    executable(programs / "uv", UV.format(python=python))
    done, asked = install(programs, "env", "dev")
    assert done.returncode == 0, done.stderr
    assert asked == [
        "uv venv --quiet --seed --python python3.13 env",
        "uv pip install --python env/bin/python --constraint constraints.txt --editable .[dev]",
        "3.13.1 -m compileall -qq -j 0 -x /tests?/ env/lib src",
    ]


@pytest.mark.parametrize("name", ["python3.11", "python3.12", "python3.13", "python3.14"])
def test_each_supported_python_compiles_the_source(name: str) -> None:
    """All that can be tried without packages for it."""
    version = ["-c", "import sys; print(*sys.version_info[:2], sep='.')"]
    found = [name, *map(str, Path.home().glob(f".pyenv/versions/{name[6:]}.*/bin/python"))]
    for python in found:
        try:
            ready = subprocess.run([python, *version], capture_output=True, text=True)
        except OSError:
            continue
        if ready.stdout.strip() == name[6:]:
            break
    else:
        pytest.skip(f"there is no {name}")
    options = ["-W", "error", "-c", COMPILE, str(ROOT / "src")]
    done = subprocess.run([python, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_copy_of_the_example_is_its_table() -> None:
    assert PACKAGED_EXAMPLE.read_bytes() == (DATA / "non_linear.csv").read_bytes()


def test_the_example_is_trained_in_an_empty_folder(workspace: Workspace) -> None:
    done = workspace.runback("train", "--epochs", "3")
    assert done.returncode == 0, done.stderr
    first = done.stderr.splitlines()[0]
    assert first == (
        f"runback: {EXAMPLE_DATA}: is not in this folder; the copy that comes with runback is used"
    )
    assert not (workspace.folder / "data").exists()
    assert workspace.runback("evaluate", done.stdout.strip()).returncode == 0
    other = workspace.runback("train", "--data", "data/other.csv")
    assert (other.returncode, other.stderr) == (2, "runback: data/other.csv: no such file\n")


def test_the_wheel_trains_in_an_empty_folder(workspace: Workspace, tmp_path: Path) -> None:
    """Built as by `make build`, and installed where runback is not."""
    source, place = tmp_path / "source", tmp_path / "place"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("*.egg-info"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    options = ["--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path)]
    subprocess.run([*pip, "wheel", *options, str(source)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("runback-*.whl")
    environment = CleanEnvironment(place)
    environment.require_no_runback()
    options = ["-m", "pip", "install", "--no-index", "--no-deps", "--quiet", str(wheel)]
    installed = environment.run(*options, cwd=tmp_path, env=dict(os.environ))
    assert installed.returncode == 0, installed.stderr
    empty = tmp_path / "empty"
    empty.mkdir()
    done = subprocess.run(
        [place / "bin" / "runback", "train", "--epochs", "2"],
        cwd=empty, env=environment.env(workspace.env), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    path = recorded(workspace.client, done.stdout.strip())["data_path"]
    assert path.startswith(str(place)) and path.endswith("/runback/data/non_linear.csv")
