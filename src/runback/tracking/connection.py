"""The connection to MLflow: settings, initialisation under a lock, errors mapped at the boundary."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from runback.errors import TrackingError, UsageError
from runback.storage.lock import FileLock
from runback.tracking.timeouts import connect_seconds

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
_DENIED = {"UNAUTHENTICATED", "PERMISSION_DENIED"}
_CAUSE = re.compile(r"\(Caused by (.*)\)")  # what urllib3 says last is what was the matter
_USER_INFO = re.compile(r"(?<=://)[^/@\s]+@")
T = TypeVar("T")


def connect(uri: str | None = None) -> MlflowClient:
    """A client of the tracking server that `uri`, MLFLOW_TRACKING_URI or MLflow's default names.

    Raises:
        UsageError: MLflow knows no store of that kind.
        TrackingError: it does not answer within `RUNBACK_CONNECT_SECONDS`, or refuses.
    """
    client = client_of(uri)
    shown = without_secrets(mlflow.get_tracking_uri())
    limit = connect_seconds()
    deadline, delay, error = time.monotonic() + limit, 0.1, ""
    while True:
        left = deadline - time.monotonic()
        try:
            _within(max(left, 1.0), lambda: client.search_experiments(max_results=1))
            return client
        except TimeoutError:
            raise TrackingError(_unreachable(shown, limit, error)) from None
        except Exception as failure:  # SQLAlchemy's errors as well as MLflow's
            error = describe_error(failure)
            if is_refusal(failure):
                raise TrackingError(f"tracking server {shown} refuses: {error}") from failure
        if deadline - time.monotonic() <= delay:
            raise TrackingError(_unreachable(shown, limit, error))
        time.sleep(delay)
        delay = min(2 * delay, 2.0)


def client_of(uri: str | None = None) -> MlflowClient:
    """A client that has not asked its server anything yet; a local database is made if need be.

    Raises:
        UsageError: MLflow knows no store of that kind.
        TrackingError: the local database cannot be opened.
    """
    if uri is not None:
        mlflow.set_tracking_uri(uri)
    uri = mlflow.get_tracking_uri()
    database = _sqlite_file(uri)
    if database is not None:
        return _initialised(uri, database)
    try:
        return _within(connect_seconds(), lambda: MlflowClient(uri))
    except TimeoutError:
        shown = without_secrets(uri)
        raise TrackingError(_unreachable(shown, connect_seconds(), "")) from None
    except MlflowException as error:
        raise UsageError(
            f"MLFLOW_TRACKING_URI {without_secrets(uri)!r}: {describe_error(error)}"
        ) from error


def is_permanent(error: Exception) -> bool:
    """Whether sending the same again can never succeed."""
    return isinstance(error, MlflowException) and error.error_code in _PERMANENT


def is_refusal(error: Exception) -> bool:
    """Whether the server has understood and said no: for good, or to this user."""
    denied = isinstance(error, MlflowException) and error.error_code in _DENIED
    return denied or is_permanent(error)


def describe_error(error: Exception) -> str:
    """The first line of an error's message, or the cause it names; never a password."""
    text = (str(error).splitlines() or [""])[0] or type(error).__name__
    cause = _CAUSE.search(text)
    return without_secrets(cause[1] if cause else text)[:200]


def without_secrets(text: str) -> str:
    """A text without the `user:password@` of the URIs in it."""
    return _USER_INFO.sub("", text)


def place_of(uri: str) -> str:
    """A tracking URI as the journal keeps it: absolute, and without a user, password or query."""
    database = _sqlite_file(uri)
    if database is not None:
        return f"sqlite:///{database.absolute()}"
    if "://" not in uri and not uri.startswith(("file:", "databricks")):
        return Path(uri).absolute().as_uri()
    return without_secrets(uri).partition("?")[0]


def uri_of(place: str | None) -> str:
    """The tracking URI for a place that a journal names, with the secrets that the environment has.

    Raises:
        TrackingError: it is a database with a password, and MLFLOW_TRACKING_URI is not it.
    """
    here = mlflow.get_tracking_uri()
    if place is None or place == place_of(here):
        return str(here)
    if urlsplit(place).scheme in ("sqlite", "file", "http", "https", "databricks"):
        return place
    raise TrackingError(f"set MLFLOW_TRACKING_URI to {place}, with the user and password it needs")


def asked(what: str, call: Callable[[], T]) -> T:
    """The answer of a call to the server.

    Raises:
        TrackingError: the server is away or refuses, in one sentence.
    """
    try:
        return call()
    except MlflowException as error:
        raise TrackingError(f"{what}: {describe_error(error)}") from error


@contextmanager
def http_settings(**settings: str) -> Iterator[None]:
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
    _check_is_database(uri, database)
    lock = FileLock(database.with_name(database.name + ".lock"))
    if not lock.wait(INIT_SECONDS):
        raise TrackingError(f"{uri} is still being initialised by {lock.holder()}")
    with lock:
        try:
            client = MlflowClient(uri)
            client.search_experiments(max_results=1)
        except Exception as error:  # SQLAlchemy's errors as well as MLflow's
            raise TrackingError(f"{uri} cannot be opened: {describe_error(error)}") from error
    return client


def _check_is_database(uri: str, database: Path) -> None:
    """MLflow would try to open a damaged file for an hour."""
    if not database.exists():
        return
    try:
        with database.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise TrackingError(f"{uri} cannot be opened: {error.strerror}") from None
    if head not in (b"", b"SQLite format 3\0"):
        raise TrackingError(f"{uri} cannot be opened: {database} is not a SQLite database")


def _within(seconds: float, call: Callable[[], T]) -> T:
    """The result of a call that may hang, as one to a database server may for an hour.

    Raises:
        TimeoutError: it takes longer; the call is left to itself.
    """
    found: list[T] = []
    failed: list[Exception] = []

    def run() -> None:
        try:
            with http_settings(MAX_RETRIES="0", TIMEOUT=str(max(1, round(seconds)))):
                found.append(call())
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="connect", daemon=True)
    thread.start()
    thread.join(max(0.0, seconds))
    if thread.is_alive():
        raise TimeoutError
    if failed:
        raise failed[0]
    return found[0]


def _unreachable(shown: str, limit: float, error: str) -> str:
    answer = f" ({error})" if error else ""
    return (
        f"tracking server {shown} gives no good answer within {limit:g} s{answer}; "
        "nothing was started"
    )
