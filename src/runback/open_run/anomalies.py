"""Reports anomalies of a run: values that are not finite, retrained values that differ from the
recorded ones, and a resume under other conditions.
"""

from __future__ import annotations

from runback.console.progress import say
from runback.environment import conditions
from runback.storage.journal import Journal
from runback.tracking import tags

# After the first difference every later epoch differs too.
SHOWN_MISMATCHES = 3
_LONGEST = 80  # of a recorded condition


def condition_changes(recorded: object) -> str:
    """The conditions that are not as recorded with a checkpoint, in words; empty if none has changed.

    Args:
        recorded: the `conditions` of that time, or any other JSON value.
    """
    if not isinstance(recorded, dict):
        return ""
    both = {name: (str(recorded.get(name, now)), now) for name, now in conditions().items()}
    changed = {name: texts for name, texts in both.items() if len(set(texts)) > 1}
    return ", ".join(
        f"{name} was {_plain(before)} and is {_plain(now)}"
        for name, (before, now) in changed.items()
    )


def _plain(text: str) -> str:
    return text[:_LONGEST] if text.isprintable() else repr(text)[:_LONGEST]


class Anomalies:
    """Prints and tags the anomalies that a journal's flushes find."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._shown = 0

    def report(self) -> None:
        """Prints and tags new anomalies."""
        self._report_non_finite()
        self._report_mismatches()

    def _report_non_finite(self) -> None:
        """Reports the first one of a run; MLflow shows infinity as the largest float."""
        point = self._journal.non_finite
        if point is None or self._journal.fact("non_finite") is not None:
            return
        text = f"{point.key} of epoch {point.step} is {point.value}"
        say(f"{text}; MLflow shows infinities as +-1.797e308")
        self._journal.post("tags", tags={tags.NON_FINITE: text})
        self._journal.set_fact("non_finite", text)

    def _report_mismatches(self) -> None:
        """Reports retrained values that differ from the recorded ones; the first few in full."""
        mismatches = self._journal.mismatches
        if len(mismatches) == self._shown:
            return
        texts = [
            f"{m.key} of epoch {m.step} was {m.recorded!r} and is {m.retrained!r} when trained again"
            for m in mismatches[:SHOWN_MISMATCHES]
        ]
        for text in texts[self._shown :]:
            say(f"warning: not deterministic: {text}; the recorded value is kept")
        more = f"; {len(mismatches)} values in total" if len(mismatches) > len(texts) else ""
        self._journal.post("tags", tags={tags.MISMATCH: "; ".join(texts) + more})
        self._shown = len(mismatches)
