"""Who still waits for which items: known scores by recipe, open assessments, and the work units they need. Pure.

Scores belong to recipes. A candidate whose recipe was scored on its items before is complete at once and costs nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from sys import intern

from search.pools import Pools
from search.ports import SCORE, Measures, Split
from search.queue import Unit


@dataclass(frozen=True)
class Assessment:
    """A candidate on a split, waiting for the scores of `items`.

    `rungs` counts the items after each rung; a rung is scored when the one before it is known and was worth going on
    (stopping.py). Empty: all at once.
    """

    number: int
    split: Split
    recipe_hash: str
    items: tuple[str, ...]
    rungs: tuple[int, ...] = ()

    @cached_property
    def wanted(self) -> frozenset[str]:
        """The items, to be looked up in."""
        return frozenset(self.items)

    @property
    def parts(self) -> tuple[tuple[str, ...], ...]:
        """The items that each rung adds."""
        cuts = (0, *(self.rungs or (len(self.items),)))
        return tuple(self.items[low:high] for low, high in pairwise(cuts))


class Board:
    """What is known of everything scored so far, and the assessments that are not complete.

    `scores[recipe_hash][item]` and `measures[recipe_hash][measure][item]`.
    """

    def __init__(self, pools: Pools) -> None:
        self.pools = pools
        self.scores: dict[str, dict[str, float]] = defaultdict(dict)
        self.measures: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
        self.waiting: dict[str, list[Assessment]] = {}  # no recipe that nobody waits for
        self._twins = _twins(pools)

    def open(self, assessment: Assessment, *, out: set[str]) -> list[Unit]:
        """Wait for an assessment; the units to begin with, see `units`."""
        self.waiting.setdefault(assessment.recipe_hash, []).append(assessment)
        return self.units(assessment, out=out)

    def units(self, assessment: Assessment, *, out: set[str]) -> list[Unit]:
        """The units of its first rung that is not known, without items that are `out` (pending or running) already."""
        known = self.scores[assessment.recipe_hash].keys()
        blocks = 0
        for part in assessment.parts:
            missing = set(part).difference(known)
            if missing:
                wanted = missing.difference(out)
                cut = self.pools.blocks(part) if wanted else ()
                asked = [tuple(item for item in items if item in wanted) for items in cut]
                return [
                    Unit(assessment.number, assessment.recipe_hash, assessment.split, blocks + block, items)
                    for block, items in enumerate(asked)
                    if items
                ]
            blocks += len(self.pools.blocks(part))
        return []

    def seen(self, assessment: Assessment) -> dict[str, float]:
        """The scores of its rungs that are known in full."""
        known = self.scores[assessment.recipe_hash]
        found: dict[str, float] = {}
        for part in assessment.parts:
            if not known.keys() >= set(part):
                break
            found |= {item: known[item] for item in part}
        return found

    def stop(self, assessment: Assessment) -> None:
        """Wait no longer for an assessment that was stopped early."""
        self._wait_for(assessment.recipe_hash, [e for e in self.waiting[assessment.recipe_hash] if e != assessment])

    def take(self, recipe_hash: str, scores: Mapping[str, float], measures: Measures | None = None) -> dict[str, float]:
        """Learn scores that somebody waits for; those that were new. The first score of an item stays.

        The measures of an item are learned with its score, and stay with it. Equal items have one score, as in the
        store, whichever of them it came for: a restart would know no other.
        """
        came = set(scores)  # a block; assessments have thousands of items
        wanted = set[str]().union(*(came & assessment.wanted for assessment in self.waiting.get(recipe_hash, ())))
        known = self.scores[recipe_hash]
        # an item's name is one object, whatever process sent it: names would be half the memory of millions of scores
        fresh = {intern(item): score for item, score in scores.items() if item in wanted and item not in known}
        for twins in {self._twins[item] for item in fresh if item in self._twins}:
            first, *others = (item for item in fresh if item in twins)
            fresh = {item: score for item, score in fresh.items() if item not in others}
            known.update(dict.fromkeys(twins, fresh[first]))
        known.update(fresh)
        alike = self._twins.get
        for measure, values in (measures or {}).items():
            mine = {intern(i): value for item, value in values.items() if item in fresh for i in alike(item, (item,))}
            self.measures[recipe_hash][measure].update(mine)
        return fresh

    def restore(self, recipe_hash: str, measure: str, values: Mapping[str, float]) -> None:
        """Know again what was stored, by item, whoever waits for it."""
        by_item = self.scores[recipe_hash] if measure == SCORE else self.measures[recipe_hash][measure]
        by_item.update(values)

    def complete(self, recipe_hash: str) -> list[Assessment]:
        """Assessments that have all their scores now; they wait no longer."""
        known, waiting = self.scores[recipe_hash], self.waiting.get(recipe_hash, [])
        done = [entry for entry in waiting if len(known) >= len(entry.items) and known.keys() >= entry.wanted]
        if done:
            self._wait_for(recipe_hash, [entry for entry in waiting if entry not in done])
        return done

    def _wait_for(self, recipe_hash: str, waiting: list[Assessment]) -> None:
        if waiting:
            self.waiting[recipe_hash] = waiting
        else:
            del self.waiting[recipe_hash]

    def lose(self, recipe_hash: str) -> list[Assessment]:
        """Every assessment of a recipe that cannot be scored; they wait no longer."""
        return self.waiting.pop(recipe_hash, [])

    def missing(self, split: Split) -> int:
        """Items that open assessments of a split still wait for."""
        waiting = (entry for entries in self.waiting.values() for entry in entries if entry.split == split)
        return sum(len(entry.wanted - self.scores[entry.recipe_hash].keys()) for entry in waiting)


def _twins(pools: Pools) -> dict[str, frozenset[str]]:
    """Item → all that are equal to it, itself among them, where there are such: one score key is theirs."""
    of_key: dict[str, list[str]] = defaultdict(list)
    for item, key in pools.score_key_of.items():
        of_key[key].append(item)
    return {item: frozenset(items) for items in of_key.values() if len(items) > 1 for item in items}
