"""The connection to MLflow: clients, URIs, timeouts and error mapping."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from urllib3.exceptions import LocationParseError
from urllib3.util import parse_url

from runback.errors import TrackingError, UsageError
from runback.storage.lock import FileLock
from runback.tracking.faults import network_reason
from runback.tracking.redaction import HIDDEN, MIN_LENGTH, printable, redact, secrets_of
from runback.tracking.timeouts import connect_seconds

INIT_SECONDS = 120.0
FIRST_DELAY = 0.1
LONGEST_DELAY = 2.0
# Error codes for which a retry cannot succeed.
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
_CAUSE = re.compile(r"\(Caused by (.*)\)")  # in messages of urllib3
_MISSING = "404 Client Error"
_CREDENTIALS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
_URIS = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
T = TypeVar("T")


def connect(uri: str | None = None) -> MlflowClient:
    """A client of a tracking server, after a successful request; `uri` defaults to MLflow's.

    Raises:
        UsageError: MLflow does not support the URI.
        TrackingError: the server does not respond within `RUNBACK_CONNECT_SECONDS`, or rejects the
            request.
    """
    client = client_of(uri)
    shown = printable(mlflow.get_tracking_uri())
    limit = connect_seconds()
    attempts, error = Attempts(limit), ""
    while True:
        try:
            with attempts.settings():
                _within(max(attempts.left(), 1.0), lambda: client.search_experiments(max_results=1))
            return client
        except TimeoutError:
            raise TrackingError(_unreachable(shown, limit, error)) from None
        except Exception as failure:  # SQLAlchemy's errors as well as MLflow's
            error = describe_error(failure)
            if is_refusal(failure):
                raise TrackingError(f"tracking server {shown} refused: {error}") from failure
        if not attempts.another():
            raise TrackingError(_unreachable(shown, limit, error))


def client_of(uri: str | None = None) -> MlflowClient:
    """A client without a connection check; a local database is created if missing.

    Raises:
        UsageError: MLflow does not support the URI.
        TrackingError: the local database cannot be opened.
    """
    if uri is not None:
        mlflow.set_tracking_uri(uri)
    uri = mlflow.get_tracking_uri()
    _check_uri(uri)
    _redact_logs()
    database = _sqlite_file(uri)
    if database is not None:
        return _initialised(uri, database)
    try:
        return _within(connect_seconds(), lambda: MlflowClient(uri))
    except TimeoutError:
        raise TrackingError(_unreachable(printable(uri), connect_seconds(), "")) from None
    except MlflowException as error:
        raise UsageError(
            f"MLFLOW_TRACKING_URI {printable(uri)!r}: {describe_error(error)}"
        ) from error
    except Exception as error:  # SQLAlchemy's errors, a missing driver
        shown = printable(uri)
        raise TrackingError(f"{shown} cannot be opened: {describe_error(error)}") from error


class Attempts:
    """Repeated attempts of a request, for a number of seconds, with growing pauses.

    The first attempt waits a third of that time for a response, each further one twice as long as
    the one before, so that a lost request or response can be repeated within the time.
    """

    def __init__(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds
        self._delay, self._timeout = FIRST_DELAY, seconds / 3

    def left(self) -> float:
        """Seconds until the deadline."""
        return self._deadline - time.monotonic()

    def settings(self, users_retries: bool = False) -> AbstractContextManager[None]:
        """MLflow's HTTP settings for the next attempt, with the retries of a user's settings or
        without retries.
        """
        longest = float(os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT", "60"))
        seconds, self._timeout = min(self._timeout, longest), 2 * self._timeout
        timeout = str(max(1, round(seconds)))
        if users_retries:
            return http_settings(TIMEOUT=timeout)
        return http_settings(TIMEOUT=timeout, MAX_RETRIES="0")

    def another(self) -> bool:
        """Pauses before another attempt; returns False if no time is left for one."""
        if self.left() <= self._delay:
            return False
        time.sleep(self._delay)
        self._delay = min(2 * self._delay, LONGEST_DELAY)
        return True


def is_transient(error: Exception) -> bool:
    """Whether a repeated request may succeed.

    Errors of a local store are not: MLflow itself repeats requests to a locked database.
    """
    if isinstance(error, MlflowException) and error.error_code == "TEMPORARILY_UNAVAILABLE":
        return True
    is_missing = _MISSING in str(error)  # MLflow gives a failed download no error code
    if is_missing or is_refusal(error) or not is_http(mlflow.get_tracking_uri()):
        return False
    return isinstance(error, MlflowException) or network_reason(error) != ""


def is_permanent(error: Exception) -> bool:
    """Whether a retry of the request cannot succeed."""
    return isinstance(error, MlflowException) and error.error_code in _PERMANENT


def is_refusal(error: Exception) -> bool:
    """Whether the server rejected the request: permanently, or for this user."""
    denied = isinstance(error, MlflowException) and error.error_code in _DENIED
    return denied or is_permanent(error)


def describe_error(error: Exception) -> str:
    """An error in one short line: the reason of a network error, else its first line or its cause;
    without passwords.
    """
    if reason := network_reason(error):
        return reason
    text = without_secrets(str(error))
    line = (text.splitlines() or [""])[0] or type(error).__name__
    cause = _CAUSE.search(line)
    return (cause[1] if cause else line)[:200]


def without_secrets(text: str) -> str:
    """Removes the secrets of the tracking URI and of the environment from a text, and the users,
    passwords and queries of all URIs in it.
    """
    return redact(text, _secrets())


def _secrets() -> set[str]:
    uris = {mlflow.get_tracking_uri(), *(os.environ.get(name, "") for name in _URIS)}
    found = {secret for uri in uris for secret in secrets_of(str(uri))}
    return found | {os.environ.get(name, "") for name in _CREDENTIALS} - {""}


def _redact_logs() -> None:
    """Removes secrets from the log records of this process, if there are any.

    MLflow logs SQLAlchemy's errors, which quote the URI.
    """
    create = logging.getLogRecordFactory()
    if create is _redacted_record or not any(len(s) >= MIN_LENGTH for s in _secrets()):
        return
    _create_record.append(create)
    logging.setLogRecordFactory(_redacted_record)


_create_record: list[Callable[..., logging.LogRecord]] = []


def _redacted_record(*args: Any, **kwargs: Any) -> logging.LogRecord:
    record = _create_record[-1](*args, **kwargs)
    record.msg, record.args = without_secrets(record.getMessage()), ()
    if record.exc_info:
        record.exc_text = without_secrets(logging.Formatter().formatException(record.exc_info))
    return record


def _check_uri(uri: str) -> None:
    """Checks that the libraries that open a URI find the same host in it.

    Raises:
        UsageError: they do not.
    """
    try:
        parts = urlsplit(uri)
        is_valid = not is_http(uri) or bool(parse_url(uri).host and parts.hostname)
        is_valid = is_valid and (not is_http(uri) or parts.port != 0)
    except (ValueError, LocationParseError):
        is_valid = False
    if not is_valid:
        raise UsageError(
            f"MLFLOW_TRACKING_URI {printable(uri)!r}: its host or port is not valid; in a user and "
            "password, write special characters such as / ? # [ ] as %2F %3F %23 %5B %5D"
        )


def public_uri(uri: str) -> str:
    """A tracking URI as stored in the journal: absolute, without user, password or query."""
    database = _sqlite_file(uri)
    if database is not None:
        return f"sqlite:///{database.absolute()}"
    shown = printable(uri)
    if "://" in uri or uri.startswith(("file:", "databricks")) or shown == HIDDEN:
        return shown
    return Path(uri).absolute().as_uri()


def full_uri(stored: str | None) -> str:
    """The tracking URI for a URI from `public_uri`, with the secrets in MLFLOW_TRACKING_URI.

    Raises:
        TrackingError: it is another database server than MLFLOW_TRACKING_URI.
    """
    current = mlflow.get_tracking_uri()
    if stored is None or stored == public_uri(current):
        return str(current)
    if urlsplit(stored).scheme in ("sqlite", "file", "http", "https", "databricks"):
        return stored
    raise TrackingError(f"set MLFLOW_TRACKING_URI to {stored} with its user and password")


def repeated(call: Callable[[], T]) -> T:
    """The result of an idempotent request, repeated for `RUNBACK_CONNECT_SECONDS` after transient
    faults: a reset, HTTP status 503, a truncated response.
    """
    attempts = Attempts(connect_seconds())
    while True:
        try:
            with attempts.settings():
                return call()
        except Exception as error:
            if not is_transient(error) or not attempts.another():
                raise


def request(what: str, call: Callable[[], T]) -> T:
    """Calls the server with an idempotent request, see `repeated`, and converts its errors.

    Raises:
        TrackingError: the server is unreachable or rejects the request.
    """
    try:
        return repeated(call)
    except (MlflowException, OSError, ValueError) as error:
        raise TrackingError(f"{what}: {describe_error(error)}") from error


@contextmanager
def http_settings(**settings: str) -> Iterator[None]:
    """Sets MLflow's HTTP settings inside the block; MLflow reads them at each request."""
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


def is_http(uri: str) -> bool:
    """Whether a tracking URI is an HTTP server."""
    return urlsplit(uri).scheme in ("http", "https")


def _sqlite_file(uri: str) -> Path | None:
    if not uri.startswith("sqlite:///"):
        return None
    return Path(unquote(uri.removeprefix("sqlite:///")).split("?")[0])


def _initialised(uri: str, database: Path) -> MlflowClient:
    """Opens a local database; its tables are created under a lock.

    Without it, four processes that created a database at the same time failed in 15 of 20 trials.
    """
    if not database.parent.is_dir():
        raise TrackingError(f"{printable(uri)}: no such folder {database.parent}")
    _check_is_database(printable(uri), database)
    lock = FileLock(database.with_name(database.name + ".lock"))
    if not lock.wait(INIT_SECONDS):
        raise TrackingError(f"{printable(uri)} is still being initialised by {lock.holder()}")
    with lock:
        try:
            client = MlflowClient(uri)
            client.search_experiments(max_results=1)
        except Exception as error:  # SQLAlchemy's errors as well as MLflow's
            shown = printable(uri)
            raise TrackingError(f"{shown} cannot be opened: {describe_error(error)}") from error
    return client


def _check_is_database(shown: str, database: Path) -> None:
    """Checks the file's header: MLflow would retry a damaged file for an hour."""
    if not database.exists():
        return
    try:
        with database.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise TrackingError(f"{shown} cannot be opened: {error.strerror}") from None
    if head not in (b"", b"SQLite format 3\0"):
        raise TrackingError(f"{shown} cannot be opened: {database} is not a SQLite database")


def _within(seconds: float, call: Callable[[], T]) -> T:
    """The result of a call that may hang, run on a thread.

    Raises:
        TimeoutError: it takes longer than `seconds`; the thread is abandoned.
    """
    results: list[T] = []
    failures: list[Exception] = []

    def run() -> None:
        try:
            results.append(call())
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=run, name="connect", daemon=True)
    thread.start()
    thread.join(max(0.0, seconds))
    if thread.is_alive():
        raise TimeoutError
    if failures:
        raise failures[0]
    return results[0]


def _unreachable(shown: str, limit: float, error: str) -> str:
    cause = f" ({error})" if error else ""
    return f"tracking server {shown} did not respond within {limit:g} s{cause}; nothing was started"
