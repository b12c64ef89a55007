"""A stand-in for an OpenAI-compatible endpoint on this machine, which can fail on purpose."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from local_server import ANY_PORT, served

Reply = Callable[[str], str | dict[str, Any]]
Fault = tuple[int, dict[str, str]] | str  # a status with headers; "garbage", "drop", "slow"


class JudgeServer:
    """`reply` makes an answer from a prompt, its text or the whole choice; `faults` are met first, one a request."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.faults: list[Fault] = []
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.url = ""
        self.lock = threading.Lock()


def choice_of(content: Any, *, finish_reason: str | None = "stop") -> dict[str, Any]:
    """A choice of a chat completion."""
    return {"message": {"role": "assistant", "content": content}, "finish_reason": finish_reason}


@contextmanager
def serving(reply: Reply) -> Iterator[JudgeServer]:
    """A server on a free port, until the block ends."""
    state = JudgeServer(reply)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with state.lock:
                state.asked.append(body)
                state.headers.append(dict(self.headers))
                fault = state.faults.pop(0) if state.faults else None
            if fault == "drop":
                self.close_connection = True
                return
            if fault == "slow":
                released.wait(5)
                return
            if isinstance(fault, tuple):
                self.send_response(fault[0])
                for name, value in fault[1].items():
                    self.send_header(name, value)
                self.end_headers()
                return
            said = state.reply(body["messages"][0]["content"])
            choice = said if isinstance(said, dict) else choice_of(said)
            made = {"choices": [choice]}
            payload = b"<html>" if fault == "garbage" else json.dumps(made).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *_: Any) -> None:
            pass

    released = threading.Event()
    server = ThreadingHTTPServer(ANY_PORT, Handler)
    server.daemon_threads = True
    with served(server) as url:
        state.url = f"{url}/v1"
        try:
            yield state
        finally:
            released.set()
