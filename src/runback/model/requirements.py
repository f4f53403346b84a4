"""The package requirements of a user's source files. Used by the courier; imports no torch."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

from runback.model.imports import imported_modules

# Pinned for every model, or stored with it.
_GIVEN = frozenset({"torch", "numpy", "pandas", "pyarrow", "runback"})


def requirements(folder: Path) -> list[str]:
    """Pins of the packages imported by the source files in a folder, such as "einops==0.8.1"."""
    files = sorted(folder.rglob("*.py"))
    local = {file.relative_to(folder).parts[0].removesuffix(".py") for file in files}
    names = {name.split(".")[0] for file in files for name in imported_modules(file)}
    foreign = names - local - _GIVEN - sys.stdlib_module_names
    if not foreign:
        return []
    owners = importlib.metadata.packages_distributions()
    packages = {owner for name in foreign for owner in owners.get(name, [])}
    return sorted(pin(name) for name in packages)


def pin(package: str) -> str:
    """`package==version` without a local part such as +cpu, which the default index lacks."""
    return f"{package}=={importlib.metadata.version(package).partition('+')[0]}"
