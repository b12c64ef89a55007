"""A server of the standard library in a thread of this process, for as long as a block runs."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer

ANY_PORT = ("127.0.0.1", 0)


@contextlib.contextmanager
def served(server: ThreadingHTTPServer) -> Iterator[str]:
    """Answer requests until the block ends; yields http://HOST:PORT."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
