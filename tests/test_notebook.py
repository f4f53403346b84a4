"""`runback.run` in a notebook, with a real kernel: cells run again, interrupts, restarts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import nbformat
import pytest
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

from conftest import ROOT, wait_until

NOTEBOOK = ROOT / "examples" / "own_loop.ipynb"
SETUP = """
import time, torch, runback
from torch import nn
torch.manual_seed(0)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, x):
        return self.layer(x)

net = Net()
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
rows = torch.utils.data.DataLoader(torch.randn(4, 2), batch_size=2, shuffle=True)
"""
LOOP = """
with runback.run(KEY, key=KEY) as run:
    run.keep(net=net, optimizer=optimizer)
    for _ in run.epochs(5):
        for x in run.batches(rows):
            cost = (net(x) - 1).square().mean()
            optimizer.zero_grad(); cost.backward(); optimizer.step()
            time.sleep(PAUSE)
        run.log(cost=cost)
print(run.is_resumed, net.layer.bias.item())
"""


class Kernel(NamedTuple):
    """A kernel and its client, and the store of its runs."""

    manager: KernelManager
    client: BlockingKernelClient
    store: mlflow.MlflowClient

    def begin(self, code: str) -> None:
        self.client.execute(code)

    def reply(self) -> dict[str, Any]:
        """The answer to `begin`."""
        found: dict[str, Any] = self.client.get_shell_msg(timeout=120)["content"]
        return found

    def run(self, code: str) -> str:
        """Runs a cell to its end; returns what it prints on standard output."""
        texts: list[str] = []

        def keep(message: dict[str, Any]) -> None:
            content = message["content"]
            texts.extend([content["text"]] if content.get("name") == "stdout" else [])

        reply = self.client.execute_interactive(code, timeout=120, output_hook=keep)["content"]
        assert reply["status"] == "ok", reply
        return "".join(texts)

    def status(self, name: str) -> list[str]:
        """The statuses of all runs of a name."""
        runs = self.store.search_runs(["0"], f"attributes.run_name = '{name}'")
        return [run.info.status for run in runs]

    def points(self, name: str) -> list[tuple[int, float]]:
        (run,) = self.store.search_runs(["0"], f"attributes.run_name = '{name}'")
        history = self.store.get_metric_history(run.info.run_id, "cost")
        return sorted((point.step, point.value) for point in history)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("notebook")
    (folder / "mlflow.db").write_bytes(empty_database.read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patch.setenv("RUNBACK_HOME", str(folder / "home"))
        patch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def kernel(place: Path) -> Iterator[Kernel]:
    manager = KernelManager()
    manager.start_kernel(cwd=str(place))
    client = manager.blocking_client()
    client.start_channels()
    client.wait_for_ready(timeout=120)
    kernel = Kernel(manager, client, mlflow.MlflowClient(f"sqlite:///{place}/mlflow.db"))
    kernel.run(SETUP)
    yield kernel
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def begun(kernel: Kernel, name: str) -> None:
    """Begins the loop on a new module, and waits until its first epoch is recorded."""
    kernel.begin(f"{SETUP}\nKEY, PAUSE = {name!r}, 0.5\n{LOOP}")
    wait_until(lambda: len(kernel.status(name)) == 1 and len(kernel.points(name)) > 0, 60)


def test_the_notebook_runs_and_its_model_comes_back(place: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    codes = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not [cell for cell in codes if cell.outputs or cell.execution_count]
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(place)}}).execute()
    outputs = codes[-1].outputs
    assert "".join(out.text for out in outputs if out.get("name") == "stdout") == "True\n"
    assert "output" in outputs[-1].data["text/plain"]
    store = mlflow.MlflowClient(f"sqlite:///{place}/mlflow.db")
    (version,) = store.search_model_versions("name = 'sine'")
    assert store.get_run(version.run_id).info.status == "FINISHED"


def test_a_cell_is_interrupted_and_run_again(kernel: Kernel) -> None:
    begun(kernel, "interrupted")
    kernel.manager.interrupt_kernel()
    reply = kernel.reply()
    assert reply["ename"] == "Interrupted"
    assert "run the cell again to continue it" in reply["evalue"]
    assert kernel.status("interrupted") == ["KILLED"]
    assert kernel.run(f"KEY, PAUSE = 'interrupted', 0\n{LOOP}").startswith("True ")
    assert kernel.status("interrupted") == ["FINISHED"]
    assert [step for step, _ in kernel.points("interrupted")] == [1, 2, 3, 4, 5]
    assert kernel.run(f"KEY, PAUSE = 'interrupted', 0\n{LOOP}").startswith("False ")


def test_a_second_interrupt_leaves_the_kernel_alive(kernel: Kernel) -> None:
    kernel.begin(f"KEY, PAUSE = 'twice', 5\n{LOOP}")
    wait_until(lambda: kernel.status("twice") == ["RUNNING"], 60)
    time.sleep(1)
    kernel.manager.interrupt_kernel()
    time.sleep(0.5)
    kernel.manager.interrupt_kernel()
    assert kernel.reply()["ename"] == "Interrupted"
    assert kernel.status("twice") == ["KILLED"]
    assert kernel.run("print(KEY)") == "twice\n"


def test_a_restarted_kernel_goes_on(kernel: Kernel) -> None:
    begun(kernel, "restarted")
    kernel.manager.restart_kernel(now=True)
    kernel.client.wait_for_ready(timeout=120)
    wait_until(lambda: kernel.status("restarted") == ["FAILED"], 60)  # as of any SIGKILL
    kernel.run(SETUP)
    resumed = kernel.run(f"KEY, PAUSE = 'restarted', 0\n{LOOP}")
    whole = kernel.run(f"{SETUP}\nKEY, PAUSE = 'whole', 0\n{LOOP}")
    assert resumed.split() == ["True", whole.split()[1]]
    assert kernel.points("restarted") == kernel.points("whole")
    assert kernel.status("restarted") == ["FINISHED"]
