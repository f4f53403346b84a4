"""The faults of a connection: their reasons in a few words, and repeated requests."""

from __future__ import annotations

import http.client
import json
import re
import socket
from collections.abc import Iterator

import requests
import urllib3

_STATUS = re.compile(
    r"failed with error code ([0-9]{3}) !=|too many ([0-9]{3}) error responses"
    r"|^([0-9]{3}) (?:Client|Server) Error"
)
_NOT_JSON = "not in a valid JSON format"
_NO_RESPONSE = (TimeoutError, requests.Timeout, urllib3.exceptions.TimeoutError)
_CUT_OFF = (
    http.client.IncompleteRead,
    urllib3.exceptions.IncompleteRead,
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.ContentDecodingError,
)


def network_reason(error: BaseException) -> str:
    """Why a request failed, in a few words; empty if the network and the gateways are no cause."""
    causes = list(_causes(error))
    return next(filter(None, map(_reason, reversed(causes))), "")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what caused it, the innermost last."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _reason(error: BaseException) -> str:
    if isinstance(error, _NO_RESPONSE):
        return "no response in time"
    if isinstance(error, socket.gaierror):
        return "the host name cannot be resolved"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, ConnectionError | http.client.HTTPException):
        cut = isinstance(error, http.client.IncompleteRead)
        return "the response was cut off" if cut else "the connection was closed"
    if isinstance(error, _CUT_OFF):
        return "the response was cut off"
    if isinstance(error, json.JSONDecodeError) or _NOT_JSON in str(error):
        return "the response is not JSON"
    status = _STATUS.search(str(error))
    return f"HTTP status {next(filter(None, status.groups()))}" if status else ""
