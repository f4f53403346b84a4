"""The connection to MLflow: settings, initialisation under a lock, errors mapped at the boundary."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlparse

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from runback.durable.lock import FileLock
from runback.errors import TrackingError

INIT_SECONDS = 120.0
# The server understood and will never say yes; anything else may pass with time.
_PERMANENT = {
    "INVALID_PARAMETER_VALUE",
    "RESOURCE_DOES_NOT_EXIST",
    "RESOURCE_ALREADY_EXISTS",
    "BAD_REQUEST",
    "ENDPOINT_NOT_FOUND",
    "INVALID_STATE",
    "NOT_IMPLEMENTED",
}
T = TypeVar("T")


def connect_seconds() -> float:
    """How long a start waits for the tracking server: `RUNBACK_CONNECT_SECONDS`, default 15."""
    return seconds_from("RUNBACK_CONNECT_SECONDS", 15.0)


def seconds_from(variable: str, default: float) -> float:
    """A number of seconds from the environment.

    Raises:
        TrackingError: it is set, but not to a number of at least 0.
    """
    text = os.environ.get(variable, "")
    try:
        value = float(text) if text else default
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise TrackingError(f"{variable}: {text!r} is not a number of seconds")
    return value


def connect(uri: str | None = None) -> MlflowClient:
    """A client of the tracking server that `uri`, MLFLOW_TRACKING_URI or MLflow's default names.

    Raises:
        TrackingError: it does not answer within `RUNBACK_CONNECT_SECONDS`.
    """
    if uri is not None:
        mlflow.set_tracking_uri(uri)
    uri = mlflow.get_tracking_uri()
    with_lock = _sqlite_file(uri)
    if with_lock is None:
        return _connect_remote(uri)
    return _initialised(uri, with_lock)


def is_permanent(error: Exception) -> bool:
    """Whether sending the same again can never succeed."""
    return isinstance(error, MlflowException) and error.error_code in _PERMANENT


def first_line(error: Exception) -> str:
    """The first line of an error's message, without MLflow's retry details."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def asked(what: str, call: Callable[[], T]) -> T:
    """The answer of a call to the server.

    Raises:
        TrackingError: the server is away or refuses, in one sentence.
    """
    try:
        return call()
    except MlflowException as error:
        raise TrackingError(f"{what}: {first_line(error)}") from error


def _sqlite_file(uri: str) -> Path | None:
    if not uri.startswith("sqlite:///"):
        return None
    return Path(unquote(uri.removeprefix("sqlite:///")).split("?")[0])


def _initialised(uri: str, database: Path) -> MlflowClient:
    """Opens a local database, creating its tables under a lock.

    Four processes that created a fresh database at once failed in 15 of 20 trials without it.
    """
    if not database.parent.is_dir():
        raise TrackingError(f"{uri}: no such folder {database.parent}")
    lock = FileLock(database.with_name(database.name + ".lock"))
    deadline = time.monotonic() + INIT_SECONDS
    while not lock.try_acquire():
        if time.monotonic() > deadline:
            raise TrackingError(f"{uri} is still being initialised by {lock.holder()}")
        time.sleep(0.05)
    with lock:
        client = MlflowClient(uri)
        try:
            client.search_experiments(max_results=1)
        except Exception as error:  # SQLAlchemy's errors as well as MLflow's
            raise TrackingError(f"{uri} cannot be opened: {first_line(error)}") from error
    return client


def _connect_remote(uri: str) -> MlflowClient:
    """Asks again and again until the time is up; MLflow's own retries would take four minutes."""
    client = MlflowClient(uri)
    limit = connect_seconds()
    deadline = time.monotonic() + limit
    delay = 0.1
    while True:
        left = deadline - time.monotonic()
        try:
            with _http_settings(MAX_RETRIES="0", TIMEOUT=str(max(1, int(left)))):
                client.search_experiments(max_results=1)
            return client
        except MlflowException as error:
            if is_permanent(error) or _denied(error) or left <= delay:
                raise TrackingError(_unreachable(uri, limit, error)) from error
        time.sleep(delay)
        delay = min(2 * delay, 2.0)


@contextmanager
def _http_settings(**settings: str) -> Iterator[None]:
    """MLflow's HTTP settings for a while; it reads them from the environment at each request."""
    names = {f"MLFLOW_HTTP_REQUEST_{name}": value for name, value in settings.items()}
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _denied(error: MlflowException) -> bool:
    return error.error_code in ("UNAUTHENTICATED", "PERMISSION_DENIED")


def _unreachable(uri: str, limit: float, error: MlflowException) -> str:
    shown = urlparse(uri)._replace(netloc=urlparse(uri).netloc.rpartition("@")[2]).geturl()
    if is_permanent(error) or _denied(error):
        return f"tracking server {shown} refuses: {first_line(error)}"
    return f"tracking server {shown} does not answer within {limit:g} s; nothing was started"
