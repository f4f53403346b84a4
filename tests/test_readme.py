"""The README is short, and names what its reader needs first."""

from __future__ import annotations

from conftest import ROOT
from pages import README, blocks

TEXT = README.read_text(encoding="utf-8")


def test_the_readme_is_short() -> None:
    assert len(TEXT.splitlines()) <= 130


def test_the_readme_names_the_command_that_ci_runs() -> None:
    last = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()[-1]
    assert last == "make test"
    assert any(line.startswith(f"{last} ") for line in blocks(README)[0].text.splitlines())


def test_the_readme_leads_to_every_page() -> None:
    pages = {page.relative_to(ROOT / "docs") for page in (ROOT / "docs").rglob("*.md")}
    included = {
        "index.md",
        "security.md",
        "contributing.md",
    }  # two of them include files of the root
    for page in pages:
        assert f"](docs/{page})" in TEXT or str(page) in included, page
