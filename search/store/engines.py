"""Connections to the databases that hold a store: SQLite files and PostgreSQL servers.

A SQLite file in WAL mode needs two files beside it even for reading. Where they cannot be made (a read-only file
system, a folder of somebody else's) it is opened for reading only: if nobody has left anything in them as `immutable`,
which needs neither (sqlite.org/wal.html, "Read-Only Databases"), else with what is there.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url

_NETWORK_WAITS = {"connect_timeout": 10, "tcp_user_timeout": 60_000}
"""libpq's: s, ms. By default a server that is cut off is waited for for ever, and for what was sent a quarter hour."""


def make_engine(url: str, lock_wait_s: float) -> Engine:
    """An engine whose transactions are real and whose locks are waited for `lock_wait_s`, no longer."""
    if url.startswith("sqlite"):
        return _connect_sqlite(url, lock_wait_s)
    # A session stopped inside a transaction is ended by the server after `idle`; whoever waits for it waits longer.
    idle_ms = int(lock_wait_s * 1000)
    options = f"-c idle_in_transaction_session_timeout={idle_ms} -c lock_timeout={2 * idle_ms}"
    known = make_url(url).query
    waits = {name: value for name, value in _NETWORK_WAITS.items() if name not in known}
    return create_engine(url, connect_args={**waits, "options": options}, pool_pre_ping=True)


def _connect_sqlite(url: str, lock_wait_s: float) -> Engine:
    """SQLAlchemy's recipe for real transactions on SQLite: we say BEGIN ourselves, and at once ask for the lock."""
    file = Path(make_url(url).database or "")
    for_reading = _is_for_reading(file)
    if for_reading:
        engine = create_engine(url, creator=lambda: _open_for_reading(file, lock_wait_s))
    else:
        engine = create_engine(url, connect_args={"timeout": lock_wait_s, "isolation_level": None})

    def configure(connection: Any, _: Any) -> None:
        if for_reading:
            return
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    def begin(connection: Connection) -> None:
        write = connection.get_execution_options().get("write", True)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    event.listen(engine, "connect", configure)
    event.listen(engine, "begin", begin)
    return engine


def _is_for_reading(file: Path) -> bool:
    """Whether neither the file nor what SQLite needs beside it can be written."""
    return file.is_file() and not any(os.access(place, os.W_OK) for place in (file, file.parent))


def _open_for_reading(file: Path, wait_s: float) -> sqlite3.Connection:
    left = any(Path(f"{file}{end}").exists() for end in ("-wal", "-shm"))
    uri = f"file:{quote(str(file.resolve()))}?mode=ro{'' if left else '&immutable=1'}"
    return sqlite3.connect(uri, uri=True, timeout=wait_s, isolation_level=None, check_same_thread=False)
