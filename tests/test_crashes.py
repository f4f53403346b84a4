"""ckpt-chaos, a referee that is not ours, kills trainings at file boundaries and judges their resumes.

A few of the points of `make crashes`.
"""

from __future__ import annotations

import os

import pytest

pytest.importorskip("ckpt_chaos", reason="needs it: pip install 'runback[bench]'")

from benchmarks.crashes import LOOP, TARGETS, TRAIN, ran, targeted

from conftest import ROOT, Workspace

pytestmark = pytest.mark.chaos


@pytest.fixture(autouse=True)
def benchmarks_importable(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [str(ROOT), str(ROOT / "src")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("CKPT_CHAOS_PREPEND_PYTHONPATH", os.pathsep.join(paths))


@pytest.mark.parametrize("command", [TRAIN, LOOP], ids=["train", "loop"])
def test_a_referee_passes_a_command(workspace: Workspace, command: tuple[str, ...]) -> None:
    rows = ran(command, workspace.folder / "work", points=6)
    assert [(row.label, row.verdict) for row in rows] == [(row.label, "PASS") for row in rows]
    assert sum(row.crashed for row in rows) == 6


def test_a_referee_passes_lightning_with_our_logger(workspace: Workspace) -> None:
    pytest.importorskip("lightning")
    target, _, ours = TARGETS["Lightning"]
    rows = targeted(target, ours, workspace.folder / "work")
    assert [(row.label, row.verdict) for row in rows] == [(row.label, "PASS") for row in rows]
    assert sum(row.crashed for row in rows) > 4
