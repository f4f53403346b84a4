"""RunRecord: a run on the tracking server. Imports no mlflow."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from runback.decoding import decode
from runback.errors import RunNotFoundError, TrackingError
from runback.tracking import tags as names

EndStatus = Literal["FINISHED", "FAILED", "KILLED"]
Status = Literal["RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"]
# Options of a run as text, by name.
Options = dict[str, str]
# Step and timestamp of the latest point of each metric, by key.
LastPoints = dict[str, tuple[int, int]]


# Of an epoch in a tag.
MAX_DIGITS = 18


@dataclass(frozen=True, kw_only=True)
class ForkTags:
    """The beginning of a fork.

    Attributes:
        run_id: of the run that it was forked from.
        epoch: (or step) of the checkpoint that it begins with.
        kept: the names of what it has taken over from the checkpoint.
        changed: the options that it has changed, as text.
    """

    run_id: str
    epoch: int
    kept: tuple[str, ...] = ()
    changed: str = ""

    @classmethod
    def parse(cls, stored: Mapping[str, str]) -> ForkTags | None:
        """Parses MLflow tags; None if they are not those of a fork.

        Raises:
            TrackingError: the epoch is damaged.
        """
        if names.FORK_OF not in stored:
            return None
        epoch = stored.get(names.FORK_EPOCH, "")
        if not re.fullmatch(f"[0-9]{{1,{MAX_DIGITS}}}", epoch):
            raise TrackingError(f"tag {names.FORK_EPOCH} is damaged: not a number of epochs")
        kept = filter(None, stored.get(names.FORK_KEPT, "").split(", "))
        changed = stored.get(names.FORK_CHANGED, "")
        return cls(
            run_id=stored[names.FORK_OF], epoch=int(epoch), kept=tuple(kept), changed=changed
        )

    def as_tags(self) -> dict[str, str]:
        """The tags, of which `parse` is the inverse."""
        found = {
            names.FORK_OF: self.run_id,
            names.FORK_EPOCH: str(self.epoch),
            names.FORK_KEPT: ", ".join(self.kept),
            names.FORK_CHANGED: self.changed,
        }
        return {name: text for name, text in found.items() if text}


@dataclass(frozen=True, kw_only=True)
class Tags:
    """The tags of a run that runback reads.

    Attributes:
        options: the options at the run's start; None if runback has not trained it.
        changes: the options changed by resumes.
        data_path: of the table.
        data_fingerprint: SHA-256 of the table.
        lease: of the process that trains the run (`storage.lease`); empty if there is none.
        journal: identity of the journal that wrote the run last; empty if unknown.
        mark: of the pending directory that the run was created from; empty if there was none.
        resumes: the completed epochs at which the run was resumed.
        is_described: whether params, tags and dataset inputs were logged completely.
        fork: where the run begins if it is a fork; else None.
    """

    options: Options | None = None
    changes: Options = field(default_factory=dict)
    data_path: str = ""
    data_fingerprint: str = ""
    lease: str = ""
    journal: str = ""
    mark: str = ""
    resumes: tuple[int, ...] = ()
    is_described: bool = False
    fork: ForkTags | None = None

    @classmethod
    def parse(cls, stored: Mapping[str, str]) -> Tags:
        """Parses MLflow tags.

        Raises:
            TrackingError: the tag with the options, or with the epoch of a fork, is damaged.
        """
        changes = {
            name.removeprefix(names.CHANGED): value
            for name, value in stored.items()
            if name.startswith(names.CHANGED)
        }
        return cls(
            options=_options(stored[names.CONFIG]) if names.CONFIG in stored else None,
            changes=changes,
            data_path=stored.get(names.DATA_PATH, ""),
            data_fingerprint=stored.get(names.DATA_FINGERPRINT, ""),
            lease=stored.get(names.LEASE, ""),
            journal=stored.get(names.JOURNAL, ""),
            mark=stored.get(names.MARK, ""),
            resumes=_numbers(stored.get(names.RESUMED, "")),
            is_described=names.VERSION in stored,
            fork=ForkTags.parse(stored),
        )


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A run on the tracking server.

    Attributes:
        run_id: the full ID.
        status: of the run.
        is_active: False if the run is deleted.
        tags: the tags that runback reads.
        params: all params.
        metrics: the latest value of each metric.
        last_points: step and timestamp (in ms since the epoch) of the latest point of each metric.
        artifact_uri: of the run's artifacts.
        experiment_id: of the run's experiment.
        model_id: the logged model, if RUN was a models:/ URI; else empty.
        version: the registered version "NAME/NUMBER", likewise.
    """

    run_id: str
    status: Status
    is_active: bool
    tags: Tags
    params: Options
    metrics: dict[str, float]
    last_points: LastPoints = field(default_factory=dict)
    artifact_uri: str = ""
    experiment_id: str = ""
    model_id: str = ""
    version: str = ""

    @property
    def original_config(self) -> Options:
        """The options before any resume; schedules depend on their epochs.

        Raises:
            RunNotFoundError: not a run of `runback train`.
        """
        if self.has_own_loop:
            raise RunNotFoundError(
                f"run {self.run_id} has a loop of its own (runback.run): start its script again, with "
                f"its key or on the command line with: runback resume {self.run_id}"
            )
        if self.tags.options is None:
            raise RunNotFoundError(
                f"run {self.run_id} was not trained by runback (it has no tag {names.CONFIG})"
            )
        return self.tags.options

    @property
    def has_own_loop(self) -> bool:
        """Whether it is a run of `runback.run`."""
        return self.tags.options is None and self.tags.is_described

    @property
    def config(self) -> Options:
        """The options with the changes of resumes.

        Raises:
            RunNotFoundError: not a run of runback.
        """
        return {**self.original_config, **self.tags.changes}

    @property
    def awaits_training(self) -> bool:
        """Whether the run was created for a training that has not begun."""
        is_open = self.is_active and self.status in ("RUNNING", "SCHEDULED")
        return is_open and self.tags.options is None

    def require_active(self) -> None:
        """Checks that the run is not deleted: MLflow allows no changes to deleted runs.

        Raises:
            RunNotFoundError: the run is deleted.
        """
        if not self.is_active:
            raise RunNotFoundError(
                f"run {self.run_id} has been deleted; restore it with: "
                f"mlflow runs restore --run-id {self.run_id}"
            )


def _numbers(text: str) -> tuple[int, ...]:
    """Numbers with commas between them; others are left out."""
    parts = [part for part in text.split(",") if len(part) <= MAX_DIGITS]
    return tuple(int(part) for part in parts if part.isascii() and part.isdecimal())


def _options(text: str) -> Options:
    try:
        options = decode(json.loads, text)
    except ValueError:
        options = None
    if not isinstance(options, dict) or not all(isinstance(v, str) for v in options.values()):
        raise TrackingError(f"tag {names.CONFIG} is damaged: not a JSON object of options")
    return options
