"""No password is printed or stored: in URIs of any form, and in what libraries say about them."""

from __future__ import annotations

import base64
import logging
import os
import sqlite3
from pathlib import Path
from urllib.parse import quote, quote_plus, urlsplit

import pytest
import sqlalchemy
from hypothesis import example, given
from hypothesis import strategies as st
from urllib3.util import parse_url

from conftest import Workspace
from runback.errors import RunbackError, TrackingError, UsageError
from runback.tracking import connection
from runback.tracking.connection import public_uri
from runback.tracking.redaction import printable, redact, secrets_of

# A marker in every secret makes a leak visible, also of a part.
MARK = "zq9xk"
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12)
SPECIAL = st.text("@:/?#&=;%[]{}<>() '\"\\|+*$!~,é\n", max_size=8)
SECRET = st.one_of(
    st.tuples(st.one_of(TEXT, SPECIAL), st.one_of(TEXT, SPECIAL)).map(lambda p: f"{p[0]}{MARK}{p[1]}"),
    st.just(f"p@{MARK}"),
)  # fmt: skip
FORMS = [
    "http://user:{}@host:5000",
    "https://user:{}@host/path",
    "http://{}@host",
    "http://{}:@host:80/",
    "http://host:5000/?token={}",
    "http://user:x@a,b:{}@c/path",
    "postgresql://user:{}@host:5432/db",
    "postgresql+psycopg2://user:{}@/db?host=/tmp",
    "postgresql://host/db?user=me&password={}",
    "postgresql://host/db?user=a@b&password={}",
    "mysql+pymysql://{}@host/db",
    "mssql+pyodbc:///?odbc_connect=DRIVER={{x}};SERVER=h;UID=me;PWD={}",
    "mssql+pyodbc://user:{}@host/db?driver=x",
    "databricks://{}@host",
    "http:/user:{}@host",
    "http:user:{}@host",
    "user:{}@host",
    "sqlite+pysqlcipher://:{}@/file.db",
    "sqlite:///file.db?key={}",
]
QUOTING = st.sampled_from([str, quote, quote_plus, lambda text: quote(text, safe="")])


@given(form=st.sampled_from(FORMS), secret=SECRET, quoted=QUOTING)
@example("http://user:{}@host", f"p@{MARK}", str)
@example("http://user:{}@host", f"my {MARK} word", str)
@example("http://user:{}@host", f"a/{MARK}", str)
@example("http://user:{}@host", f"a?{MARK}", str)
def test_a_printable_place_has_no_secret(form, secret, quoted) -> None:
    shown = printable(form.format(quoted(secret)))
    assert MARK not in shown, shown
    assert shown.isprintable()


@given(form=st.sampled_from(FORMS), secret=SECRET, quoted=QUOTING)
@example("http://host:5000/?token={}", f";&{MARK}", str)
@example("http://host:5000/?token={}", f"a&{MARK}=b", str)
@example("postgresql://host/db?user=me&password={}", f"a&{MARK}=b", str)
def test_a_redacted_text_has_no_secret(form, secret, quoted) -> None:
    """Whatever part of the URI a library quotes, and however it writes it."""
    uri = form.format(quoted(secret))
    if uri.startswith("sqlite:///"):
        return  # SQLite has no secrets, and its query is left out
    if "/{}" in form and ":" in quoted(secret):
        return  # what stands before the colon is a user
    spellings = (
        uri, repr(uri), uri.upper(), secret, quote(secret), quote_plus(secret), repr(secret),
        f"cannot resolve {secret.partition('@')[2] or secret!r} now", quote(uri), secret.lower(),
    )  # fmt: skip
    for text in spellings:
        shown = redact(f"GET {text} failed", secrets_of(uri))
        assert MARK not in shown.lower(), shown


@given(st.text())
def test_any_text_can_be_redacted(text: str) -> None:
    assert printable(text).isprintable()
    assert isinstance(redact(text, secrets_of(text)), str)


PLACES = [
    ("http://host:5000", "http://host:5000"),
    ("https://me:pw@host/base/path", "https://host/base/path"),
    ("http://[::1]:5000/x?y=1", "http://[::1]:5000/x"),
    ("postgresql://u:p@host:5432/db?sslmode=require", "postgresql://host:5432/db"),
    ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
    ("sqlite:///mlflow.db?timeout=3", "sqlite:///mlflow.db"),
    ("file:///home/me@work/mlruns", "file:///home/me@work/mlruns"),
    ("./mlruns", "./mlruns"),
    ("databricks", "databricks"),
    ("databricks://profile", "databricks://profile"),
    ("mssql+pyodbc:///?odbc_connect=PWD%3Dx", "mssql+pyodbc:///"),
]


@pytest.mark.parametrize(("uri", "shown"), PLACES)
def test_a_place_without_secrets_stays_readable(uri: str, shown: str) -> None:
    assert printable(uri) == shown


HOST = st.from_regex(r"[a-z][a-z0-9-]{0,8}(\.[a-z]{2,4})?", fullmatch=True)


@given(host=HOST, port=st.integers(1, 65535), secret=SECRET)
def test_the_shown_host_is_the_one_that_urllib3_uses(host: str, port: int, secret: str) -> None:
    uri = f"http://user:{quote(secret, safe='')}@{host}:{port}/path"
    shown = urlsplit(printable(uri))
    parsed = parse_url(uri)
    assert (shown.hostname, shown.port, shown.path) == (parsed.host, parsed.port, parsed.path)


@given(host=HOST, port=st.integers(1, 65535), secret=SECRET)
def test_the_shown_host_is_the_one_that_sqlalchemy_uses(host: str, port: int, secret: str) -> None:
    uri = f"postgresql://user:{quote(secret, safe='')}@{host}:{port}/db"
    url = sqlalchemy.engine.make_url(uri)
    assert url.password == secret
    assert printable(uri) == f"postgresql://{url.host}:{url.port}/{url.database}"


BROKEN = [
    "http://[::1",
    "http://",
    "http://user:pass/{}@host",
    "http://user:{}@host:port",
    "http://user:{}@[::1",
    "http://{}@",
    "https://:{}@:5000",
    "http://host:99999",
]


@pytest.mark.parametrize("form", BROKEN)
def test_a_malformed_uri_is_one_sentence(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", form.format(MARK))
    with pytest.raises(UsageError) as caught:
        connection.connect()
    assert MARK not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "its host or port is not valid" in str(caught.value)


@pytest.mark.parametrize("command", ["train", "evaluate", "resume", "sync"])
def test_a_malformed_uri_ends_each_command_with_code_2(workspace: Workspace, command: str) -> None:
    arguments = ["latest"] if command != "train" else ["--epochs", "1", "--data", "t.csv"]
    rows = "".join(f"{n},{n}\n" for n in range(200))
    (workspace.folder / "t.csv").write_text("x,y\n" + rows)
    done = workspace.runback(command, *arguments, MLFLOW_TRACKING_URI="http://[::1")
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "MLFLOW_TRACKING_URI 'http://[::1'" in done.stderr


UNREACHABLE = [
    "http://user:{}@127.0.0.1:9",
    "http://{}@127.0.0.1:9/base",
    "http://127.0.0.1:9/?token={}",
    "postgresql://user:{}@127.0.0.1:9/db",
    "postgresql://127.0.0.1:9/db?password={}",
    "mssql+pyodbc:///?odbc_connect=PWD={}",
    "mysql+pymysql://user:{}@127.0.0.1:9/db",
    "sqlite:////nowhere/{}/../x.db?key={}",
]


@pytest.mark.parametrize(
    "password", [f"p@{MARK}", f"my {MARK} word", f"{MARK}:%41&x=é", f"100%{MARK}"]
)
@pytest.mark.parametrize("form", [form for form in UNREACHABLE if "sqlite" not in form])
def test_what_libraries_say_shows_no_password(
    form: str,
    password: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """SQLAlchemy, drivers, requests and urllib3 quote the URI in their errors."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", form.format(password))
    monkeypatch.setenv("RUNBACK_CONNECT_SECONDS", "1")
    monkeypatch.setattr(logging, "_logRecordFactory", logging.getLogRecordFactory())
    with pytest.raises(RunbackError) as caught:
        connection.connect()
    captured = capfd.readouterr()
    for text in (str(caught.value), captured.out, captured.err):
        assert MARK not in text, text
    assert "\n" not in str(caught.value)


def test_log_records_of_libraries_show_no_password(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    uri = f"http://user:p@{MARK}@127.0.0.1:9"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("RUNBACK_CONNECT_SECONDS", "1")
    monkeypatch.setattr(logging, "_logRecordFactory", logging.getLogRecordFactory())
    with pytest.raises(TrackingError):
        connection.connect()
    try:
        raise ValueError(uri)
    except ValueError:
        logging.getLogger("mlflow.store").exception("cannot open %s", uri)
    assert "cannot open http://127.0.0.1:9" in caplog.text
    assert MARK not in caplog.text


def test_credentials_of_the_environment_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", f"token-{MARK}")
    shown = connection.describe_error(ValueError(f"401 for Bearer token-{MARK}"))
    assert MARK not in shown and shown.startswith("401 for Bearer")


def test_a_training_stores_no_password(remote: Workspace) -> None:
    """Neither in the journal, the artifacts, the tags and params, nor on standard error."""
    uri = remote.uri.replace("://", f"://me:p@{MARK}@")
    done = remote.runback("train", "--epochs", "2", "--data", data(remote), MLFLOW_TRACKING_URI=uri)
    assert done.returncode == 0, done.stderr
    run_id = done.stdout.strip()
    assert remote.runback("evaluate", run_id, MLFLOW_TRACKING_URI=uri).returncode == 0
    basic = base64.b64encode(f"me:p@{MARK}".encode())
    for folder, _, names in os.walk(remote.folder):
        for name in names:
            content = Path(folder, name).read_bytes()
            assert MARK.encode() not in content, Path(folder, name)
            assert basic not in content, Path(folder, name)
    assert MARK not in done.stderr
    with sqlite3.connect(remote.home(run_id) / "journal.db") as db:
        facts = "".join(map(str, db.execute("SELECT * FROM facts").fetchall()))
    db.close()
    assert remote.uri in facts


def data(workspace: Workspace) -> str:
    (workspace.folder / "t.csv").write_text("x,y\n" + "".join(f"{i},{i}\n" for i in range(300)))
    return "t.csv"


@given(form=st.sampled_from(FORMS), secret=SECRET)
def test_the_uri_in_the_journal_has_no_secret(form: str, secret: str) -> None:
    if not form.startswith("user:"):
        assert MARK not in public_uri(form.format(secret))
