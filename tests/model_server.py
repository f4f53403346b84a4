"""A real `mlflow models serve` in an environment without runback."""

from __future__ import annotations

import json
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clean_env import CleanEnvironment
from conftest import wait_until


@contextmanager
def serving(
    uri: str, folder: Path, env: dict[str, str], clean_env: CleanEnvironment
) -> Iterator[str]:
    """Serves a model inside the block; gives the address.

    Args:
        uri: of the model.
        folder: the working directory, which gets the log.
        env: the environment variables, with the store.
        clean_env: whose Python runs the server.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = (folder / "serve.log").open("wb")
    server = subprocess.Popen(
        [
            clean_env.python, "-m", "mlflow", "models", "serve", "-m", uri,
            "--env-manager", "local", "--host", "127.0.0.1", "--port", str(port),
        ],
        cwd=folder, env=clean_env.env(env), stdout=log, stderr=log, start_new_session=True,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert server.poll() is None, (folder / "serve.log").read_text()
        try:
            return urllib.request.urlopen(f"{address}/ping", timeout=2).status == 200
        except OSError:
            return False

    try:
        wait_until(answers, 120)
        yield address
    finally:
        subprocess.run(["pkill", "-TERM", "-s", str(server.pid)], check=False)
        server.wait(20)
        log.close()


def ask(address: str, body: str, kind: str = "application/json") -> tuple[int, Any]:
    """The status and the predictions, or the text of an error."""
    request = urllib.request.Request(
        f"{address}/invocations", data=body.encode(), headers={"Content-Type": kind}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, json.loads(reply.read())["predictions"]
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
