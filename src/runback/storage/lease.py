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

from runback.decoding import decode
from runback.errors import RunHeldError
from runback.processes import is_alive
from runback.storage.paths import home

RENEW_SECONDS = 60.0
LEASE_SECONDS = 180.0
MAX_PID = 2**31
MAX_SHOWN = 200  # characters of a host or folder in messages
MAX_MS = 2**48  # milliseconds since 1970, in the year 10889


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
        ValueError: the text is not a lease.
    """
    if not text:
        return
    host, held_home, pid, until = _parsed(text)
    if time.time() * 1000 >= until:
        return
    if host == socket.gethostname() and (held_home == str(home()) or not is_alive(pid)):
        return
    host, held_home = (ascii(text[:MAX_SHOWN])[1:-1] for text in (host, held_home))
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(until / 1000))
    raise RunHeldError(
        f"{what} is held by process {pid} on {host} ({held_home}) until {at}; "
        "wait for it to end, or stop it"
    )


def is_held(text: str) -> bool:
    """Whether a lease has not expired and, if its process is on this machine, that is alive."""
    try:
        host, _, pid, until = _parsed(text)
    except ValueError:  # none, or a damaged one
        return False
    here = host == socket.gethostname()
    return time.time() * 1000 < until and (not here or is_alive(pid))


def _parsed(text: str) -> tuple[str, str, int, int]:
    """Host, home, process and expiry of a lease.

    Raises:
        ValueError: the text is not a lease.
    """
    held = decode(json.loads, text)
    try:
        values = (held["host"], held["home"], held["pid"], held["until"])
    except (TypeError, KeyError):
        raise ValueError("an entry of the lease is missing") from None
    if [type(value) for value in values] != [str, str, int, int]:
        raise ValueError("an entry of the lease has a wrong type")
    if not (0 < values[2] < MAX_PID and 0 <= values[3] < MAX_MS):
        raise ValueError("an entry of the lease is out of range")
    return values
