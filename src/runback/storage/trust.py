"""The source code that this user has trained with or trusted on this machine.

Importing a user-defined class runs its files, so files that a run or a tag names are imported only if
their digest is known here. Each known source is one file, named by its digest, in the user's state
folder, whatever RUNBACK_HOME is: separate files need no lock, which home directories on a network
may not have.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runback.console.progress import say
from runback.decoding import decode
from runback.errors import CheckpointError, ConfigError, TrustError
from runback.storage.atomic import sha256_of, write_bytes
from runback.storage.paths import state_folder

TRUST_VARIABLE = "RUNBACK_TRUST"
_TRUE, _FALSE = ("1", "true"), ("", "0", "false")
_SHOWN_FILES = 5


@dataclass(frozen=True)
class Source:
    """The files of user-defined code.

    Attributes:
        files: SHA-256 of each file, by its path relative to the folder it is imported from.
        reference: `module:Class` for a dataset, whose class is created as soon as it is imported;
            empty for the source of a model.
    """

    files: dict[str, str]
    reference: str = ""

    @property
    def digest(self) -> str:
        """SHA-256 over the reference, the paths and the contents, in hexadecimal."""
        text = json.dumps([self.reference, sorted(self.files.items())])
        return hashlib.sha256(text.encode()).hexdigest()

    def describe(self) -> str:
        """The files and the digest, for messages."""
        shown = [ascii(name)[1:-1][:80] for name in sorted(self.files)[:_SHOWN_FILES]]
        more = len(self.files) - len(shown)
        return f"{', '.join(shown)}{f' and {more} more' if more else ''}; SHA-256 {self.digest}"

    def is_in(self, root: Path) -> bool:
        """Whether the same files, with the same contents, are below another folder."""
        try:
            return all(sha256_of(root / name) == digest for name, digest in self.files.items())
        except OSError:
            return False


def source_of(root: Path, files: Iterable[Path], reference: str = "") -> Source:
    """The source with the given files, which are below `root`."""
    return source_with({f.relative_to(root).as_posix(): f for f in files}, reference)


def source_with(files: Mapping[str, Path], reference: str = "") -> Source:
    """The source with the given files, by their paths in the source."""
    return Source({name: sha256_of(file) for name, file in files.items()}, reference)


def source_in(folder: Path) -> Source:
    """The source with all files below a folder, also those that are not Python.

    Raises:
        TrustError: the folder contains a link, which could lead to files that are not covered.
    """
    entries = sorted(folder.rglob("*"))
    for entry in (folder, *entries):
        if entry.is_symlink():
            raise TrustError(f"{entry}: stored source must not contain links")
    return source_of(folder, (entry for entry in entries if entry.is_file()))


def is_known(source: Source) -> bool:
    """Whether this user has trained with a source or trusted it, on this machine."""
    folder = _folder()
    return folder is not None and _read(folder / f"{source.digest}.json") == source


def known_in(root: Path, reference: str) -> bool:
    """Whether the files below `root` are those of a known source with this reference.

    The file of a dataset is not stored with a run, and which files it imports is not known before
    the import; so the recorded files are compared with those below `root`.
    """
    return any(s.reference == reference and s.is_in(root) for s in _all_known())


def remember(source: Source, how: str) -> None:
    """Records a source as `trained` or `trusted`; a failure is a warning."""
    folder = _folder()
    content = {"how": how, **dataclasses.asdict(source)}
    try:
        if folder is None:
            raise OSError("there is no home directory")
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        text = json.dumps(content, indent=2, sort_keys=True) + "\n"
        write_bytes(folder / f"{source.digest}.json", text.encode())
    except (OSError, CheckpointError) as error:
        say(
            f"warning: the source of your code cannot be recorded as known on this machine ({error}); "
            "loading the run will need --trust true"
        )


def require_trust(folder: Path, what: str, trust: bool) -> None:
    """Refuses stored source that is not known here and that the user does not trust in this call.

    Args:
        folder: with the source; nothing is checked if there is none.
        what: the run or model, for messages.
        trust: the user's consent; RUNBACK_TRUST=1 gives it, too. The source is known from then on.

    Raises:
        TrustError: the source is not known; the message has its files and its digest.
        ConfigError: RUNBACK_TRUST is neither 1 nor 0.
    """
    if not folder.is_dir() and not folder.is_symlink():
        return
    source = source_in(folder)
    if is_known(source):
        return
    if not (trust or trusts_all()):
        raise TrustError(
            f"{what} is code that was neither trained with nor trusted on this machine "
            f"({source.describe()}); read its artifacts in source/, then give --trust true "
            f"(trust=True in Python, {TRUST_VARIABLE}=1) to run it"
        )
    say(f"trusted from now on: {what} ({source.describe()})")
    remember(source, "trusted")


def trusts_all() -> bool:
    """Whether RUNBACK_TRUST gives consent.

    Raises:
        ConfigError: it is neither 1 nor 0.
    """
    text = os.environ.get(TRUST_VARIABLE, "").strip().lower()
    if text not in (*_TRUE, *_FALSE):
        raise ConfigError(f"{TRUST_VARIABLE} {text!r} is neither 1 nor 0")
    return text in _TRUE


def _folder() -> Path | None:
    """The folder of known sources; None without a home directory."""
    folder = state_folder()
    return None if folder is None else folder / "sources"


def _all_known() -> Iterator[Source]:
    folder = _folder()
    for file in sorted(folder.glob("*.json")) if folder else ():
        source = _read(file)
        if source is not None:
            yield source


def _read(file: Path) -> Source | None:
    """A recorded source; None if the file is missing or damaged."""
    try:
        stored: Any = decode(json.loads, file.read_text(encoding="utf-8"))
        source = Source(dict(stored["files"]), str(stored["reference"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return source if f"{source.digest}.json" == file.name else None
