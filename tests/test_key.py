"""The same command once more: it resumes the unfinished run of its key, or the one it was given."""

from __future__ import annotations

import pytest

from conftest import DATA, Workspace, wait_until

QUICK = ("--data", str(DATA / "non_linear.csv"), "--epochs", "60", "--checkpoint-every", "10")


def points(place: Workspace, run_id: str) -> list[tuple[int, float]]:
    history = place.client.get_metric_history(run_id, "val_cost")
    return [(point.step, point.value) for point in history]


def stopped(place: Workspace, *arguments: str, **env: str) -> str:
    """A training that was killed by SIGKILL inside its epochs; returns the run's ID."""
    slow = ("--model", "examples_slow.py:Slow")
    (place.folder / "examples_slow.py").write_text(
        "import time\nfrom torch import nn\n\nclass Slow(nn.Linear):\n"
        "    def forward(self, x):\n        time.sleep(0.01)\n        return super().forward(x)\n"
    )
    process = place.start("train", *QUICK, *slow, *arguments, **env)
    wait_until(lambda: [*place.folder.glob(".runback/*/checkpoints/*10.json")], 90)
    process.kill()
    process.communicate()
    (run,) = place.client.search_runs(["0"])
    return str(run.info.run_id)


def again(place: Workspace, *arguments: str, **env: str):
    return place.runback("train", *QUICK, "--model", "examples_slow.py:Slow", *arguments, **env)


def test_a_killed_training_is_resumed_by_its_key(workspace: Workspace) -> None:
    run_id = stopped(workspace, "--key", "night")
    other = again(workspace, "--key", "night", "--lr", "0.5")
    assert other.returncode == 2
    assert "option lr: the run has 0.0001, and a resume cannot change it" in other.stderr
    resumed = again(workspace, RUNBACK_KEY="night")
    assert (resumed.returncode, resumed.stdout.strip()) == (0, run_id), resumed.stderr
    assert "resumed after epoch" in resumed.stderr
    whole = again(workspace, "--key", "night")  # the run with the key has finished
    assert whole.returncode == 0 and whole.stdout.strip() != run_id
    assert points(workspace, whole.stdout.strip()) == points(workspace, run_id)


def test_the_run_that_was_given_is_resumed_or_done(workspace: Workspace) -> None:
    run_id = workspace.client.create_run("0").info.run_id
    assert stopped(workspace, MLFLOW_RUN_ID=run_id) == run_id
    resumed = again(workspace, MLFLOW_RUN_ID=run_id)
    assert (resumed.returncode, resumed.stdout.strip()) == (0, run_id), resumed.stderr
    assert "resumed after epoch" in resumed.stderr
    done = again(workspace, MLFLOW_RUN_ID=run_id)
    assert (done.returncode, done.stdout.strip()) == (0, run_id), done.stderr
    assert f"run {run_id} has finished" in done.stderr
    assert [step for step, _ in points(workspace, run_id)] == list(range(1, 61))


@pytest.mark.parametrize("key", ["it's", "k" * 9000], ids=["quote", "long"])
def test_a_key_that_cannot_be_searched_is_refused(workspace: Workspace, key: str) -> None:
    done = workspace.runback("train", *QUICK, "--key", key)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert not workspace.client.search_runs(["0"])
