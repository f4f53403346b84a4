"""RunRecord: a run on the tracking server. Imports no mlflow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from runback.errors import RunNotFoundError, TrackingError
from runback.tracking import run_tag
from runback.tracking import tags as names

EndStatus = Literal["FINISHED", "FAILED", "KILLED"]
Status = Literal["RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"]
# Options of a run as text, by name.
Options = dict[str, str]
# Step and timestamp of the latest point of each metric, by key.
LastPoints = dict[str, tuple[int, int]]


# Of an epoch in a tag: more do not fit into a database.
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
    def parse(cls, run_id: str, entry: Any) -> ForkTags | None:
        """Parses the tag with the ID and the entry of `run_tag`; None without an ID: it is no fork.

        Raises:
            TrackingError: the entry is damaged.
        """
        if not run_id:
            return None
        found = entry if isinstance(entry, dict) else {}
        kept, changed = found.get("kept", []), found.get("changed", "")
        (epoch,) = _numbers([found.get("epoch")]) or (-1,)
        if not (epoch >= 0 and _are_texts(kept) and isinstance(changed, str)):
            raise TrackingError(_damaged(run_tag.FORK, "an object with a number of epochs"))
        return cls(run_id=run_id, epoch=epoch, kept=tuple(kept), changed=changed)

    def as_entry(self) -> dict[str, run_tag.Value]:
        """The entry of `run_tag`; the ID has a tag of its own."""
        said: dict[str, run_tag.Value] = {"kept": list(self.kept), "changed": self.changed}
        return {"epoch": self.epoch, **{name: value for name, value in said.items() if value}}


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
            TrackingError: the tag of `run_tag` is damaged.
        """
        facts = run_tag.facts_of(stored)
        return cls(
            options=_options(facts, run_tag.CONFIG) if run_tag.CONFIG in facts else None,
            changes=_options(facts, run_tag.CHANGED),
            data_path=_text(facts, run_tag.DATA_PATH),
            data_fingerprint=_text(facts, run_tag.DATA_FINGERPRINT),
            lease=stored.get(names.LEASE, ""),
            journal=_text(facts, run_tag.JOURNAL),
            mark=_text(facts, run_tag.MARK),
            resumes=_numbers(facts.get(run_tag.RESUMED)),
            is_described=names.VERSION in stored,
            fork=ForkTags.parse(stored.get(names.FORK_OF, ""), facts.get(run_tag.FORK)),
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
                f"run {self.run_id} was not trained by runback (it has no tag {names.RUN})"
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


def _numbers(value: Any) -> tuple[int, ...]:
    """A list of numbers of epochs; what is none is left out."""
    found = value if isinstance(value, list) else []
    return tuple(n for n in found if type(n) is int and 0 <= n < 10**MAX_DIGITS)


def _options(facts: Mapping[str, Any], name: str) -> Options:
    options = facts.get(name, {})
    if not isinstance(options, dict) or not _are_texts(list(options.values())):
        raise TrackingError(_damaged(name, "an object of options as text"))
    return options


def _text(facts: Mapping[str, Any], name: str) -> str:
    text = facts.get(name, "")
    if not isinstance(text, str):
        raise TrackingError(_damaged(name, "a text"))
    return text


def _are_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _damaged(entry: str, kind: str) -> str:
    return f"tag {names.RUN} is damaged: its {entry} is not {kind}"
