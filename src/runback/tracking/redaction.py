"""Removes passwords and tokens from URIs, and from texts of libraries that quote them.

Imports no mlflow.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from urllib.parse import parse_qsl, quote, quote_plus, unquote, unquote_plus

HIDDEN = "***"
# Shorter parts of a secret are words like any other; a shorter secret is removed from URIs only.
MIN_LENGTH = 4
_LOCAL = ("sqlite:///", "file:")
_URI = re.compile(r"[A-Za-z][\w+.-]*:/+[^\s'\"<>]+")
_END = re.compile(r"[?#;&]")  # of the part of a URI that names a place
# Characters that urllib3 and requests leave unquoted in a URI.
_SAFE = ("", "/", "!$&'()*+,;=:~", "!#$%&'()*+,/:;=?@[]~")


def printable(uri: str) -> str:
    """A place without user, password, token and query: scheme, host, port and path.

    A password may contain any character, as users write it, quoted or not: everything up to the last
    `@` is left out, as urllib3 does before a `/`, `?` or `#`. Where these characters leave open
    whether an `@` belongs to a password, only the scheme is shown.
    """
    scheme, slashes, rest = _split(uri)
    if not scheme or _is_local(uri):
        is_url = ":" in uri.partition("@")[0] and "@" in uri and not _is_local(uri)
        text = HIDDEN if is_url else uri.partition("?")[0]
        return _in_one_line(text)
    place = _END.split(rest, maxsplit=1)[0]
    if "@" in rest[len(place) :]:
        return _in_one_line(f"{scheme}{slashes}{HIDDEN}")
    shown = place.rpartition("@")[2]
    if "=" in shown:  # a query without its question mark
        shown = shown.partition("=")[0].rpartition("/")[0]
    return _in_one_line(f"{scheme}{slashes}{shown}")


def secrets_of(uri: str) -> set[str]:
    """The parts of a URI that `printable` leaves out, except the user of a password."""
    scheme, _, rest = _split(uri)
    if not scheme or _is_local(uri):
        return set() if printable(uri) != HIDDEN else {uri}
    place = _END.split(rest, maxsplit=1)[0]
    query = rest[len(place) :]
    user_info = rest.rpartition("@")[0]
    user, _, password = user_info.partition(":")
    found = {password, user_info if "@" in query else ""}
    found |= {user} if len(password) < MIN_LENGTH else set()  # a token may stand alone
    # SQLAlchemy ends a password at the first "@", and takes the rest for the host.
    found |= {value for _, value in parse_qsl(query.lstrip("?#;&"), keep_blank_values=True)}
    found |= set(_odbc_values(query))
    # A "&" that was not quoted may belong to a secret, so that the next name is a part of it.
    found.add(query.partition("=")[2])
    return found - {""}


def redact(text: str, secrets: Iterable[str]) -> str:
    """Removes secrets from a text, whole or in parts, as written or in other encodings, and the
    users, passwords and queries of all URIs in it.
    """
    parts = sorted({part for s in secrets for part in _spellings(s)}, key=len, reverse=True)
    if parts:
        pattern = re.compile("|".join(map(re.escape, parts)), re.IGNORECASE)
        text = pattern.sub(HIDDEN, text)
    return _URI.sub(lambda match: _printable_in_text(match[0]), text)


def _is_local(uri: str) -> bool:
    """Whether a URI is a file's path, which may contain `@`; one with a user before a host is not."""
    return uri.startswith(_LOCAL) and not re.match("file://[^/]*@", uri)


def _split(uri: str) -> tuple[str, str, str]:
    """The scheme with its colon, the slashes and the rest; no scheme for a path."""
    match = re.match(r"([A-Za-z][\w+.-]*:)(//)(.*)", uri, re.DOTALL)
    return (match[1], match[2], match[3]) if match else ("", "", uri)


def _odbc_values(query: str) -> list[str]:
    """The values of an ODBC connection string in a query, such as PWD={a;b}."""
    return re.findall(r"=\s*\{?([^;{}=]+)", unquote_plus(query))


def _spellings(secret: str) -> set[str]:
    """A secret in the encodings in which libraries quote it, and its parts."""
    plain = {secret, unquote(secret), unquote_plus(secret)}
    quoted = {quote(text, safe=safe) for text in plain for safe in _SAFE}
    escaped = {form for text in plain for form in (repr(text)[1:-1], json.dumps(text)[1:-1])}
    whole = plain | quoted | escaped | {quote_plus(text) for text in plain}
    parts = {part for text in plain for part in re.split(r"[^0-9A-Za-z]+", text)}
    return {text for text in whole | parts if len(text) >= MIN_LENGTH}


def _printable_in_text(uri: str) -> str:
    """A URI found in a text, without the punctuation that follows it."""
    plain = uri.rstrip(".,:;)]}")
    return printable(plain) + uri[len(plain) :]


def _in_one_line(text: str) -> str:
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
