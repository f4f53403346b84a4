"""The lease: a tag on the run that tells other machines who trains it now.

The lock file excludes processes that share a run's folder; nothing on a machine excludes another
machine. So the trainer's courier writes a lease with an end into the run, renews it long before,
and clears it when the training is over.

Its limits: MLflow has no compare-and-swap, so two machines that resume within the same moment can
both take it; the machines' clocks must agree to well within its duration; and a machine that
cannot reach the server cannot renew it, so that another may take the run over after it has ended.
In each case the run gets every point of both, but no local file is ever harmed.
"""

from __future__ import annotations

import json
import socket
import time

from runback.errors import RunHeldError
from runback.processes import is_alive
from runback.storage.paths import home

TAG = "runback.lease"
RENEW_SECONDS = 60.0
LEASE_SECONDS = 180.0


def lease(pid: int) -> str:
    """The tag's value for a process of this machine that begins or goes on to train."""
    until = int((time.time() + LEASE_SECONDS) * 1000)
    return json.dumps(
        {"host": socket.gethostname(), "home": str(home()), "pid": pid, "until": until}
    )


def require_free(text: str, what: str) -> None:
    """Refuses a run that another machine, or another folder's process here, trains now.

    A lease of this folder means nothing: its lock, which the caller holds, is the better witness.

    Raises:
        RunHeldError: held, and its time is not yet up; says by whom and until when.
    """
    try:
        found = json.loads(text)
        host, place, pid = str(found["host"]), str(found["home"]), int(found["pid"])
        until = float(found["until"]) / 1000
    except (ValueError, TypeError, KeyError):
        return
    if time.time() >= until:
        return
    if host == socket.gethostname() and (place == str(home()) or not is_alive(pid)):
        return
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(until))
    raise RunHeldError(
        f"{what} is held by process {pid} on {host} ({place}) until {at}; "
        "wait for it to end, or stop it"
    )
