"""Which installed packages a user's source files need. Imports no torch: the courier asks."""

from __future__ import annotations

import ast
import importlib.metadata
import sys
from pathlib import Path

# Pinned for every model, or travelling with it.
_GIVEN = frozenset({"torch", "numpy", "pandas", "pyarrow", "runback"})


def requirements(folder: Path) -> list[str]:
    """Pins of the packages that the source files in a folder import, such as "einops==0.8.1"."""
    files = sorted(folder.rglob("*.py"))
    local = {file.relative_to(folder).parts[0].removesuffix(".py") for file in files}
    names = {name for file in files for name in _imports(file)}
    foreign = names - local - _GIVEN - sys.stdlib_module_names
    if not foreign:
        return []
    owners = importlib.metadata.packages_distributions()
    packages = {owner for name in foreign for owner in owners.get(name, [])}
    return sorted(pin(name) for name in packages)


def pin(package: str) -> str:
    """`package==version`, without local parts such as +cpu, which no index serves to everybody."""
    return f"{package}=={importlib.metadata.version(package).partition('+')[0]}"


def _imports(file: Path) -> set[str]:
    """The first parts of all absolute imports in a file, at whatever depth they stand."""
    found = set()
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found
