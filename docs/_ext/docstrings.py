"""Docstrings as this project writes them: an indented block behind a paragraph is code.

reStructuredText would need `::` before it, which is noise for who reads the source.
"""

from __future__ import annotations

import re

from sphinx.application import Sphinx

_SECTION = re.compile(r"(Args|Attributes|Returns|Raises|Yields):$")


def with_code_blocks(lines: list[str]) -> list[str]:
    """The lines with `::` before each indented block that follows an empty line."""
    found: list[str] = []
    above = ""
    for line in lines:
        starts = line.startswith("    ") and found[-1:] == [""] and not above.startswith(" ")
        if starts and not _SECTION.match(above):
            found += ["::", ""]
        found.append(line)
        above = line or above
    return found


def process(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Changes a docstring in place, before napoleon reads its sections."""
    lines[:] = with_code_blocks(lines)


def setup(app: Sphinx) -> dict[str, bool]:
    """Connects the change to autodoc."""
    app.connect("autodoc-process-docstring", process, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
