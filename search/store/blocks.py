"""Item scores as they are stored: a row per block, the items that one work unit scored, and not one per item.

    item_blocks    which items: their score keys, and what the campaign that scored them calls them
    block_scores   (recipe hash, measure, block) → the values, in the block's order

Of a recipe and a measure no two rows hold the same score key: whoever writes looks first, one at a time, and leaves out
what is there (`add_scores`). So the first write of a score wins, however campaigns cut their items, and readers need no
order of preference. JSON keeps every bit of a finite float.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import chain
from typing import Any, Self, TypeVar

from sqlalchemy import Connection, Dialect, Table, bindparam, delete, func, select, text
from sqlalchemy.dialects import postgresql, sqlite

from engine.errors import CampaignError
from search.ports import SCORE
from search.store import schema
from search.store.failures import place_of

CHUNK = 500
"""Values per query: SQLite takes 32766 parameters, PostgreSQL 65535. Rows per insertion, too: a server ends a session
that says nothing inside a transaction for ten seconds (engines.py), and ten million scores take longer to prepare."""
Value = TypeVar("Value")
NOBODY = 0
"""Who paid for item scores that a fork brings into a store of its own: no campaign of that store."""
WRITERS_LOCK = 0x6D67
"""Any number that nobody else of the database uses; migration.py has its neighbour."""


@dataclass(frozen=True)
class Block:
    """Items that were scored together, in the order of their score keys, each of which it has once."""

    score_keys: tuple[str, ...]
    items: tuple[str, ...]

    @cached_property
    def keys(self) -> frozenset[str]:
        """The score keys, to be looked up in."""
        return frozenset(self.score_keys)

    @cached_property
    def name(self) -> str:
        """The digest of its items: the same block has one name in every campaign and process."""
        listed = json.dumps([self.score_keys, self.items])
        return hashlib.blake2b(listed.encode(), digest_size=16).hexdigest()

    @cached_property
    def row(self) -> Mapping[str, str]:
        """Its row of `item_blocks`."""
        return {"block": self.name, "score_keys": _text(self.score_keys), "items": _text(self.items)}


@dataclass(frozen=True)
class BlockScores:
    """What one recipe scored on a block, in one measure; `campaign` paid for it."""

    recipe_hash: str
    block: Block
    values: Sequence[float]
    lease: str
    measure: str = SCORE
    campaign: int = NOBODY

    @classmethod
    def of(cls, recipe_hash: str, found: Mapping[str, tuple[str, float]], *, lease: str, measure: str = SCORE) -> Self:
        """Of score key → (item, value)."""
        keys = sorted(found)
        items, values = zip(*map(found.__getitem__, keys), strict=True)
        return cls(recipe_hash, _block(tuple(keys), items), values, lease, measure)

    @property
    def found(self) -> dict[str, tuple[str, float]]:
        """Score key → (item, value)."""
        return dict(zip(self.block.score_keys, zip(self.block.items, self.values, strict=True), strict=True))

    def having(self, found: Mapping[str, tuple[str, float]]) -> Self:
        """The same with these scores."""
        other = BlockScores.of(self.recipe_hash, found, lease=self.lease, measure=self.measure)
        return replace(self, block=other.block, values=other.values)


@lru_cache(256)  # the candidates of a cohort are scored on one window: named and written as text once
def _block(score_keys: tuple[str, ...], items: tuple[str, ...]) -> Block:
    return Block(score_keys, items)


class KnownBlocks:
    """The blocks that a process has met. They never change, so they are read once."""

    def __init__(self) -> None:
        self._known: dict[str, Block] = {}

    def put(self, block: Block) -> None:
        """Know a block that was made here."""
        self._known[block.name] = block

    def read(self, connection: Connection, names: Collection[str]) -> Mapping[str, Block]:
        """These blocks (and others) by name."""
        table = schema.ITEM_BLOCKS
        unknown = sorted({*names} - self._known.keys())
        for part in chunks(unknown):
            for name, keys, items in connection.execute(select(table).where(table.c.block.in_(part))):
                try:
                    block = Block(tuple(json.loads(keys)), tuple(json.loads(items)))
                except (ValueError, TypeError):
                    block = None
                if block is None or block.name != name:
                    raise _damaged(connection, table, f"its row is not what was written as block {name}", block=name)
                self._known[name] = block
        lost = [name for name in unknown if name not in self._known]
        if lost:
            raise _damaged(connection, table, f"block {lost[0]} is not there any more", block=lost[0])
        return self._known


def read_scores(connection: Connection, known: KnownBlocks, matching: Any) -> list[BlockScores]:
    """The rows for which an expression over `schema.BLOCK_SCORES` is true, in the order of the primary key."""
    rows = _rows(connection, matching)
    return _read_rows(connection, known.read(connection, {row.block for row in rows}), rows)


def count_scores(connection: Connection, known: KnownBlocks, matching: Any) -> Counter[str]:
    """How many of the rows for which an expression over `schema.BLOCK_SCORES` is true have each score key; no score is
    read."""
    table, found = schema.BLOCK_SCORES, Counter[str]()
    rows = connection.execute(select(table.c.block, func.count()).where(matching).group_by(table.c.block)).all()
    blocks = known.read(connection, {block for block, _ in rows})
    for block, count in rows:
        found.update(dict.fromkeys(blocks[block].score_keys, count))
    return found


def _rows(connection: Connection, matching: Any) -> Sequence[Any]:
    table = schema.BLOCK_SCORES
    columns = (table.c[name] for name in ("recipe_hash", "block", "scores", "lease", "measure", "campaign"))
    return connection.execute(select(*columns).where(matching).order_by(*table.primary_key.columns)).all()


def _read_rows(connection: Connection, blocks: Mapping[str, Block], rows: Sequence[Any]) -> list[BlockScores]:
    found = []
    for recipe, name, stored, lease, measure, campaign in rows:
        values = _values(stored, count=len(blocks[name].score_keys))
        if values is None:
            why = f"recipe {recipe}, measure {measure}, block {name} has no list of so many numbers as items"
            raise _damaged(connection, schema.BLOCK_SCORES, why, recipe_hash=recipe)
        found.append(BlockScores(recipe, blocks[name], values, lease, measure, campaign))
    return found


def _values(stored: str, *, count: int) -> Sequence[float] | None:
    """The values of a row; None where it was torn or altered."""
    try:
        values: Sequence[float] = json.loads(stored)
        return values if len(values) == count and all(map(math.isfinite, values)) else None
    except (ValueError, TypeError):
        return None


def _damaged(
    connection: Connection, table: Table, why: str, *, block: str | None = None, recipe_hash: str | None = None
) -> CampaignError:
    """The error about a row that a person, or a program that is none of ours, has altered; whose scores these are."""
    scores, candidates, campaigns = schema.BLOCK_SCORES, schema.CANDIDATES, schema.CAMPAIGNS
    if recipe_hash is None:
        recipe_hash = connection.execute(select(scores.c.recipe_hash).where(scores.c.block == block)).scalar()
    owners = select(campaigns.c.name, candidates.c.number).join(campaigns, campaigns.c.id == candidates.c.campaign)
    found = connection.execute(owners.where(candidates.c.recipe_hash == recipe_hash)).first()
    whose = "" if found is None else f" (candidate {found.number} of campaign {found.name!r})"
    place = place_of(connection.engine.url.render_as_string(hide_password=False))
    return CampaignError(
        f"{place}: {table.name}: {why}{whose}. Put a copy of the database back, or start afresh with another `store`.",
        file=place,
    )


def add_scores(connection: Connection, known: KnownBlocks, scores: Sequence[BlockScores], *, payer: int) -> None:
    """Write scores that `payer` paid for, without those of a recipe, score key and measure that are there already."""
    if not scores:
        return
    wait_for_writers(connection)
    for part in chunks(scores):
        _add_part(connection, known, [replace(entry, campaign=payer) for entry in part])


def _add_part(connection: Connection, known: KnownBlocks, scores: Sequence[BlockScores]) -> None:
    there = _there(connection, known, sorted({entry.recipe_hash for entry in scores}))
    fresh = []
    for entry in scores:
        blocks = there[entry.recipe_hash, entry.measure]
        left = _without(entry, blocks)
        if left is not None:
            known.put(left.block)
            blocks.append(left.block)
            fresh.append(left)
    insert_scores(connection, fresh)


def insert_scores(connection: Connection, scores: Sequence[BlockScores]) -> None:
    """Write scores of which none is there yet."""
    blocks = {entry.block.name: entry.block.row for entry in scores}
    _insert(connection, schema.ITEM_BLOCKS, list(blocks.values()))
    rows = [
        {
            "recipe_hash": entry.recipe_hash,
            "measure": entry.measure,
            "block": entry.block.name,
            "scores": _text(entry.values),
            "campaign": entry.campaign,
            "lease": entry.lease,
        }
        for entry in scores
    ]
    _insert(connection, schema.BLOCK_SCORES, rows)


def rekey_scores(
    connection: Connection, known: KnownBlocks, moved: Mapping[str, Sequence[str]], *, campaign: int
) -> None:
    """Give the scores that a campaign paid for, or a fork brought along, other keys, unless these have scores."""
    wait_for_writers(connection)
    table = schema.BLOCK_SCORES
    rows = _rows(connection, table.c.campaign.in_((campaign, NOBODY)))
    met = {row.block for row in rows}
    blocks = known.read(connection, met)
    moving = {name for name in met if not moved.keys().isdisjoint(blocks[name].keys)}
    touched = [row for row in rows if row.block in moving]
    names = tuple(column.name for column in table.primary_key.columns)
    gone = delete(table).where(*(table.c[name] == bindparam(f"its_{name}") for name in names))
    for part in chunks(touched):
        connection.execute(gone, [{f"its_{name}": getattr(row, name) for name in names} for row in part])
    for part in chunks(touched):  # when all are gone: what one leaves is another's new key, perhaps
        entries = _read_rows(connection, blocks, part)
        _add_part(connection, known, [entry.having(_renamed(entry.found, moved)) for entry in entries])


def wait_for_writers(connection: Connection) -> None:
    """Until this transaction ends, no other one writes scores: what it finds missing stays missing.

    Everybody takes it after the row of the own campaign, so nobody waits in a circle. SQLite has one writer anyway.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_xact_lock({WRITERS_LOCK})"))


def chunks(values: Sequence[Value]) -> Iterator[Sequence[Value]]:
    """The values in parts that one query takes."""
    for start in range(0, len(values), CHUNK):
        yield values[start : start + CHUNK]


def _there(connection: Connection, known: KnownBlocks, recipes: Sequence[str]) -> dict[tuple[str, str], list[Block]]:
    """(recipe, measure) → the blocks it was scored on."""
    parts = [connection.execute(_met(), {"recipes": part}).all() for part in chunks(recipes)]
    rows = list(chain.from_iterable(parts))
    blocks = known.read(connection, {row.block for row in rows})
    there: dict[tuple[str, str], list[Block]] = defaultdict(list)
    for recipe, measure, block in rows:
        there[recipe, measure].append(blocks[block])
    return there


@lru_cache(1)
def _met() -> Any:
    """Which blocks `recipes` were scored on; made once, for every commit asks it."""
    table = schema.BLOCK_SCORES
    asked = table.c.recipe_hash.in_(bindparam("recipes", expanding=True))
    return select(table.c.recipe_hash, table.c.measure, table.c.block).where(asked)


def _without(entry: BlockScores, blocks: Iterable[Block]) -> BlockScores | None:
    """The scores of items that none of the blocks holds; None where there are no such."""
    met = [block.keys for block in blocks if not block.keys.isdisjoint(entry.block.keys)]
    if not met:
        return entry
    left = {key: value for key, value in entry.found.items() if not any(key in keys for keys in met)}
    return entry.having(left) if left else None


def _renamed(
    found: Mapping[str, tuple[str, float]], moved: Mapping[str, Sequence[str]]
) -> dict[str, tuple[str, float]]:
    """The same under other keys; what had the new one already stays."""
    kept = {key: value for key, value in found.items() if key not in moved}
    for key in sorted(found.keys() & moved.keys()):
        for new in moved[key]:
            kept.setdefault(new, found[key])
    return kept


def _insert(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows by the driver's own statement; one that is there stays."""
    if rows:
        statement, order = _inserting(table, connection.dialect)
        entries = [tuple(row[name] for name in order) for row in rows] if order else list(rows)
        connection.exec_driver_sql(statement, entries)


@lru_cache(8)
def _inserting(table: Table, dialect: Dialect) -> tuple[str, Sequence[str]]:
    """The driver's own statement, and the order of its parameters where they have no names.

    SQLAlchemy takes longer over each row than SQLite.
    """
    compiled = upserting(dialect).insert(table).on_conflict_do_nothing().compile(dialect=dialect)
    return compiled.string, tuple(getattr(compiled, "positiontup", None) or ())


def upserting(dialect: Dialect) -> Any:
    """The dialect's module: `insert(...).on_conflict_do_nothing()` is not in common SQL."""
    return postgresql if dialect.name == "postgresql" else sqlite


def _text(values: Iterable[str] | Iterable[float]) -> str:
    return json.dumps(list(values), separators=(",", ":"), allow_nan=False)
