"""Rows that a coordinator is about to write: what several calls change in one row is written once.

Their order is free: rows are added or changed by primary key, and changes to one that is not written yet go into it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any

from sqlalchemy import Table

from search.store import schema
from search.store.blocks import BlockScores
from search.store.transaction import Row, Transaction

AT_ONCE = frozenset({schema.LEDGER, schema.EVENTS, schema.CAMPAIGNS})
"""Who meets the sealed items, the turns of a campaign, its verdict: never only in memory when a call returns."""

Key = tuple[Any, ...]


class Pending:
    """Falsy while nothing waits to be written."""

    def __init__(self) -> None:
        self._added: dict[Table, dict[Key, dict[str, Any]]] = defaultdict(dict)
        self._changed: dict[Table, dict[Key, dict[str, Any]]] = defaultdict(dict)
        self._scores: list[BlockScores] = []
        self._emptied: set[Table] = set()

    def __bool__(self) -> bool:
        return bool(self._added or self._changed or self._scores or self._emptied)

    @property
    def urgent(self) -> bool:
        """Whether something is to be written before the call returns."""
        return not AT_ONCE.isdisjoint((*self._added, *self._changed, *self._emptied))

    def add(self, table: Table, *rows: Row) -> None:
        """New rows."""
        for row in rows:
            self._added[table][tuple(row[name] for name in _key_names(table))] = dict(row)

    def change(self, table: Table, values: Row, **key: Any) -> None:
        """New values of the row with this primary key (without `campaign`)."""
        place = tuple(key[name] for name in _key_names(table))
        added = self._added.get(table, {})
        row = added[place] if place in added else self._changed[table].setdefault(place, {})
        row.update(values)

    def add_scores(self, scores: Iterable[BlockScores]) -> None:
        """Item scores; the first of each stays."""
        self._scores.extend(scores)

    def empty(self, table: Table) -> None:
        """Delete the campaign's rows that the table has by now."""
        self._emptied.add(table)

    def write(self, transaction: Transaction) -> None:
        """Write everything, with as few statements as there are tables and sets of columns."""
        for table in self._emptied:
            transaction.remove(table)
        for table, rows in self._added.items():
            for alike in _by_columns(rows.values()):
                transaction.add(table, alike)
        for table, changes in self._changed.items():
            names = _key_names(table)
            keyed = [
                {**{f"key_{name}": part for name, part in zip(names, key, strict=True)}, **values}
                for key, values in changes.items()
            ]
            for alike in _by_columns(keyed):
                transaction.change_all(table, names, alike)
        transaction.add_scores(self._scores)  # last: others of a PostgreSQL wait from here on


@lru_cache(None)
def _key_names(table: Table) -> tuple[str, ...]:
    """The primary key without the campaign."""
    own = ("id",) if table is schema.CAMPAIGNS else ("campaign",)
    return tuple(column.name for column in table.primary_key.columns if column.name not in own)


def _by_columns(rows: Iterable[Mapping[str, Any]]) -> Iterator[Sequence[Row]]:
    """Rows that have the same columns together: one statement takes them."""
    for _, alike in groupby(sorted(rows, key=sorted), key=sorted):
        yield list(alike)
