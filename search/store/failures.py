"""What a database says when it cannot be used, as one line: which one, what is wrong with it, what to do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sqlalchemy import URL, Engine, event
from sqlalchemy.engine import ExceptionContext, make_url

from engine.errors import CampaignError, MergefleetError, StoreAway
from search.whole_file import is_read_only

_AGAIN = "run the command again (a search: with --resume)."
_ELSE = "Name another file (`store` in the campaign file), or move this one away to start afresh."
_SQLITE: Mapping[str, tuple[type[MergefleetError], str]] = {
    "unable to open database file": (
        CampaignError,
        "cannot be opened: {why}",
    ),
    "file is not a database": (CampaignError, f"is no SQLite file. {_ELSE}"),
    "malformed": (CampaignError, f"is damaged ({{said}}). Put a copy back, if there is one. {_ELSE}"),
    "readonly": (CampaignError, "cannot be written to{unwritable}"),
    "disk is full": (
        MergefleetError,
        f"the disk is full. What was committed is kept: free some space, and {_AGAIN}",
    ),
    "disk I/O error": (
        MergefleetError,
        f"the disk failed, or is full ({{said}}). What was committed is kept: when that is mended, {_AGAIN}",
    ),
}
"""What SQLite says, in part → the class of our error, and what it says."""
_COPY = "Copy the run's directory to where it can be written, and name that one (--run-dir)."
_KEPT = "What was committed is kept: run the command again with --resume when that is mended."
_SERVER: Mapping[str, tuple[type[MergefleetError], str]] = {
    "No space left on device": (MergefleetError, f"the server's disk is full ({{said}}). {_KEPT}"),
    "read-only transaction": (CampaignError, f"the server takes no writes ({{said}}): is it a standby? {_KEPT}"),
    "permission denied": (CampaignError, f"{{said}}. Give the user of the URL the right to. {_KEPT}"),
}
"""The same for PostgreSQL. Of what it says, these are the parts that are the same in every version and encoding."""
_LOCK_NOT_AVAILABLE = "55P03"
"""PostgreSQL's code for a lock that was waited for in vain, whatever language it says it in."""
_SECRET = frozenset({"password", "sslpassword"})
"""What libpq takes as parameters of a URL, besides the password before the host."""


def place_of(url: str) -> str:
    """What messages call a database: the path of a file, else its URL without the password."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        return parsed.database
    return shown_url(url)


def shown_url(url: str) -> str:
    """A database's URL for people: as they write it (without the driver that we use), and without its password."""
    parsed = make_url(url)
    shown = parsed.difference_update_query(_SECRET).set(drivername=parsed.get_backend_name())
    return shown.render_as_string(hide_password=True)


def without_password(url: URL) -> URL:
    """The same database, for who has the password from elsewhere."""
    kept = url.difference_update_query(_SECRET)
    return URL.create(
        kept.get_backend_name(),
        kept.username,
        None,
        host=kept.host,
        port=kept.port,
        database=kept.database,
        query=kept.query,
    )


def explain_failures(engine: Engine, lock_wait_s: float) -> None:
    """Let failures of this engine's database come out as errors that name it; for `lock_wait_s` see engines.py."""
    place = place_of(engine.url.render_as_string(hide_password=False))

    def explain(context: ExceptionContext) -> BaseException | None:
        if context.is_pre_ping:  # of a connection that was lost while nobody used it: a new one is made
            return None
        said = (str(context.original_exception).strip().splitlines() or [""])[0]
        if "database is locked" in said:
            return locked(place, said)
        if getattr(context.original_exception, "sqlstate", None) == _LOCK_NOT_AVAILABLE:
            return _writers_at_work(place, 2 * lock_wait_s)
        connected = context.connection is not None and not context.is_disconnect
        return failure(place, said, connected=connected)

    event.listen(engine, "handle_error", explain)


def locked(place: str, said: str) -> StoreAway:
    """Somebody else has held the lock of a SQLite file for longer than a transaction takes."""
    return StoreAway(
        f"{place}: another program holds its lock ({said}): a database shell, a VACUUM? What was committed is kept. "
        "End that program, or let it end.",
        locked=True,
    )


def _writers_at_work(place: str, waited_s: float) -> StoreAway:
    """Others hold a server's locks. One that is stopped inside a transaction is sent away before that (engines.py)."""
    return StoreAway(
        f"{place}: other processes have been writing for {waited_s:g} s, and nothing could be written here. What was "
        "committed is kept. Is a large store being forked or migrated?"
    )


def failure(place: str, said: str, *, connected: bool) -> MergefleetError | None:
    """The error for what a database said; None for what is left to the caller."""
    if "://" in place and not connected:
        return StoreAway(
            f"{place}: the database cannot be reached: {said.rstrip('.')}. What was committed is kept. Is the "
            "server up, and is `store` in the campaign file right?"
        )
    for part, (kind, text) in (_SERVER if "://" in place else _SQLITE).items():
        if part in said:
            return kind(f"{place}: {_told(text, Path(place), said)}", file=place)
    return None


def _told(text: str, path: Path, said: str) -> str:
    return text.format(why=_why_not_opened(path), unwritable=_why_not_written(path), said=said.rstrip("."))


def _why_not_opened(path: Path) -> str:
    if path.is_file() and is_read_only(path):
        return f"its file system is read-only, and {path.name}-wal needs another. {_COPY}"
    name = "Name a file in a folder that is there (`store` in the campaign file)."
    if path.is_dir():
        return f"it is a folder. {name}"
    if path.is_file():
        return "you may not. Give yourself the right to read and write it and its folder."
    return f"you may not. {name}" if path.parent.is_dir() else f"{path.parent} is no folder. {name}"


def _why_not_written(path: Path) -> str:
    if path.is_file() and is_read_only(path):
        return f": its file system is read-only. {_COPY}"
    return ". Give yourself the right to, or name another file (`store`)."
