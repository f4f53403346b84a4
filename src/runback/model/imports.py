"""The imports of Python source files, by static analysis. Used by the courier; imports no torch."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path


def imported_modules(file: Path) -> set[str]:
    """The absolute names that a file imports; `from a import b` gives `a` and `a.b`."""
    names: set[str] = set()
    for node in _executed(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def _executed(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes except those under `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            yield from (inner for part in node.orelse for inner in (part, *_executed(part)))
        else:
            yield node
            yield from _executed(node)
