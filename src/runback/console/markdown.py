"""Text in Markdown, as MLflow's UI shows it."""

from __future__ import annotations

from collections.abc import Sequence


def code(text: str) -> str:
    """A text in which no character has a meaning in Markdown."""
    return f"`{' '.join(text.replace('`', chr(39)).split())}`"


def code_block(lines: Sequence[str]) -> str:
    """Lines of code, such as commands."""
    return "\n".join(("```", *lines, "```"))


def paragraphs(*parts: str) -> str:
    """The parts that are not empty, as paragraphs."""
    return "\n\n".join(part for part in parts if part)
