"""The candidate × item matrix in long form, held as columns: who scored what on which item, and what else was measured.

A campaign has tens of thousands of scores; an object for each takes longer than reading them from the store. Legend:
N rows, C candidates, R rows of the store.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any, NamedTuple, Self, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from search.ports import SCORE, SPLITS, Split
from search.store.blocks import Block, BlockScores
from search.store.transaction import Row

Codes = NDArray[np.int32]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class ItemScore:
    """One row of the matrix; items that were scored in one block have the same `lease`. `score` is the value of
    `measure`: what the search maximizes, or something else that was measured (`ports.BlockResult.measures`)."""

    candidate: int
    split: Split
    task: str
    item: str
    score: float
    lease: str = ""
    measure: str = SCORE


Value = TypeVar("Value", bound=Hashable)


@dataclass(frozen=True, eq=False)
class Labels:
    """A column of text, every different one once: `names[codes_N[n]]`."""

    names: tuple[str, ...]
    codes_N: Codes

    @classmethod
    def of(cls, column: Iterable[str]) -> Self:
        """Coded in the order of first appearance."""
        names, codes_N = _coded(list(column))
        return cls(names, codes_N)

    def taken(self, places_N: NDArray[np.integer[Any]]) -> Labels:
        """The column's values at these places."""
        return Labels(self.names, self.codes_N[places_N])

    def repeated(self, counts_N: Sequence[int]) -> Labels:
        """Every value so many times."""
        return Labels(self.names, np.repeat(self.codes_N, counts_N))

    def ranks_N(self) -> Codes:
        """Codes in the order of the names."""
        rank = {name: place for place, name in enumerate(sorted(self.names))}
        return np.array([rank[name] for name in self.names], np.int32)[self.codes_N]

    def equal_N(self, text: str) -> Mask:
        """Where the column says this."""
        code = self.names.index(text) if text in self.names else -1
        return np.equal(self.codes_N, code)


@dataclass(frozen=True, eq=False)
class Items:
    """The items of a campaign: their names, which split each is in, which task asks it."""

    names: tuple[str, ...]
    splits: Labels
    tasks: Labels

    @classmethod
    def of(cls, facts: Collection[tuple[str, str, str]]) -> Self:
        """Of (name, split, task)."""
        names, splits, tasks = zip(*facts, strict=True) if facts else ((), (), ())
        return cls(tuple(names), Labels.of(splits), Labels.of(tasks))


@dataclass(frozen=True, eq=False)
class Matrix:
    """Rows in order of candidate, item, measure. Iterated over, it gives them as objects."""

    items: Items
    candidates_N: Codes
    items_N: Codes
    values_N: Floats
    leases: Labels
    measures: Labels

    @classmethod
    def of(cls, rows: Iterable[ItemScore] = ()) -> Self:
        """The matrix of these rows, in their order."""
        rows = list(rows)
        places: dict[tuple[str, str, str], int] = {}
        items = [places.setdefault((row.item, row.split, row.task), len(places)) for row in rows]
        return cls(
            Items.of(places),
            np.array([row.candidate for row in rows], np.int32),
            np.array(items, np.int32),
            np.array([row.score for row in rows], np.float64),
            Labels.of(row.lease for row in rows),
            Labels.of(row.measure for row in rows),
        )

    def __len__(self) -> int:
        return len(self.values_N)

    def __iter__(self) -> Iterator[ItemScore]:
        splits, tasks = self.splits.codes_N, self.tasks.codes_N
        leases, measures = self.leases.codes_N, self.measures.codes_N
        columns = (self.candidates_N, splits, tasks, self.items_N, self.values_N, leases, measures)
        plain: list[list[Any]] = [column.tolist() for column in columns]
        for number, split, task, item, value, lease, measure in zip(*plain, strict=True):
            yield ItemScore(
                number,
                cast(Split, self.items.splits.names[split]),
                self.items.tasks.names[task],
                self.items.names[item],
                value,
                self.leases.names[lease],
                self.measures.names[measure],
            )

    @property
    def splits(self) -> Labels:
        """The split of every row."""
        return self.items.splits.taken(self.items_N)

    @property
    def tasks(self) -> Labels:
        """The task of every row."""
        return self.items.tasks.taken(self.items_N)

    def where(self, mask_N: Mask) -> Matrix:
        """The rows for which it is true."""
        return self.taken(np.flatnonzero(mask_N))

    def taken(self, places_N: NDArray[np.integer[Any]]) -> Matrix:
        """The rows at these places."""
        return Matrix(
            self.items,
            self.candidates_N[places_N],
            self.items_N[places_N],
            self.values_N[places_N],
            self.leases.taken(places_N),
            self.measures.taken(places_N),
        )

    def of_candidate(self, number: int) -> Matrix:
        """Its rows."""
        return self.where(self.candidates_N == number)

    def on(self, split: Split) -> Matrix:
        """The rows of this split."""
        return self.where(self.splits.equal_N(split))

    def by_candidate(self) -> dict[int, Matrix]:
        """Candidate → its rows."""
        return {number: self.of_candidate(number) for number in np.unique(self.candidates_N).tolist()}

    def by_task(self) -> dict[str, Floats]:
        """Task → values, in order."""
        tasks = self.tasks
        found = {name: self.values_N[tasks.equal_N(name)] for name in tasks.names}
        return {name: values for name, values in found.items() if len(values)}


@dataclass(frozen=True)
class Told:
    """What the rows of scores say: of the candidates, and what this campaign itself paid for, by split and by lease."""

    scores: Matrix
    measures: Matrix
    spent: Mapping[Split, int]
    paid: Counter[str]


Met = Iterable[tuple[int, str]]
"""(candidate, split): who was scored on what."""


def tell(
    scores: Sequence[BlockScores], *, campaign: int, items: Iterable[Row], recipes: Sequence[str], met: Met
) -> Told:
    """What is known of candidates with these recipe hashes on the splits that they met, whoever paid for it, by this
    campaign's names of its items."""
    ordered = sorted(items, key=itemgetter("item"))
    named = _named((entry.block for entry in scores), ordered)
    named_R = [named[entry.block] for entry in scores]
    counts_R = [len(found.items) for found in named_R]
    # Numbers of leases repeat from campaign to campaign.
    leases = Labels.of(row.lease if row.campaign == campaign else f"{row.campaign}/{row.lease}" for row in scores)
    hashes = Labels.of(entry.recipe_hash for entry in scores)
    values_R = [np.array(entry.values)[found.places] for entry, found in zip(scores, named_R, strict=True)]
    by_recipe = Matrix(
        Items.of([(row["item"], row["split"], row["task"]) for row in ordered]),
        np.repeat(hashes.codes_N, counts_R),  # whose candidates take their rows from here
        np.concatenate([np.empty(0, np.int32), *(found.items for found in named_R)]),
        np.concatenate([np.empty(0), *values_R]),
        leases.repeated(counts_R),
        Labels.of(entry.measure for entry in scores).repeated(counts_R),
    )
    mine_N = np.repeat(np.array([entry.campaign == campaign for entry in scores], np.bool_), counts_R)
    paid = by_recipe.where(mine_N & by_recipe.measures.equal_N(SCORE))
    of_lease = np.bincount(paid.leases.codes_N, minlength=len(leases.names)).tolist()
    ranks = (by_recipe.measures.ranks_N(), by_recipe.items_N, by_recipe.candidates_N)
    found = _of_candidates(by_recipe.taken(np.lexsort(ranks)), _codes(recipes, hashes), met)
    return Told(
        scores=found.where(found.measures.equal_N(SCORE)),
        measures=found.where(~found.measures.equal_N(SCORE)),
        spent={split: len(paid.on(split)) for split in SPLITS},
        paid=Counter(dict(zip(leases.names, of_lease, strict=True))),
    )


class _Named(NamedTuple):
    """For every name that an item of a block has in a campaign: its place in the block, and among the campaign's."""

    places: Codes
    items: Codes


def _named(blocks: Iterable[Block], items: Sequence[Row]) -> dict[Block, _Named]:
    """Blocks with a campaign's names of their items; equal items have one key."""
    named: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(items):
        named[row["score_key"]].append(place)
    return {block: _names_of(block, named) for block in dict.fromkeys(blocks)}


def _names_of(block: Block, named: Mapping[str, Sequence[int]]) -> _Named:
    pairs = [(place, item) for place, key in enumerate(block.score_keys) for item in named.get(key, ())]
    places, items = zip(*pairs, strict=True) if pairs else ((), ())
    return _Named(np.array(places, np.int32), np.array(items, np.int32))


def _codes(recipes: Sequence[str], hashes: Labels) -> Codes:
    """The code of every candidate's recipe; −1 where nothing is known of it."""
    known = {name: code for code, name in enumerate(hashes.names)}
    return np.array([known.get(recipe, -1) for recipe in recipes], np.int32)


def _of_candidates(by_recipe: Matrix, codes_C: Codes, met: Met) -> Matrix:
    """Every candidate's rows of the matrix of recipes, on the splits that it met: two candidates may share a recipe."""
    first_C, end_C = (np.searchsorted(by_recipe.candidates_N, codes_C, side) for side in ("left", "right"))
    spans = [np.arange(first, end) for first, end in zip(first_C, end_C, strict=True)]
    shared = by_recipe.taken(np.concatenate([np.empty(0, np.int64), *spans]))
    found = replace(shared, candidates_N=np.repeat(np.arange(len(codes_C), dtype=np.int32), end_C - first_C))
    names = found.items.splits.names
    met_CS = np.zeros((len(codes_C), len(names)), np.bool_)
    for number, split in met:
        met_CS[number, [name == split for name in names]] = True
    return found.where(met_CS[found.candidates_N, found.splits.codes_N])


def _coded(column: Sequence[Value]) -> tuple[tuple[Value, ...], Codes]:
    """The different values, and every value's place among them."""
    codes = {value: code for code, value in enumerate(dict.fromkeys(column))}
    return tuple(codes), np.fromiter(map(codes.__getitem__, column), np.int32, len(column))
