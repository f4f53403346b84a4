"""What all areas share: the number of inputs, and the check of how a refusal looks.

An input is accepted, and then its result must be right, or it is refused by a `RunbackError` with
one sentence. Any other exception is a traceback for the user and fails the test.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings

from runback.cli import main
from runback.errors import RunbackError

INPUTS = int(os.environ.get("FUZZ_INPUTS", "1000"))
COUNTS: Counter[tuple[str, str]] = Counter()
T = TypeVar("T")


@pytest.fixture(autouse=True)
def own_folder(
    tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Everything that an input makes is in a folder of the test's own, and no input makes a run."""
    shutil.copyfile(empty_database, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("RUNBACK_HOME", str(tmp_path / ".runback"))
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    yield
    assert not (tmp_path / ".runback").exists()


def inputs(share: float) -> settings:
    """The settings of a test that gets a share of all inputs."""
    return settings(
        max_examples=max(1, round(INPUTS * share)),
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )


def tried(area: str, call: Callable[[], T]) -> T | None:
    """The result of a call; None if the input is refused, in one sentence."""
    try:
        result = call()
    except RunbackError as error:
        sentence = str(error)
        assert sentence and "\n" not in sentence and "Traceback" not in sentence, sentence
        COUNTS[area, "refused"] += 1
        return None
    COUNTS[area, "accepted"] += 1
    return result


def command(area: str, capfd: object, *arguments: str) -> tuple[int, str]:
    """The exit code of a command line that must be refused, and its sentence."""
    code = main(arguments)
    out, err = capfd.readouterr()  # type: ignore[attr-defined]
    assert code == 2 and out == "", (code, out, err)
    assert err.startswith("runback: ") and err.count("\n") == 1 and "Traceback" not in err, err
    COUNTS[area, "refused"] += 1
    return code, err.removeprefix("runback: ").removesuffix("\n")


def table() -> Iterator[str]:
    """The counts as lines of a Markdown table."""
    yield "| area | inputs | accepted, result checked | refused in one sentence |"
    yield "| --- | ---: | ---: | ---: |"
    for area in sorted({area for area, _ in COUNTS}):
        yes, no = COUNTS[area, "accepted"], COUNTS[area, "refused"]
        yield f"| {area} | {yes + no} | {yes} | {no} |"
    yes, no = (
        sum(n for (_, what), n in COUNTS.items() if what == w) for w in ("accepted", "refused")
    )
    yield f"| all | {yes + no} | {yes} | {no} |"
