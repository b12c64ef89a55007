"""One transaction of a campaign's store: rows are added, changed and removed by statements that are built once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Insert, Table, Update, bindparam, delete, insert, update

from search.store import blocks, schema
from search.store.blocks import BlockScores, KnownBlocks

Row = Mapping[str, Any]


class Transaction:
    """Writes of one transaction; use inside `with store.transaction() as transaction`."""

    def __init__(self, connection: Connection, campaign: int, known: KnownBlocks) -> None:
        self._connection = connection
        self._campaign = campaign
        self._known_blocks = known

    def add(self, table: Table, rows: Sequence[Row]) -> None:
        """Insert rows of this campaign, many by one statement."""
        for part in blocks.chunks(rows):
            self._connection.execute(_inserting(table), [{**row, "campaign": self._campaign} for row in part])

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

    def add_scores(self, scores: Sequence[BlockScores], *, campaign: int | None = None) -> None:
        """Item scores, paid by this campaign or another; the first write of a (recipe, score key, measure) stays."""
        payer = self._campaign if campaign is None else campaign
        blocks.add_scores(self._connection, self._known_blocks, scores, payer=payer)

    def rekey(self, keys: Mapping[str, tuple[str, str]]) -> None:
        """Give items, by name, another score key: (old, new). Their scores move along, unless they are there; of items
        that were equal and are no more, each takes them."""
        if keys:
            named = [{"key_item": item, "score_key": new} for item, (_, new) in keys.items()]
            self.change_all(schema.ITEMS, ("item",), named)
            moved: dict[str, list[str]] = defaultdict(list)
            for old, new in keys.values():
                moved[old].append(new)
            blocks.rekey_scores(self._connection, self._known_blocks, moved, campaign=self._campaign)


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
