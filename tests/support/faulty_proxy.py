"""A proxy before an HTTP server that spoils what a function tells it to: errors, resets, slow and lost answers.

    with running_s3() as server, running_proxy(server, at_random(7, {Fault.SLOW_DOWN: 0.1})) as proxy:
        ...         # clients talk to proxy.url; proxy.log says what was asked, proxy.faults what came of it

A fault is chosen by a function `Request -> Fault | None`, called for one request at a time: `at_random`, `at` (the
n-th matching requests), or one of your own.
"""

from __future__ import annotations

import contextlib
import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from local_server import ANY_PORT, served


class Fault(Enum):
    """What happens to a request."""

    ERROR = "500"  # never reaches the server
    SLOW_DOWN = "503 SlowDown"  # never reaches the server
    TOO_MANY = "429"  # never reaches the server
    DENIED = "403 AccessDenied"  # never reaches the server
    RESET = "reset"  # the connection breaks before the server has heard anything
    LOST = "lost answer"  # the server does it, and the connection breaks before it has answered
    CUT = "cut answer"  # the connection breaks after half of the answer's body
    SLOW = "slow answer"  # the body comes in SLOW_PIECES pieces, SLOW_S apart


SLOW_PIECES = 5
SLOW_S = 0.05


@dataclass(frozen=True)
class Request:
    """What a client asked: `path` without its query, `query` as it was sent, `range` the header or ''."""

    method: str
    path: str
    query: str = ""
    range: str = ""


Choice = Callable[[Request], Fault | None]


@dataclass
class Proxy:
    """A running proxy; `choose` may be replaced while it runs."""

    url: str
    choose: Choice
    log: list[tuple[Request, Fault | None]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def decide(self, request: Request) -> Fault | None:
        """The fault for this request, noted in the log."""
        with self.lock:
            fault = self.choose(request)
            self.log.append((request, fault))
            return fault

    @property
    def faults(self) -> Counter[Fault]:
        """How often each fault was injected."""
        with self.lock:
            return Counter(fault for _, fault in self.log if fault is not None)


def never(request: Request) -> Fault | None:
    """No faults."""
    return None


def at_random(seed: int, shares: Mapping[Fault, float]) -> Choice:
    """Each fault with its share of all requests."""
    source = random.Random(seed)

    def choose(request: Request) -> Fault | None:
        left = source.random()
        for fault, share in shares.items():
            if left < share:
                return fault
            left -= share
        return None

    return choose


def at(fault: Fault, matches: Callable[[Request], bool], *, times: Collection[int] = (0,)) -> Choice:
    """The fault for the matching requests with these numbers, counted from 0."""
    seen = Counter[str]()

    def choose(request: Request) -> Fault | None:
        if not matches(request):
            return None
        seen["matching"] += 1
        return fault if seen["matching"] - 1 in times else None

    return choose


@contextlib.contextmanager
def running_proxy(upstream: str, choose: Choice = never) -> Iterator[Proxy]:
    """A proxy on a free port before the server at `upstream` (http://HOST:PORT) until the block ends."""
    proxy = Proxy("", choose)
    server = _Server(ANY_PORT, partial(_Handler, proxy, urlsplit(upstream).netloc))
    with served(server) as proxy.url:
        yield proxy


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a client's idle connection must not keep the test waiting

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed is no news."""


_ANSWERS = {
    Fault.ERROR: (500, "InternalError", "We encountered an internal error. Please try again."),
    Fault.SLOW_DOWN: (503, "SlowDown", "Please reduce your request rate."),
    Fault.DENIED: (403, "AccessDenied", "Access Denied"),
    Fault.TOO_MANY: (429, "TooManyRequests", "Please reduce your request rate."),
}
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "server", "date"}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, proxy: Proxy, upstream: str, *connection: Any) -> None:
        self.proxy = proxy
        self.upstream = upstream
        super().__init__(*connection)

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = Request(self.command, parts.path, parts.query, self.headers.get("Range", ""))
        fault = self.proxy.decide(request)
        if fault in _ANSWERS:
            self._answer_error(*_ANSWERS[fault])
        elif fault is Fault.RESET:
            self._reset()
        else:
            self._forward(body, fault)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve

    def _answer_error(self, status: int, code: str, text: str) -> None:
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{text}</Message></Error>".encode()
        self._send(status, {"Content-Type": "application/xml"}, len(body))
        if self.command != "HEAD":
            self.wfile.write(body)

    def _forward(self, body: bytes, fault: Fault | None) -> None:
        connection = http.client.HTTPConnection(self.upstream, timeout=120)
        try:
            connection.request(self.command, self.path, body=body or None, headers=dict(self.headers))
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if fault is Fault.LOST:
            self._reset()
            return
        length = int(answer.headers.get("Content-Length") or 0) if self.command == "HEAD" else len(content)
        self._send(answer.status, dict(answer.headers), length)
        self._send_body(content, fault)

    def _send(self, status: int, headers: Mapping[str, str], length: int) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def _send_body(self, content: bytes, fault: Fault | None) -> None:
        if fault is Fault.CUT:
            self.wfile.write(content[: len(content) // 2])
            self._reset()
            return
        pieces = SLOW_PIECES if fault is Fault.SLOW else 1
        step = max(1, -(-len(content) // pieces))
        for start in range(0, len(content), step):
            if start:
                time.sleep(SLOW_S)
            self.wfile.write(content[start : start + step])

    def _reset(self) -> None:
        """Close with RST, as a crashed server or a balancer does."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def log_message(self, *_: object) -> None:
        pass
