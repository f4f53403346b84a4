"""SHA-256 digests of a folder's files, in a manifest that is stored beside them.

Every model folder has one, and so has the copy of runback that is stored with a model. Used by the
courier and by the loader that is stored with a model; imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from runback.errors import CheckpointError

MANIFEST = "digests.json"


def folder_of(root: Path, sha256: str) -> Path:
    """The folder below `root` of the model with these digests.

    A resumed run can have several models to deliver; none overwrites another.
    """
    return root / sha256[:16] / "model"


def into_place(root: Path, sha256: str, ignored: str = "") -> tuple[Path, str]:
    """Renames the folder `root/new`, just written, to `folder_of` its digests.

    An intact model with the same files is kept instead: it may be on its way to the server.

    Args:
        root: of the models of a run.
        sha256: of the new one.
        ignored: a file in which the models may differ.

    Returns:
        The folder, and the SHA-256 of its digests.
    """
    new, folder = root / "new", folder_of(root, sha256)
    for known in sorted(root.glob(f"*/{folder.name}")):
        if _is_twin(known, new, ignored):
            shutil.rmtree(new)
            return known, _sha256_of(known / MANIFEST)
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(exist_ok=True)
    return new.rename(folder), sha256


def _is_twin(known: Path, new: Path, ignored: str) -> bool:
    """Whether a model is intact and has the files of another, apart from `ignored`."""
    try:
        one, other = (_recorded(folder / MANIFEST, "model") for folder in (known, new))
        if {**one, ignored: ""} != {**other, ignored: ""}:
            return False
        verify_digests(known, "model")
    except CheckpointError:
        return False
    return True


def write_digests(folder: Path) -> str:
    """Writes the manifest of a folder: the digest of each file by its path below the folder.

    Returns:
        The SHA-256 of the manifest, which identifies the whole content.
    """
    (folder / MANIFEST).unlink(missing_ok=True)
    digests = {name: _sha256_of(folder / name) for name in _files(folder, "")}
    text = json.dumps({"sha256": digests}, indent=2, sort_keys=True) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    return _sha256_of(folder / MANIFEST)


def verify_digests(folder: Path, what: str, sha256: str = "", ignored: str = "") -> None:
    """Checks that a folder contains the files of its manifest and no others, unchanged.

    No path in the manifest is opened: it is compared with the files that are in the folder.

    Args:
        folder: written by `write_digests`.
        what: the folder's name in errors.
        sha256: of the manifest, if it is known from elsewhere.
        ignored: the name of subfolders that are not checked.

    Raises:
        CheckpointError: a file is damaged, missing, or was added; it is named.
    """
    if not (folder / MANIFEST).is_file():
        raise CheckpointError(f"{what}: {MANIFEST} is missing, so its files cannot be verified")
    if sha256 and _sha256_of(folder / MANIFEST) != sha256:
        raise CheckpointError(
            f"{what}: {MANIFEST} is damaged: its SHA-256 is not the one that was recorded"
        )
    recorded, found = _recorded(folder / MANIFEST, what), _files(folder, ignored)
    for name in sorted(recorded.keys() ^ set(found)):
        problem = "is missing" if name in recorded else "does not belong to it"
        raise CheckpointError(f"{what}: the file {name!r} {problem}")
    for name in found:
        if not _is_unchanged(folder / name, recorded[name]):
            raise CheckpointError(
                f"{what}: {name} is damaged: its SHA-256 is not the one in {MANIFEST}"
            )


def _recorded(manifest: Path, what: str) -> dict[str, str]:
    try:
        digests = json.loads(manifest.read_bytes())["sha256"]
        return {str(name): str(digest) for name, digest in digests.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(f"{what}: {MANIFEST} is damaged: it cannot be read") from None


def _files(folder: Path, ignored: str) -> list[str]:
    """The paths below a folder of everything that is not a folder, without the manifest, sorted."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if (path.is_symlink() or not path.is_dir())
        and path != folder / MANIFEST
        and not (ignored and ignored in path.relative_to(folder).parts)
    )


def _is_unchanged(path: Path, digest: str) -> bool:
    try:
        return not path.is_symlink() and path.is_file() and _sha256_of(path) == digest
    except OSError:
        return False


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
