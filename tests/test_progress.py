"""What a training shows of its progress: on a terminal a line that is drawn again, else few lines."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time

import pytest

from conftest import DATA, Workspace
from runback.console import epochs, progress
from runback.console.epochs import Progress, Waiting
from runback.console.line import Line, _time
from terminal import Terminal

TRAIN = ["train", "--data", str(DATA / "non_linear.csv")]


def test_a_terminal_has_one_line_that_is_drawn_again(workspace: Workspace) -> None:
    shown = Terminal.start([*TRAIN, "--epochs", "2000"], workspace.folder, workspace.env)
    assert shown.end() == 0
    drawn = [line for line in shown.drawings if line.startswith("epoch ")]
    assert len(drawn) > 1
    last = (
        r"epoch 2000/2000  ━{12}  cost 0\.\d+  val_cost 0\.\d+ [↓→↑]  best 0\.\d+ at \d+  "
        r"[\d.]+ epochs/s  0:00 left  saved 2000"
    )
    assert re.fullmatch(last, drawn[-1]), drawn[-1]
    left = [line for line in shown.screen if line]
    assert [line.partition(" ")[0] for line in left[:2]] == ["runback:", "runback:"]
    assert left[2] == drawn[-1] and all(line.startswith("runback: ") for line in left[3:])
    assert shown.text.count("\x1b[?25l") == shown.text.count("\x1b[?25h") == 1  # the cursor


def test_an_interrupt_is_answered_at_once(workspace: Workspace) -> None:
    """Also on a narrow terminal, whose line is never wrapped."""
    arguments = [*TRAIN, "--epochs", "1000000"]
    shown = Terminal.start(arguments, workspace.folder, workspace.env, width=50)
    shown.read_until("  cost ")
    shown.process.send_signal(signal.SIGINT)
    shown.read_until("saves a checkpoint; a second Ctrl-C ends it at once\r\n")
    assert shown.end() == 130
    lines = [line for line in shown.drawings if line.startswith("epoch ")]
    assert lines and all(len(line) < 50 for line in lines)
    assert "resume" in shown.screen[-2] and shown.screen[-1] == ""


def test_no_color_has_no_colours(workspace: Workspace) -> None:
    env = {**workspace.env, "NO_COLOR": "1"}
    shown = Terminal.start([*TRAIN, "--epochs", "50"], workspace.folder, env)
    assert shown.end() == 0
    codes = set(re.findall(r"\x1b\[([0-9;]*)m", shown.text))
    assert "━" in shown.text and codes <= {"0", "1", "2"}  # bold and dim are no colours


def test_quiet_prints_nothing_but_warnings(workspace: Workspace) -> None:
    options = [*TRAIN, "--lr", "0", "--epochs", "20", "--quiet"]
    done = workspace.runback(*options)
    assert done.returncode == 0
    warning = "runback: warning: test_rmse "
    assert [line[: len(warning)] for line in done.stderr.splitlines()] == [warning]
    again = ["resume", done.stdout.strip(), "--epochs", "25", "--quiet", "true"]
    shown = Terminal.start(again, workspace.folder, workspace.env)
    assert shown.end() == 0
    assert shown.text.count("\n") == 1 and shown.text.startswith(warning)
    assert workspace.runback(*options, "never").returncode == 2
    code = f"import runback; runback.resume({done.stdout.strip()!r}, epochs=30)"
    silent = subprocess.run(
        [sys.executable, "-c", code], cwd=workspace.folder, capture_output=True, text=True,
        env={**workspace.env, "RUNBACK_QUIET": "1"},
    )  # fmt: skip
    assert silent.returncode == 0
    assert [line[: len(warning)] for line in silent.stderr.splitlines()] == [warning]


def test_without_a_terminal_lines_are_rare(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with Progress(0, 40) as shown:
        for epoch in range(1, 41):
            now += 3.0
            shown.update(epoch, 1 / epoch, None if epoch < 3 else 2 / epoch)
            if epoch % 2 == 0:
                shown.checkpointed(epoch, 5 if epoch == 14 else 0)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[2] for line in lines] == [
        f"{n}/40" for n in (2, 6, 10, 14, 18, 22, 26, 30, 34, 38, 40)
    ]
    assert lines[0] == "runback: epoch 2/40  cost 0.5"
    assert lines[3] == (
        "runback: epoch 14/40 and 5 batches  cost 0.0714286  val_cost 0.142857  best 0.142857 at 14"
    )


def test_rich_is_not_imported_without_a_terminal(workspace: Workspace) -> None:
    code = (
        "import sys; from runback.cli import main; code = main(sys.argv[1:]); "
        "sys.exit(code if 'runback.console.line' not in sys.modules else 99)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *TRAIN, "--epochs", "3"],
        env=workspace.env, cwd=workspace.folder, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_an_update_costs_less_than_a_microsecond() -> None:
    """The fastest epoch takes a hundred."""
    with Progress(0, 200_000) as shown:
        start = time.process_time()
        for epoch in range(200_000):
            shown.update(epoch, 1.0, 1.0)
        assert time.process_time() - start < 0.6  # three microseconds on a slow machine


def test_messages_erase_the_line_of_a_progress(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "is_on_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    with progress.drawing() as line, progress.drawing() as other:
        assert isinstance(line, Line) and other is None
        line.write([("first", 9), ("x" * 50, 1), ("last", 5)])
        progress.say("a message")
    progress.say("after")
    written = capsys.readouterr().err
    assert "\r\x1b[2Krunback: a message\n" in written and "first  last" in written
    assert "x" not in written and written.endswith("\nrunback: after\n")


def test_what_waits_is_shown_once_it_waits_long(monkeypatch: pytest.MonkeyPatch) -> None:
    now, count = 0.0, 5
    monkeypatch.setattr(time, "monotonic", lambda: now)
    waiting, seen = Waiting(lambda: count), []
    for now in range(0, 60):
        count = 3 if now >= 40 else 5 + now
        seen.append(waiting.for_long(now))
    assert max(seen[: int(epochs.LONG_SECONDS)]) == 0
    assert seen[20] > 20 and seen[39] > 20 and seen[45] == 0


def test_the_trend_is_that_of_the_means(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "is_on_terminal", lambda: True)
    monkeypatch.setattr(Line, "draw", lambda *_: None)
    trends = []
    with Progress(0, 1000) as shown:
        for values in (
            [1.0] * 50,
            [1 / (i + 1) for i in range(100)],
            [i * 0.1 for i in range(100)],
        ):
            for value in values:
                shown.update(1, 1.0, value)
            trends.append(shown.trend)
    assert trends == [0, -1, 1]


def test_times_are_written_as_a_clock() -> None:
    assert [_time(s) for s in (0, 59.6, 754, 3723, float("nan"), 1e9)] == [
        "0:00", "1:00", "12:34", "1:02:03", "?", "?",
    ]  # fmt: skip
