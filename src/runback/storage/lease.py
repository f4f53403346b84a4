"""The lease: a run tag with the host and process that trains the run, and an expiry time.

The lock file excludes processes that share RUNBACK_HOME; the lease excludes other machines. The
courier writes it, renews it before it expires, and clears it when the training ends.

Limits: MLflow has no compare-and-swap, so two machines that resume at the same moment can both take
it; the clocks of the machines must agree to well within its duration; a machine that cannot reach
the server cannot renew it, and another may take the run over after it expires. In each case the run
receives the points of both; local files are never affected.
"""

from __future__ import annotations

import json
import socket
import time

from runback.errors import RunHeldError
from runback.processes import is_alive
from runback.storage.paths import home

RENEW_SECONDS = 60.0
LEASE_SECONDS = 180.0


def lease(pid: int) -> str:
    """The tag's value for a process on this machine."""
    until = int((time.time() + LEASE_SECONDS) * 1000)
    return json.dumps(
        {"host": socket.gethostname(), "home": str(home()), "pid": pid, "until": until}
    )


def require_free(text: str, what: str) -> None:
    """Refuses a run that another machine, or a process here with another RUNBACK_HOME, trains.

    A lease from the same RUNBACK_HOME is ignored: the caller holds the lock.

    Raises:
        RunHeldError: the lease has not expired; the message names its holder and expiry.
    """
    try:
        held = json.loads(text)
        host, held_home, pid = str(held["host"]), str(held["home"]), int(held["pid"])
        until = float(held["until"]) / 1000
    except (ValueError, TypeError, KeyError):
        return
    if time.time() >= until:
        return
    if host == socket.gethostname() and (held_home == str(home()) or not is_alive(pid)):
        return
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(until))
    raise RunHeldError(
        f"{what} is held by process {pid} on {host} ({held_home}) until {at}; "
        "wait for it to end, or stop it"
    )
