"""The documentation is correct: its blocks run, it builds without a warning, and it is complete."""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import runback
from conftest import PROGRAMS, ROOT
from pages import PAGES, RUN, SHOWN, as_script, blocks
from runback import cli

SHORT = "docs/coming-from/mlflow.md"
# What a block that is not run must contain: a target of make, a server, a GPU, another library.
REASONS = re.compile(
    r"^make |tracking_uri=http|mlflow (server|models serve)|cuda|pip install|kubectl|sbatch|"
    r"runback ui|git clone",
    re.M | re.I,
)


def name_of(page: Path) -> str:
    """A page's path in the repository."""
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_is_run_shown_or_marked(page: Path) -> None:
    for block in blocks(page):
        assert block.kind in RUN | SHOWN, block
        assert block.mark in ("", "before", "fragment", "not-run"), block
        if block.mark == "not-run":
            assert block.kind in ("sh", "console")
            assert REASONS.search(block.text), block.text


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_python_block_compiles(page: Path) -> None:
    for block in blocks(page):
        if block.kind == "python":
            compile(block.text, name_of(page), "exec")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        assert link.startswith(("http", "mailto:")) or (page.parent / link).exists(), link


def test_the_docs_explain_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"]]
    for extra in project["optional-dependencies"].values():
        wanted += extra
    names = {re.split(r"[<>=\[ ]", item)[0] for item in wanted} - {"runback"}
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    told = {
        name.strip("` ")
        for row in re.findall(r"^\| (`[^|]*`) \| [^|]+ \| [^|]+ \|$", page, re.M)
        for name in row.split(",")
    }
    assert names <= told, names - told


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


def run_blocks(page: Path, checkout: Path) -> None:
    """Runs a page's blocks in order, in a copy of the repository."""
    (checkout / "page.py").write_text(as_script(blocks(page)), encoding="utf-8")
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "RUNBACK_"))}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    env["PYTHONPATH"] = os.pathsep.join((str(PROGRAMS), env.get("PYTHONPATH", "")))
    done = subprocess.run(
        [sys.executable, "page.py"], cwd=checkout, env=env, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_blocks_of_a_short_page_run(checkout: Path) -> None:
    run_blocks(ROOT / SHORT, checkout)


@pytest.mark.parametrize("page", [page for page in PAGES if name_of(page) != SHORT], ids=name_of)
def test_the_blocks_of_each_page_run(page: Path, checkout: Path) -> None:
    run_blocks(page, checkout)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation in HTML, built as `make docs` does; a warning is an error."""
    folder = tmp_path_factory.mktemp("docs")
    strict = ["-W", "--keep-going", "-n", "-q", "-d", str(folder / "doctrees")]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *strict, "docs", str(folder / "html")],
        cwd=ROOT, text=True, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "html"


def text_of(page: Path) -> str:
    """What a reader sees of a built page."""
    return html.unescape(re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")))


def test_the_docs_have_every_command_and_option(built: Path) -> None:
    text = text_of(built / "commands.html") + text_of(built / "options.html")
    shown = set(re.findall(r"--[\w-]+", text))
    parsers = cli.build_parser()._subparsers
    assert parsers is not None
    for command, parser in parsers._group_actions[0].choices.items():  # type: ignore[union-attr]
        assert f"runback {command}" in text
        options = set(re.findall(r"--[\w-]+", parser.format_help())) - {"--help"}
        assert {option.replace("_", "-") for option in options} <= shown, command


def test_the_docs_have_every_public_name(built: Path) -> None:
    page = (built / "api.html").read_text(encoding="utf-8")
    anchors = set(re.findall(r'id="(runback\.[\w.]+)"', page))
    for name in runback.__all__:
        assert {f"runback.{name}", f"runback.errors.{name}"} & anchors, name
