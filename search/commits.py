"""When a coordinator's changes become rows: at the end of the call that made them, or a little later, many at a time.

A transaction per work unit costs 3 ms, which small models notice. So rows may wait in memory for `commit_every_s`; a
kill loses what came in meanwhile, and it is scored again to the same bits. What must not be lost (store/pending.py) is
committed at once; and so is everything while a run has just been continued, for a unit that ends its process every time
has to be in the rows by then, to be counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from engine.errors import EvaluationError
from search.desk import Desk
from search.progress import Progress
from search.store import schema
from search.store.pending import Pending
from search.trackers.newsroom import Newsroom

NOTE_TIME_EVERY_S = 5.0
CAREFUL = 32
"""Commits of a continued run until they may wait."""


class Commits:
    """Of one coordinator. `broken` is the failure after which nothing is believed or written any more."""

    def __init__(self, desk: Desk, progress: Progress, news: Newsroom | None) -> None:
        self._desk, self._progress, self._news = desk, progress, news
        self._services = desk.services
        self._noted = self._services.now()
        self._committed = -math.inf
        self._careful = CAREFUL if desk.run.store.epoch > 1 else 0
        self.broken: BaseException | None = None

    @contextmanager
    def after(self, *, at_once: bool = False) -> Iterator[None]:
        """Run a call, then commit if that is due; any failure ends this coordinator."""
        if self.broken is not None:
            raise self.broken
        try:
            yield
            self._commit(at_once=at_once)
        except EvaluationError as failure:  # the campaign ends for a reason, and the rows should say which
            self.broken = failure
            self._commit(at_once=True)
            raise
        except BaseException as failure:
            self.broken = failure
            raise

    @property
    def careful(self) -> bool:
        """Whether everything is committed at once."""
        return self._careful > 0

    def late(self, *, at_once: bool = False) -> None:
        """Commit what waits, if that is due, in a call that changes nothing itself."""
        if self.broken is None and self._desk.pending:
            with self.after(at_once=at_once):
                pass

    def note_time(self, *, every_s: float = NOTE_TIME_EVERY_S) -> None:
        """Write the campaign's running time down, if that is `every_s` ago: a kill loses no more than that."""
        now = self._services.now()
        if now - self._noted >= every_s:
            self._noted = now
            self._desk.pending.change(schema.CAMPAIGNS, {"seconds": self._progress.seconds(now)})

    def _commit(self, *, at_once: bool) -> None:
        desk, now = self._desk, self._services.now()
        if desk.pending:
            at_once = at_once or desk.pending.urgent or self._careful > 0
            if not at_once and 0 <= now - self._committed < self._services.commit_every_s:
                return
            self.note_time()
            with desk.run.store.transaction() as transaction:
                desk.pending.write(transaction)
            desk.pending = Pending()
            self._committed = now
            self._careful -= 1
        if self._news is not None and self._news.pending and self._services.tell is not None:
            self._services.tell(self._news.take())
