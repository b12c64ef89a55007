"""One transaction of a campaign's store: rows are added, changed and removed by statements that are built once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, Dialect, Insert, Table, Update, bindparam, delete, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from search.ports import SCORE
from search.store import schema

Row = Mapping[str, Any]


class Transaction:
    """Writes of one transaction; use inside `with store.transaction() as transaction`."""

    def __init__(self, connection: Connection, campaign: int) -> None:
        self._connection = connection
        self._campaign = campaign

    def add(self, table: Table, rows: Sequence[Row]) -> None:
        """Insert rows of this campaign in one statement."""
        if rows:
            self._connection.execute(_inserting(table), [{**row, "campaign": self._campaign} for row in rows])

    def change(self, table: Table, values: Row, **key: Any) -> None:
        """Update this campaign's rows that match `key`."""
        self.change_all(table, tuple(key), [{**{f"key_{name}": value for name, value in key.items()}, **values}])

    def change_all(self, table: Table, keys: tuple[str, ...], rows: Sequence[Row]) -> None:
        """Update this campaign's rows in one statement: each has its keys as `key_...`, and the same new values."""
        values = tuple(name for name in rows[0] if not name.startswith("key_"))
        statement = _updating(table, keys, values)
        self._connection.execute(statement, [{**row, "key_campaign": self._campaign} for row in rows])

    def remove(self, table: Table, **key: Any) -> None:
        """Delete this campaign's rows that match `key`."""
        matching = [table.c[name] == value for name, value in key.items()]
        self._connection.execute(delete(table).where(table.c.campaign == self._campaign, *matching))

    def add_scores(self, rows: Sequence[Row], *, campaign: int | None = None) -> None:
        """Item scores, paid by this campaign or another; the first write of a (recipe, score key, measure) stays."""
        if rows:
            payer = self._campaign if campaign is None else campaign
            text, order = _adding_scores(self._connection.dialect)
            entries = [{"measure": SCORE, **row, "campaign": payer} for row in rows]
            self._connection.exec_driver_sql(text, list(map(itemgetter(*order), entries)) if order else entries)

    def rekey(self, keys: Mapping[str, tuple[str, str]]) -> None:
        """Give items, by name, another score key: (old, new). Their scores move along, unless they are there."""
        items, scores = schema.ITEMS, schema.ITEM_SCORES
        for item, (old, new) in keys.items():
            self.change(items, {"score_key": new}, item=item)
            mine = (scores.c.score_key == old) & (scores.c.campaign == self._campaign)
            moved = [
                {**row, "score_key": new} for row in self._connection.execute(select(scores).where(mine)).mappings()
            ]
            self._connection.execute(delete(scores).where(mine))
            self.add_scores(moved)


@lru_cache(64)  # building a statement takes longer than running it
def _updating(table: Table, keys: tuple[str, ...], values: tuple[str, ...]) -> Update:
    """UPDATE of these columns of a campaign's rows, by these keys; parameters of keys are called `key_...`."""
    own = table.c.id if table is schema.CAMPAIGNS else table.c.campaign
    matching = [table.c[name] == bindparam(f"key_{name}") for name in keys]
    statement = update(table).where(own == bindparam("key_campaign"), *matching)
    return statement.values({name: bindparam(name) for name in values})


@lru_cache(64)
def _inserting(table: Table) -> Insert:
    return insert(table)


@lru_cache(4)
def _adding_scores(dialect: Dialect) -> tuple[str, Sequence[str]]:
    """The driver's own statement, and the order of its parameters where they have no names.

    A block brings a row per item and measure, and SQLAlchemy takes longer over each of them than SQLite.
    """
    compiled = upserting(dialect).insert(schema.ITEM_SCORES).on_conflict_do_nothing().compile(dialect=dialect)
    return compiled.string, tuple(getattr(compiled, "positiontup", None) or ())


def upserting(dialect: Dialect) -> Any:
    """The dialect's module: `insert(...).on_conflict_do_nothing()` is not in common SQL."""
    return postgresql if dialect.name == "postgresql" else sqlite
