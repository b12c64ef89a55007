"""What a database says when it cannot be used, as one line: which file, what is wrong with it, what to do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sqlalchemy import Engine, event
from sqlalchemy.engine import ExceptionContext, make_url

from engine.errors import CampaignError, MergefleetError

_ELSE = "Name another file (`store` in the campaign file), or move this one away to start afresh."
_SQLITE: Mapping[str, tuple[type[MergefleetError], str]] = {
    "unable to open database file": (
        CampaignError,
        "cannot be opened: {why}. Name a file in a folder that is there (`store` in the campaign file).",
    ),
    "file is not a database": (CampaignError, f"is no SQLite file. {_ELSE}"),
    "malformed": (CampaignError, f"is damaged ({{said}}). Put a copy back, if there is one. {_ELSE}"),
    "readonly": (CampaignError, "cannot be written to. Give yourself the right to, or name another file (`store`)."),
    "disk is full": (
        MergefleetError,
        "the disk is full. What was committed is kept: free some space, and run the command again with --resume.",
    ),
    "disk I/O error": (
        MergefleetError,
        "the disk failed (disk I/O error). What was committed is kept: run the command again with --resume.",
    ),
}
"""What SQLite says, in part → the class of our error, and what it says. A lock that is held is no failure: store.py."""


def place_of(url: str) -> str:
    """What messages call a database: the path of a file, else its URL without the password."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        return parsed.database
    return shown_url(url)


def shown_url(url: str) -> str:
    """A database's URL for people: without its password."""
    return make_url(url).render_as_string(hide_password=True)


def explain_failures(engine: Engine) -> None:
    """Let failures of this engine's database come out as errors that name it."""
    place = place_of(engine.url.render_as_string(hide_password=False))

    def explain(context: ExceptionContext) -> BaseException | None:
        said = str(context.original_exception).strip().splitlines()
        return failure(place, said[0] if said else "", connected=context.connection is not None)

    event.listen(engine, "handle_error", explain)


def failure(place: str, said: str, *, connected: bool) -> MergefleetError | None:
    """The error for what a database said; None for what is left to the caller."""
    if "://" in place:
        return None if connected else CampaignError(f"{place}: the database cannot be reached: {said.rstrip('.')}.")
    for part, (kind, text) in _SQLITE.items():
        if part in said:
            return kind(f"{place}: {text.format(why=_why_not_opened(Path(place)), said=said)}", file=place)
    return None


def _why_not_opened(path: Path) -> str:
    if path.is_dir():
        return "it is a folder"
    return "you may not" if path.parent.is_dir() else f"{path.parent} is no folder"
