"""A proxy between a training and a real `mlflow server` that makes faults, as networks and gateways do.

As a program: `python tests/fault_proxy.py PORT [RATE [SEED]]` stands before the server on
127.0.0.1:PORT, prints its own URI, and counts its faults on standard error when it is interrupted.
"""

from __future__ import annotations

import contextlib
import http.client
import random
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# Each fault by what happens: to the request, and to its response.
FAULTS = (
    "drop",  # the request is lost: nobody answers
    "lost",  # the server has handled the request; its response is lost
    "delay",  # both arrive late
    "duplicate",  # the server gets the request twice; the second response arrives
    "late",  # as "reset after", and the server gets the request once more afterwards
    "truncate",  # the response is cut in the middle
    "reset",  # the connection is reset before the server gets the request
    "reset after",  # the connection is reset instead of the response
    "429", "500", "503",  # a gateway refuses in the place of the server
    "500 after", "503 after",  # the server has handled the request
    "html",  # a gateway answers with status 200 and a page in the place of the server
    "html after",  # a page instead of the server's response
)  # fmt: skip
SILENT_SECONDS = 8.0  # longer than a client with the tests' settings waits
PAGE = b"<html><body>please log in</body></html>"
Answer = tuple[int, str, bytes]
Choose = Callable[[str, str], str]


class FaultProxy(ThreadingHTTPServer):
    """Passes requests to a server on loopback, some of them with a fault.

    Args:
        port: of the server.
        choose: gives the fault of a request by its method and path; empty for none.

    Attributes:
        counts: the faults so far, by name; under "" the requests without one.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, port: int, choose: Choose) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.port, self.choose, self.counts = port, choose, Counter[str]()
        self.mutex = threading.Lock()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def next_fault(self, method: str, path: str) -> str:
        with self.mutex:
            fault = self.choose(method, path)
            self.counts[fault] += 1
        return fault

    def handle_error(self, *_: Any) -> None:  # the client has hung up
        return

    @contextmanager
    def running(self) -> Iterator[FaultProxy]:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        yield self
        self.shutdown()
        self.server_close()


def at_random(generator: random.Random, rate: float, faults: tuple[str, ...] = FAULTS) -> Choose:
    """Chooses a fault for each request with a probability."""
    return lambda method, path: generator.choice(faults) if generator.random() < rate else ""


class Script:
    """Gives the next fault of a list to each request whose path has an end, and counts these.

    Attributes:
        faults: still to be made; "away" makes it and all further requests fail.
        away: whether the server is unreachable.
        requests: the number of requests with that end.
    """

    def __init__(self, end: str) -> None:
        self.end, self.requests, self.away = end, 0, False
        self.faults: list[str] = []

    def __call__(self, method: str, path: str) -> str:
        if not path.partition("?")[0].endswith(self.end):
            return "reset" if self.away else ""
        self.requests += 1
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "away":
            self.away = True
            return "reset after"
        return "reset" if self.away else fault


class _Handler(BaseHTTPRequestHandler):
    server: FaultProxy
    protocol_version = "HTTP/1.1"

    def pass_on(self) -> None:
        body = self._body()
        self._act(self.server.next_fault(self.command, self.path), body)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = pass_on

    def _act(self, fault: str, body: bytes) -> None:
        kind, _, after = fault.partition(" ")
        answer = (200, "text/html", PAGE)
        if kind in ("", "lost", "delay", "duplicate", "late", "truncate") or after:
            time.sleep(random.uniform(0.2, 1.0) if kind == "delay" else 0)
            for _ in range(2 if kind == "duplicate" else 1):
                answer = self._answer_of_server(body)
        if kind == "late":
            threading.Timer(0.7, self._answer_of_server, (body,)).start()
        if kind in ("drop", "lost"):
            return self._be_silent()
        if kind in ("reset", "late"):
            return self._reset()
        if kind in ("429", "500", "503"):
            answer = (int(kind), "text/html", PAGE)
        if kind == "html":
            answer = (200, "text/html", PAGE)
        return self._send(answer, cut=kind == "truncate")

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        blocks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            blocks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(blocks)

    def _answer_of_server(self, body: bytes) -> Answer:
        """The server's response; 502 where the server is away, as of a gateway."""
        hop = ("connection", "transfer-encoding", "content-length", "accept-encoding")
        headers = {k: v for k, v in self.headers.items() if k.lower() not in hop}
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        try:
            with contextlib.closing(connection):
                connection.request(self.command, self.path, body, headers)
                reply = connection.getresponse()
                kind = reply.headers.get("Content-Type", "application/octet-stream")
                return reply.status, kind, reply.read()
        except (OSError, http.client.HTTPException):
            return 502, "text/html", PAGE

    def _send(self, answer: Answer, cut: bool) -> None:
        status, kind, content = answer
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)
        self.close_connection = self.close_connection or cut

    def _be_silent(self) -> None:
        """Keeps the connection open until the client gives up, or for `SILENT_SECONDS`."""
        self.connection.settimeout(SILENT_SECONDS)
        with contextlib.suppress(OSError):
            self.connection.recv(1)
        self.close_connection = True

    def _reset(self) -> None:
        """Closes the connection with RST instead of FIN."""
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        return


def main() -> None:
    """Serves until it is interrupted."""
    rate = float(sys.argv[2]) if len(sys.argv) > 2 else 0.1
    generator = random.Random(int(sys.argv[3]) if len(sys.argv) > 3 else None)
    proxy = FaultProxy(int(sys.argv[1]), at_random(generator, rate))
    sys.stdout.write(f"{proxy.uri}\n")
    sys.stdout.flush()
    with contextlib.suppress(KeyboardInterrupt):
        proxy.serve_forever()
    sys.stderr.write(f"{dict(proxy.counts)}\n")


if __name__ == "__main__":
    main()
