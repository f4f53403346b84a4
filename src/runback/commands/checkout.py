"""The commit and the uncommitted changes that a run was trained with, as a folder of their own."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runback.commands.versions import COMMIT, PATCH, versions_of
from runback.environment import TRUNCATED
from runback.errors import TrustError, UsageError
from runback.storage.paths import home
from runback.storage.trust import require_trust, trusts_all
from runback.tracking import artifacts

if TYPE_CHECKING:
    from mlflow import MlflowClient

_COMMIT = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True)
class Checkout:
    """A clean worktree.

    Attributes:
        commit: its commit.
        repository: the root of the repository that it belongs to.
        root: the root of the worktree.
        folder: the one in the place of the working directory.
    """

    commit: str
    repository: Path
    root: Path
    folder: Path

    def environment(self, tracking_uri: str) -> dict[str, str]:
        """The environment variables of a process that runs here, with the code of the worktree.

        Args:
            tracking_uri: of a local store, absolute.
        """
        entries = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
        paths = [self._moved(Path(entry).resolve()) for entry in entries]
        if (self.root / "src" / "runback").is_dir():  # a checkout of runback itself
            paths.insert(0, str(self.root / "src"))
        variables = {"RUNBACK_HOME": str(home()), "PYTHONPATH": os.pathsep.join(paths)}
        if tracking_uri.startswith(("sqlite:", "file:")):
            variables["MLFLOW_TRACKING_URI"] = tracking_uri
        return {**os.environ, **variables}

    def _moved(self, path: Path) -> str:
        """A path of the repository as one of the worktree."""
        is_ours = path.is_relative_to(self.repository)
        return str(self.root / path.relative_to(self.repository) if is_ours else path)


@contextmanager
def checked_out(client: MlflowClient, run_id: str, trust: bool) -> Iterator[Checkout]:
    """The recorded commit of a run with its uncommitted changes, in a git worktree that is removed.

    The store names both, and they are code: a commit that is not in the history of the one that is
    checked out here, and changes that are not known on this machine, need consent.

    Raises:
        UsageError: there is no recorded commit, it is not in the repository here, or the changes
            cannot be applied to it.
        TrustError: see above.
        TrackingError: the server is unreachable.
    """
    repository = _repository()
    commit = _commit(client, run_id, repository, trust)
    with tempfile.TemporaryDirectory(prefix="runback-") as place:
        root, files = Path(place) / "worktree", Path(place) / "changes"
        patch = _changes(client, run_id, files, trust)
        _git(repository, "worktree", "add", "--quiet", "--detach", str(root), commit)
        try:
            if patch is not None:
                _git(root, "apply", "--whitespace=nowarn", str(patch))
            folder = root / Path.cwd().resolve().relative_to(repository)
            yield Checkout(commit, repository, root, folder if folder.is_dir() else root)
        finally:
            _git(repository, "worktree", "remove", "--force", str(root))


def _repository() -> Path:
    try:
        return Path(_git(Path.cwd(), "rev-parse", "--show-toplevel")).resolve()
    except UsageError as error:
        raise UsageError(
            "--checkout: run it in the git repository that the run was trained in ("
            + str(error)
            + ")"
        ) from None


def _commit(client: MlflowClient, run_id: str, repository: Path, trust: bool) -> str:
    """The recorded commit, which is in the repository."""
    commit = versions_of(client, run_id).get(COMMIT, "")
    if not _COMMIT.fullmatch(commit):
        raise UsageError(f"--checkout: run {run_id} has no git commit in its environment/")
    try:
        _git(repository, "cat-file", "-e", f"{commit}^{{commit}}")
    except UsageError:
        raise UsageError(
            f"--checkout: commit {commit} of run {run_id} is not in {repository}; fetch it"
        ) from None
    if trust or trusts_all():
        return commit
    try:
        _git(repository, "merge-base", "--is-ancestor", commit, "HEAD")
    except UsageError:
        raise TrustError(
            f"commit {commit} of run {run_id} is not in the history of HEAD in {repository}; read it, "
            "then give --trust true (trust=True in Python) to run its code"
        ) from None
    return commit


def _changes(client: MlflowClient, run_id: str, folder: Path, trust: bool) -> Path | None:
    """The recorded changes; None if there were none."""
    if PATCH not in artifacts.list_names(client, run_id, "environment"):
        return None
    artifacts.download(client, run_id, f"environment/{PATCH}", folder)
    patch = next(folder.rglob(PATCH))
    if patch.read_bytes().endswith(TRUNCATED):
        raise UsageError(f"--checkout: environment/{PATCH} of run {run_id} is not complete")
    require_trust(folder, f"environment/{PATCH} of run {run_id}", trust)
    return patch


def _git(folder: Path, *arguments: str) -> str:
    """git's output, without the hooks of the repository.

    Raises:
        UsageError: git is missing, or it failed; with its first line.
    """
    command = ["git", "-C", str(folder), "-c", "core.hooksPath=/dev/null", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise UsageError(f"git: {error.strerror}") from None
    if done.returncode:
        first = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[0]
        raise UsageError(f"git {arguments[0]}: {first}")
    return done.stdout.strip()


def run_to_end(command: list[str], folder: Path, env: dict[str, str], output: int) -> int:
    """Runs a program with its standard output in a file; returns its exit code.

    Ctrl-C reaches the program, too, which saves what it has before it ends.
    """
    process = subprocess.Popen(command, cwd=folder, env=env, stdout=output)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue
