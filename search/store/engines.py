"""Connections to the databases that hold a store: SQLite files and PostgreSQL servers."""

from __future__ import annotations

from typing import Any

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
    engine = create_engine(url, connect_args={"timeout": lock_wait_s, "isolation_level": None})

    def configure(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    def begin(connection: Connection) -> None:
        write = connection.get_execution_options().get("write", True)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    event.listen(engine, "connect", configure)
    event.listen(engine, "begin", begin)
    return engine
