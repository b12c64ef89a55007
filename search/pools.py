"""The items of each split in one fixed, stratified order; the windows and blocks cut from it; the overlap check. Pure.

A *window* is what one cohort of search candidates is scored on: equally many items of every task, the next ones in that
task's order, starting again at its end. Each task's order is a seeded shuffle with its strata spread evenly, so any
window is a stratified sample and windows that grow are nested. A *block* is what one work unit scores; selection and
holdout are cut into the same blocks for every candidate, because the items of a batch may influence each other's bits.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise

from engine.errors import CampaignError
from search.campaign_file import Campaign
from search.ports import SPLITS, Inventory, Item, Split


@dataclass(frozen=True)
class Pools:
    """Item keys by split and task, in fixed order; `task_of` for all of them, and the key that scores are stored by."""

    ordered: Mapping[Split, Mapping[str, tuple[str, ...]]]
    task_of: Mapping[str, str]
    block_size: int
    score_key_of: Mapping[str, str]

    def size(self, split: Split) -> int:
        """Items of a split, over all tasks."""
        return sum(len(items) for items in self.ordered[split].values())

    @property
    def searched(self) -> tuple[int, ...]:
        """Search items of every task."""
        return tuple(map(len, self.ordered["search"].values()))

    def window(self, start: int, size: int) -> tuple[str, ...]:
        """About `size` search items (at least one per task, each at most once), from position `start` on.

        `start` counts items over all tasks, so windows that follow each other start where the last one ended.
        """
        if (start, size) not in self._windows:  # asked for again for every candidate of a cohort
            self._windows[start, size] = self._window(start, size)
        return self._windows[start, size]

    @cached_property
    def _windows(self) -> dict[tuple[int, int], tuple[str, ...]]:
        return {}

    def _window(self, start: int, size: int) -> tuple[str, ...]:
        tasks = self.ordered["search"]
        columns = []
        for items in tasks.values():
            count = _share(size, len(items), tasks=len(tasks))
            first = start // len(tasks)
            columns.append([items[(first + step) % len(items)] for step in range(count)])
        return interleave(columns)

    def all(self, split: Split) -> tuple[str, ...]:
        """Every item of a split, tasks interleaved in proportion to their sizes."""
        return self._every[split]

    @cached_property
    def _every(self) -> dict[Split, tuple[str, ...]]:
        return {split: interleave(list(columns.values())) for split, columns in self.ordered.items()}

    def blocks(self, items: Sequence[str]) -> tuple[tuple[str, ...], ...]:
        """`items` cut into runs of at most block_size, as equal as possible."""
        count = -(-len(items) // self.block_size)
        cuts = [len(items) * index // count for index in range(count + 1)]
        return tuple(tuple(items[low:high]) for low, high in pairwise(cuts))


def window_items(size: int, tasks: Sequence[int]) -> int:
    """Items of a window of about `size`, as `Pools.window` cuts it, where tasks have so many items."""
    return sum(_share(size, count, tasks=len(tasks)) for count in tasks)


def _share(size: int, count: int, *, tasks: int) -> int:
    """What a task with `count` items has in such a window."""
    return min(count, max(1, size // tasks))


def interleave(columns: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Merge columns so that every prefix holds each in proportion to its length (ties: the earlier column first).

    >>> interleave([["a1", "a2", "a3", "a4"], ["b1", "b2"]])
    ('a1', 'b1', 'a2', 'a3', 'b2', 'a4')
    """
    placed = [
        ((position + 0.5) / len(column), index, item)
        for index, column in enumerate(columns)
        for position, item in enumerate(column)
    ]
    return tuple(item for _, _, item in sorted(placed, key=lambda entry: entry[:2]))


def make_pools(campaign: Campaign, inventory: Inventory) -> Pools:
    """Order, cap and check the items.

    Raises CampaignError where a task has no items in a split, a key occurs twice, or selection or holdout contain an
    item of another split (by content).
    """
    check_overlap(inventory, origin=campaign.origin)
    ordered: dict[Split, dict[str, tuple[str, ...]]] = {}
    for split in SPLITS:
        by_task: dict[str, list[Item]] = {task.name: [] for task in campaign.tasks}
        for item in inventory.items[split]:
            by_task[item.task].append(item)
        for task, items in by_task.items():
            if not items:
                raise CampaignError(f"{campaign.origin}: task {task!r} has no {split} items", task=task, split=split)
        cap = campaign.items.cap(split)
        ordered[split] = {
            task: stratified_order(items, seed=f"{campaign.seed}/{split}/{task}")[:cap]
            for task, items in by_task.items()
        }
    items = list(chain.from_iterable(inventory.items.values()))
    return Pools(
        ordered=ordered,
        task_of={item.key: item.task for item in items},
        block_size=campaign.items.block_size,
        score_key_of={item.key: item.score_key or _own_key(inventory.key, item) for item in items},
    )


def _own_key(evaluation_key: str, item: Item) -> str:
    """A score key for an item that has none: only the same evaluator on the same item shares its scores."""
    text = json.dumps([evaluation_key, item.key, item.content])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def stratified_order(items: Sequence[Item], *, seed: str) -> tuple[str, ...]:
    """Keys shuffled within each stratum, strata interleaved in proportion; depends on keys and seed only."""
    strata: dict[str, list[str]] = defaultdict(list)
    for item in items:
        strata[item.stratum].append(item.key)
    columns = []
    for name in sorted(strata):
        column = sorted(strata[name])
        random.Random(f"{seed}/{name}").shuffle(column)
        columns.append(column)
    return interleave(columns)


def check_overlap(inventory: Inventory, *, origin: str) -> None:
    """Raise CampaignError where one key, or one text (but for case and white space), is in two splits, naming items."""
    seen: dict[str, tuple[Split, str]] = {}
    keys: set[str] = set()
    shared: list[str] = []
    for split in SPLITS:
        for item in inventory.items[split]:
            if item.key in keys:
                raise CampaignError(
                    f"{origin}: item key {item.key!r} occurs twice: keys must be unique over all splits"
                )
            keys.add(item.key)
            earlier, key = seen.setdefault(item.text or item.content, (split, item.key))
            if earlier != split:
                shared.append(f"{item.key} ({split}) = {key} ({earlier})")
    if shared:
        more = f" and {len(shared) - 5} more" if len(shared) > 5 else ""
        raise CampaignError(
            f"{origin}: tasks: {len(shared)} items occur in two splits: {', '.join(shared[:5])}{more}. "
            "A winner is judged on items that nobody searched or selected on: make the splits disjoint.",
            items=shared,
        )
