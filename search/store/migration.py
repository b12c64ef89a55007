"""Versions of a store's tables: make them, refuse others, bring older ones here (`mergefleet migrate`)."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from itertools import groupby
from typing import Any

from sqlalchemy import Column, Connection, Float, Integer, MetaData, String, Table, insert, inspect, select, text

from engine.errors import Busy, CampaignError
from search.store import schema, takeover
from search.store.blocks import BlockScores, insert_scores

ADVISORY_LOCK = 0x6D66
"""Any number that nobody else of the database uses; blocks.py has its neighbour."""
_AT_ONCE = 5000
"""Rows of a table of versions 1 and 2 that are in memory together."""

_ITEM_SCORES = Table(
    "item_scores",
    MetaData(),
    Column("recipe_hash", String(64), primary_key=True),
    Column("score_key", String(64), primary_key=True),
    Column("measure", String(100), primary_key=True),
    Column("item", String(300), nullable=False),
    Column("score", Float, nullable=False),
    Column("campaign", Integer, nullable=False),
    Column("lease", String(60), nullable=False),
    sqlite_with_rowid=False,
)
"""The table of versions 1 and 2."""


def prepare(connection: Connection, *, place: str) -> None:
    """Make the tables in an empty database; CampaignError where there are tables of another version."""
    _wait_for_makers(connection)
    if not holds_campaigns(connection, place=place):
        schema.METADATA.create_all(connection)
        connection.execute(text(schema.VIEW[connection.dialect.name]))
        connection.execute(insert(schema.SCHEMA_VERSION).values(version=schema.VERSION))


def holds_campaigns(connection: Connection, *, place: str) -> bool:
    """Whether there are campaign tables; CampaignError where they are of another version."""
    found = version_of(connection)
    if found is not None and found != schema.VERSION:
        raise _other_version(found, place)
    return found is not None


def version_of(connection: Connection) -> int | None:
    """The version of the campaign tables in a database; None where there are none."""
    present = inspect(connection)
    if present.has_table(schema.SCHEMA_VERSION.name):
        return int(connection.execute(select(schema.SCHEMA_VERSION.c.version)).scalar_one())
    return 0 if present.has_table(schema.CAMPAIGNS.name) else None


def refuse_running(connection: Connection, *, place: str) -> None:
    """Raise Busy where another coordinator of this machine is at work on an older store: its tables would be gone."""
    epochs, campaigns = schema.EPOCHS, schema.CAMPAIGNS
    newest = select(epochs, campaigns.c.name).join(campaigns, campaigns.c.id == epochs.c.campaign)
    for row in connection.execute(newest.where(campaigns.c.epoch == epochs.c.epoch)).all():
        if row.pid != os.getpid() and takeover.is_running(takeover.ProcessIdentity(row.pid, row.started, row.host)):
            raise Busy(
                f"{place}: process {row.pid} of this machine runs campaign {row.name!r} with an older version. Pause "
                "it (ctrl-C where it was started), migrate, and go on with --resume.",
                pid=row.pid,
            )


def migrate(connection: Connection, *, place: str) -> int:
    """Bring the tables to this version, in the transaction of `connection`; the version they had.

    Raises CampaignError where there are none, or where they are newer.
    """
    _wait_for_makers(connection)
    found = version_of(connection)
    if found is None:
        raise CampaignError(f"{place}: holds no campaigns: there is nothing to migrate.")
    if found > schema.VERSION:
        raise _other_version(found, place)
    for version in range(found, schema.VERSION):
        _STEPS[version](connection)
    if found < schema.VERSION:
        schema.METADATA.create_all(connection)
        _add_columns(connection)
        connection.execute(text(schema.VIEW[connection.dialect.name]))
        connection.execute(schema.SCHEMA_VERSION.delete())
        connection.execute(insert(schema.SCHEMA_VERSION).values(version=schema.VERSION))
    return found


def _wait_for_makers(connection: Connection) -> None:
    """Until this transaction ends nobody else makes or changes tables. SQLite's writer has its lock already."""
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_xact_lock({ADVISORY_LOCK})"))


def _from_0(connection: Connection) -> None:
    """0 → 1: scores are shared by key, not by campaign and item name; events have rows; stopped candidates, items.

    Version 0 does not tell what its items' scores depend on, so they get a key of their own here, and the real one when
    the campaign is resumed (opening.py).
    """
    columns = {table: {column["name"] for column in inspect(connection).get_columns(table)} for table in _CHANGED}
    connection.execute(text("ALTER TABLE item_scores RENAME TO item_scores_0"))
    connection.execute(text("ALTER TABLE items ADD COLUMN score_key VARCHAR(64) NOT NULL DEFAULT ''"))
    schema.METADATA.create_all(connection)
    _ITEM_SCORES.create(connection)
    for index in schema.ITEMS.indexes:  # create_all makes no index of a table that is there
        index.create(connection, checkfirst=True)
    if "time_up" in columns["campaigns"]:
        connection.execute(
            text(
                "INSERT INTO events (campaign, sequence, kind, reason, at) "
                "SELECT id, time_up, 'ended', 'the budget of hours is spent', created FROM campaigns "
                "WHERE time_up IS NOT NULL"
            )
        )
        connection.execute(text("ALTER TABLE campaigns DROP COLUMN time_up"))
    _key_items(connection)
    measure = "s.measure" if "measure" in columns["item_scores"] else "'score'"
    connection.execute(
        text(
            "INSERT INTO item_scores (recipe_hash, score_key, measure, item, score, campaign, lease) "
            f"SELECT s.recipe_hash, i.score_key, {measure}, MIN(s.item), MIN(s.score), MIN(c.id), MIN(s.lease) "
            "FROM item_scores_0 s JOIN campaigns c ON c.eval_key = s.eval_key "
            "JOIN items i ON i.campaign = c.id AND i.item = s.item GROUP BY 1, 2, 3"
        )
    )
    connection.execute(text("DROP TABLE item_scores_0"))


def _from_1(connection: Connection) -> None:
    """1 → 2: visits, a table of its own, which `migrate` makes."""


def _from_2(connection: Connection) -> None:
    """2 → 3: a row for the items that were scored together, no longer one for each; `item_scores` becomes a view."""
    if connection.dialect.name == "postgresql":  # what an older coordinator commits until then would be dropped unread
        connection.execute(text("LOCK TABLE item_scores IN ACCESS EXCLUSIVE MODE"))
    for table in (schema.ITEM_BLOCKS, schema.BLOCK_SCORES):
        table.create(connection, checkfirst=True)
    query = select(_ITEM_SCORES).order_by(_ITEM_SCORES.c.recipe_hash)
    rows = connection.execute(query, execution_options={"stream_results": True, "yield_per": _AT_ONCE})
    for _, of_recipe in groupby(rows, key=lambda row: row.recipe_hash):
        insert_scores(connection, _together(of_recipe))
    connection.execute(text("DROP TABLE item_scores"))


_CHANGED = ("campaigns", "items", "item_scores")
_STEPS = {0: _from_0, 1: _from_1, 2: _from_2}


def _together(rows: Iterable[Any]) -> list[BlockScores]:
    """Rows of one recipe by block: what one lease brought in was scored together."""
    blocks: dict[tuple[str, str, int, str], dict[str, tuple[str, float]]] = defaultdict(dict)
    for row in rows:
        blocks[row.recipe_hash, row.measure, row.campaign, row.lease][row.score_key] = row.item, row.score
    return [
        replace(BlockScores.of(recipe, found, lease=lease, measure=measure), campaign=campaign)
        for (recipe, measure, campaign, lease), found in blocks.items()
    ]


def _add_columns(connection: Connection) -> None:
    """Columns that may be empty, and were not there: empty then."""
    present = inspect(connection)
    for table in schema.METADATA.sorted_tables:
        known = {column["name"] for column in present.get_columns(table.name)}
        for column in table.columns:
            if column.name not in known:
                kind = column.type.compile(connection.dialect)
                connection.execute(text(f"ALTER TABLE {table.name} ADD COLUMN {column.name} {kind}"))


def _key_items(connection: Connection) -> None:
    items, campaigns = schema.ITEMS, schema.CAMPAIGNS
    query = select(items.c.campaign, items.c.item, campaigns.c.eval_key).join(
        campaigns, campaigns.c.id == items.c.campaign
    )
    for campaign, item, evaluation in connection.execute(query).all():
        key = hashlib.sha256(f"{evaluation}/{item}".encode()).hexdigest()[:32]
        own = (items.c.campaign == campaign) & (items.c.item == item)
        connection.execute(items.update().where(own).values(score_key=key))


def _other_version(found: Any, place: str) -> CampaignError:
    if found > schema.VERSION:
        return CampaignError(
            f"{place}: has the tables of schema version {found}, this mergefleet knows {schema.VERSION}. Use the newer "
            "mergefleet that made it.",
            got=found,
            expected=schema.VERSION,
        )
    without = place.replace(":***@", "@")  # as a command can be pasted
    secret = " (and the password in PGPASSWORD or ~/.pgpass)" if without != place else ""
    return CampaignError(
        f"{place}: has the tables of schema version {found}, this mergefleet uses {schema.VERSION}. Bring them there "
        f"with `mergefleet migrate {without.removeprefix('sqlite:///')}`{secret}.",
        got=found,
        expected=schema.VERSION,
    )
