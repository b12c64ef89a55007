"""A model from outside on the sealed items of a campaign: it is entered in the campaign's ledger, and only then scored.

Who looks at the holdout before the verdict knows more than the search should: the verdict's notes tell of every visit
before it, the report of all.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from search.store.transaction import Row


@dataclass(frozen=True)
class Visit:
    """One entry: when, who (user and host), which model by its name and the digest of its weights, which items."""

    at: float
    who: str
    model: str
    weights: str
    items: int
    items_digest: str


def visit_of(row: Row) -> Visit:
    """A row of the store."""
    return Visit(**{name: row[name] for name in Visit.__dataclass_fields__})


def make_visit(model: str, weights: str, items: Sequence[str]) -> Visit:
    """An entry for now and whoever runs this process."""
    digest = hashlib.sha256(json.dumps(sorted(items)).encode()).hexdigest()
    return Visit(time.time(), f"{_user()}@{socket.gethostname()}", model, weights, len(items), digest)


def day_of(at: float) -> str:
    """A moment as people write it, in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M")


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container whose user has no name
        return "?"
