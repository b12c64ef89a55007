"""The truth about a campaign: rows in SQL, written in transactions that a newer coordinator can veto.

Every start of a coordinator takes the campaign's next *epoch*; every transaction first checks that its epoch is still
the campaign's (StaleEpoch otherwise), so a predecessor that wakes up again cannot write. SQLite: WAL, one writer
(`BEGIN IMMEDIATE`), `synchronous=NORMAL`: a killed process loses nothing that was committed; a power cut may lose the
last commits, never the file's consistency, and those units are scored again. A predecessor stopped inside a
transaction holds SQLite's lock for ever: a successor without the lock after `LOCK_WAIT_S` ends that process, if it is
stopped, on this host, and can be identified; else it refuses, naming it.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Connection,
    CursorResult,
    Select,
    Table,
    bindparam,
    delete,
    func,
    insert,
    select,
    union,
    update,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from engine import failpoints
from engine.errors import Busy, CampaignError, StaleEpoch, StoreAway
from search.campaign_file import Campaign, campaign_to_dict
from search.ports import SCORE
from search.store import migration, schema, takeover
from search.store.blocks import BlockScores, KnownBlocks, chunks, count_scores, read_scores, upserting
from search.store.engines import make_engine
from search.store.failures import explain_failures, place_of, shown_url
from search.store.takeover import ProcessIdentity
from search.store.transaction import Row, Transaction

LOCK_WAIT_S = 10.0
_DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg"}
"""By which a database is opened, whatever driver its URL names: `postgresql+psycopg2://` is what many write."""
_MEETINGS = (schema.LEDGER, schema.VISITS)
_RECORDS = (schema.CANDIDATES, schema.COHORTS, schema.ASSESSMENTS, schema.EVENTS, schema.LEASES)


@dataclass(frozen=True)
class CampaignFacts:
    """What a run must have in common with the one it continues; `elites` are written down when it is new."""

    name: str
    config: Mapping[str, Any]
    eval_key: str
    items_digest: str
    layers: int
    elites: Sequence[Any] | None = None


class Store:
    """One campaign in one database. `take_over` first; then `transaction` writes and `rows` reads."""

    def __init__(self, url: str, *, lock_wait_s: float = LOCK_WAIT_S) -> None:
        self.place = place_of(url)
        self._lock_wait_s = lock_wait_s
        self._engine = make_engine(url, lock_wait_s)
        explain_failures(self._engine, lock_wait_s)
        self._reader = self._engine.execution_options(write=False)
        self._known_blocks = KnownBlocks()
        self.campaign = 0
        self.epoch = 0

    def find(self, name: str) -> Row | None:
        """The campaign's row, or None where this database does not hold it. Only reads, makes no file, needs no lock.

        Raises CampaignError where the tables are of another version, with the command that migrates them.
        """
        found = self.rows(schema.CAMPAIGNS, name=name) if self._holds_campaigns() else []
        if found:
            self.campaign = int(found[0]["id"])
        return found[0] if found else None

    def names(self) -> list[str]:
        """The campaigns of this database; raises what `find` raises."""
        return [str(row["name"]) for row in self.rows(schema.CAMPAIGNS)] if self._holds_campaigns() else []

    def take_over(
        self,
        facts: CampaignFacts,
        *,
        now: float,
        afresh: bool = False,
        again: bool = False,
        begin: Callable[[Transaction], None] = lambda transaction: None,
    ) -> int:
        """Become the campaign's one writer: epoch += 1 (creating the campaign in epoch 1). Returns the epoch.

        `afresh`: a campaign of which nothing was `scored` begins again, with these facts.
        `again`: only if the last one was of this very process. StaleEpoch otherwise.
        `begin` writes what shall be there with the epoch, or not at all.
        Raises Busy where the lock is held by a process that cannot be ended from here; `again`, StoreAway.
        """

        def act() -> int:
            with self._engine.begin() as connection:
                epoch = self._next_epoch(connection, facts, now=now, afresh=afresh, again=again)
                begin(Transaction(connection, self.campaign, self._known_blocks))
                failpoints.reach("store.commit")
            return epoch

        self.epoch = act() if again else self._with_lock(act)
        return self.epoch

    def scored(self) -> bool:
        """Whether anything of this campaign was ever scored, or anybody has met its sealed items."""
        with self._reader.connect() as connection:
            return _anything_scored(connection, self.campaign)

    def make_folder(self) -> None:
        """Make the folder of a new SQLite file."""
        Path(str(self._engine.url.database)).parent.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """All or nothing, and only in the present epoch: StaleEpoch where a newer coordinator has taken over."""
        with self._engine.begin() as connection:
            self._check_epoch(connection)
            yield Transaction(connection, self.campaign, self._known_blocks)
            failpoints.reach("store.commit")

    def rows(self, table: Table, **equal: Any) -> list[Row]:
        """Rows of this campaign (of all, for tables without one), as mappings, in the order of the primary key."""
        mine = {"campaign": self.campaign} if "campaign" in table.columns else {}
        wanted = {**mine, **equal}
        with self._reader.connect() as connection:
            return _as_dicts(connection.execute(_selecting(table, tuple(wanted)), wanted))

    def shared_scores(self, recipe_hashes: Sequence[str]) -> list[BlockScores]:
        """What any campaign of this store scored of these recipes."""
        recipe = schema.BLOCK_SCORES.c.recipe_hash
        with self._reader.connect() as connection:
            parts = [read_scores(connection, self._known_blocks, recipe.in_(part)) for part in chunks(recipe_hashes)]
        return list(chain.from_iterable(parts))

    def items_paid(self) -> Counter[str]:
        """Score key → how often this campaign itself scored it."""
        table = schema.BLOCK_SCORES
        mine = (table.c.campaign == self.campaign) & (table.c.measure == SCORE)
        with self._reader.connect() as connection:
            return count_scores(connection, self._known_blocks, mine)

    def weights_digests(self, recipe_hashes: Sequence[str]) -> dict[str, str]:
        """Recipe hash → digest of the weights that were scored, as any campaign of this store noted it."""
        leases, candidates = schema.LEASES, schema.CANDIDATES
        query = (
            select(candidates.c.recipe_hash, leases.c.weights_digest)
            .join(leases, (leases.c.campaign == candidates.c.campaign) & (leases.c.candidate == candidates.c.number))
            .where(leases.c.weights_digest.is_not(None))
            .distinct()
        )
        with self._reader.connect() as connection:
            found = [connection.execute(query.where(candidates.c.recipe_hash.in_(p))) for p in chunks(recipe_hashes)]
            return {row.recipe_hash: row.weights_digest for result in found for row in result}

    def wish(self, wish: str, *, now: float) -> None:
        """Ask the campaign's coordinator for something, from any process: no epoch is taken."""
        table = schema.WISHES
        with self._engine.begin() as connection:
            row = {"campaign": self.campaign, "wish": wish, "at": now}
            connection.execute(upserting(connection.dialect).insert(table).on_conflict_do_nothing(), [row])

    def visit(self, facts: Row) -> None:
        """Enter a model from outside that is about to meet the holdout, from any process: no epoch is taken."""
        table, campaigns = schema.VISITS, schema.CAMPAIGNS
        with self._engine.begin() as connection:
            connection.execute(_locking(select(campaigns.c.id).where(campaigns.c.id == self.campaign)))  # one by one
            mine = select(func.count()).select_from(table).where(table.c.campaign == self.campaign)
            number = connection.execute(mine).scalar_one()
            connection.execute(insert(table), [{**facts, "campaign": self.campaign, "visit": number}])

    def holdout_opened(self) -> bool:
        """Whether anybody of this campaign has met the sealed items."""
        return bool(self.rows(schema.LEDGER))

    def migrate(self) -> tuple[int, Path | None]:
        """Bring the tables to this version, all or nothing: the version they had, and the copy kept of a file."""
        copy = None
        with self._reader.connect() as connection:
            before = migration.version_of(connection)
            older = before is not None and before < schema.VERSION
            if older:
                migration.refuse_running(connection, place=self.place)
        if older and self._engine.dialect.name == "sqlite":
            file = Path(str(self._engine.url.database))
            copy = file.with_name(f"{file.name}.version-{before}")
            with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(copy)) as target:
                source.backup(target)
        with self._engine.begin() as connection:
            return migration.migrate(connection, place=self.place), copy

    def holdouts_met(self, score_keys: Collection[str]) -> dict[str, int]:
        """Other campaigns of this store whose holdouts, opened or visited, hold some of these items; how many."""
        items, campaigns = schema.ITEMS, schema.CAMPAIGNS
        met = [select(table.c.campaign).where(table.c.campaign != self.campaign) for table in _MEETINGS]
        opened = union(*met).subquery()
        query = (
            select(campaigns.c.name, items.c.score_key)
            .join(items, items.c.campaign == campaigns.c.id)
            .where(items.c.split == "holdout", campaigns.c.id.in_(select(opened.c.campaign)))
        )
        with self._reader.connect() as connection:
            names = [name for name, key in connection.execute(query) if key in score_keys]
        return dict(sorted(Counter(names).items()))

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def _is_there(self) -> bool:
        """Whether there is a database at all: one that is yet to be made, or an empty SQLite file, holds nothing."""
        if self._engine.dialect.name != "sqlite":
            return True
        file = Path(str(self._engine.url.database))
        return file.is_dir() or (file.exists() and file.stat().st_size > 0)

    def _holds_campaigns(self) -> bool:
        if not self._is_there():
            return False
        with self._reader.connect() as connection:
            return migration.holds_campaigns(connection, place=self.place)

    def _next_epoch(
        self, connection: Connection, facts: CampaignFacts, *, now: float, afresh: bool, again: bool
    ) -> int:
        me = takeover.this_process()
        migration.prepare(connection, place=self.place)
        table = schema.CAMPAIGNS
        found = connection.execute(_locking(select(table).where(table.c.name == facts.name))).mappings().first()
        if found is None:
            values = {**vars(facts), "config": dict(facts.config), "epoch": 0, "created": now, "seconds": 0.0}
            connection.execute(insert(table).values(**values))
            found = connection.execute(select(table).where(table.c.name == facts.name)).mappings().one()
        elif afresh:
            self._clear(connection, int(found["id"]), facts, now=now)
        self.campaign, epoch = int(found["id"]), int(found["epoch"]) + 1
        if again:
            self._refuse_successor(connection, me, epoch=epoch - 1)
        connection.execute(update(table).where(table.c.id == self.campaign).values(epoch=epoch))
        entry = {"campaign": self.campaign, "epoch": epoch, "at": now, **vars(me)}
        connection.execute(insert(schema.EPOCHS).values(**entry))
        return epoch

    def _clear(self, connection: Connection, campaign: int, facts: CampaignFacts, *, now: float) -> None:
        """Forget what a campaign came to. Its epochs go on, so that whoever runs it still is refused."""
        if _anything_scored(connection, campaign):
            raise Busy(
                f"{self.place}: another process has begun to score campaign {facts.name!r}. Nothing was changed."
            )
        for table in (*_RECORDS, schema.WISHES, schema.ITEMS):
            connection.execute(delete(table).where(table.c.campaign == campaign))
        values = {**vars(facts), "config": dict(facts.config), "created": now, "seconds": 0.0, "verdict": None}
        connection.execute(update(schema.CAMPAIGNS).where(schema.CAMPAIGNS.c.id == campaign).values(**values))

    def _refuse_successor(self, connection: Connection, me: ProcessIdentity, *, epoch: int) -> None:
        """Raise StaleEpoch where another process has this epoch."""
        table = schema.EPOCHS
        mine = (table.c.campaign == self.campaign) & (table.c.epoch == epoch)
        found = connection.execute(select(table).where(mine)).mappings().one()
        owner = ProcessIdentity(found["pid"], found["started"], found["host"])
        if owner != me:
            raise StaleEpoch(
                f"{self.place}: process {owner.pid} on {owner.host.split()[0]} took over with epoch {epoch} while the "
                "database did not answer here. Nothing was written; this process should end.",
                newest=epoch,
            )

    def _check_epoch(self, connection: Connection) -> None:
        epoch = connection.execute(_present_epoch(), {"campaign": self.campaign}).scalar()
        if epoch != self.epoch:
            raise StaleEpoch(
                f"{self.place}: this coordinator has epoch {self.epoch}, a newer one took over with epoch {epoch}. "
                "Nothing was written; this process should end.",
                epoch=self.epoch,
                newest=epoch,
            )

    def _with_lock(self, act: Any) -> Any:
        """Run `act`, ending a stopped predecessor that holds SQLite's lock."""
        try:
            return act()
        except StoreAway as failure:
            if not failure.facts.get("locked"):
                raise
        owner = self._owner()
        if owner is None or not takeover.is_stopped(owner) or not takeover.end(owner):
            raise _busy(self.place, owner, self._lock_wait_s)
        return act()

    def _owner(self) -> ProcessIdentity | None:
        """The process of the last epoch, of any campaign in this database (readers need no lock in WAL mode)."""
        table = schema.EPOCHS
        with self._reader.connect() as connection:
            found = connection.execute(select(table).order_by(table.c.at.desc())).mappings().first()
        return None if found is None else ProcessIdentity(found["pid"], found["started"], found["host"])


def _anything_scored(connection: Connection, campaign: int) -> bool:
    """See Store.scored."""
    assessed = schema.ASSESSMENTS
    queries = [
        select(table.c.campaign).where(table.c.campaign == campaign) for table in (schema.BLOCK_SCORES, *_MEETINGS)
    ]
    ended = assessed.c.state.in_(("scored", "stopped"))
    queries.append(select(assessed.c.campaign).where(assessed.c.campaign == campaign, ended))
    return any(connection.execute(query.limit(1)).first() is not None for query in queries)


@lru_cache(64)  # building a statement takes longer than running it
def _selecting(table: Table, names: tuple[str, ...]) -> Select[Any]:
    """SELECT of the rows whose columns have the values of these parameters, in the order of the primary key."""
    matching = [table.c[name] == bindparam(name) for name in names]
    return select(table).where(*matching).order_by(*table.primary_key.columns)


def _as_dicts(result: CursorResult[Any]) -> list[Row]:
    """Every row by column name. SQLAlchemy's own mappings look the names up anew for each: four times the time."""
    names = tuple(result.keys())
    return [dict(zip(names, row, strict=True)) for row in result.all()]


@lru_cache(1)
def _present_epoch() -> Any:
    """The epoch of a campaign, held until the transaction ends."""
    return _locking(select(schema.CAMPAIGNS.c.epoch).where(schema.CAMPAIGNS.c.id == bindparam("campaign")))


def store_url(place: str | None, *, default: Path) -> str:
    """A database URL from what a campaign says: a URL, a path of an SQLite file, or nothing (`default`)."""
    if place is None:
        return f"sqlite:///{default}"
    if "://" not in place:
        return f"sqlite:///{place}"
    try:
        backend = make_url(place).get_backend_name()
    except ArgumentError:
        backend = "?"
    scheme, _, rest = place.partition("://")
    if backend not in _DRIVERS:
        raise CampaignError(f"store: got {scheme}://..., a path or a URL of sqlite or postgresql expected")
    return f"{_DRIVERS[backend]}://{rest}"


def stored_config(campaign: Campaign) -> dict[str, Any]:
    """The campaign as its store keeps it: without the password of the store's URL."""
    config = campaign_to_dict(campaign)
    if campaign.store is not None and "://" in campaign.store:
        config["store"] = shown_url(campaign.store)
    return config


def _locking(query: Any) -> Any:
    """FOR UPDATE where the database knows it (SQLite compiles it to nothing: BEGIN IMMEDIATE holds the lock)."""
    return query.with_for_update()


def _busy(place: str, owner: ProcessIdentity | None, waited_s: float) -> Busy:
    ended = owner is None or (owner.host == takeover.this_host() and not takeover.is_running(owner))
    who = "by a program that is no coordinator of ours"
    if owner is not None and not ended:
        who = f"by process {owner.pid} on {owner.host.split()[0]}, the last coordinator, or by a program that is none"
    return Busy(
        f"{place}: no lock within {waited_s:g} s; it is held {who}. End that process, then resume.",
        owner=None if owner is None or ended else owner.pid,
    )
