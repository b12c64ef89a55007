"""One place of items cut in three: seeded, stratified, and disjoint by content. Pure.

Items are grouped by what they say (case and white space apart), so that a question that occurs twice stays in one
split; groups are ordered by a hash of (seed, content), so that the cut depends neither on the order of the file nor on
what else is in it; strata are interleaved in proportion, and the order is cut where the sizes say.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from hashlib import blake2b

from engine.errors import CampaignError
from search.evaluators.entries import SplitEntry, TaskEntry
from search.pools import interleave
from search.ports import SPLITS, Item, Split

Splits = dict[Split, tuple[Item, ...]]


def items_of(
    entries: Sequence[TaskEntry], read: Callable[[TaskEntry, str], Sequence[Item]], *, seed: int, origin: str
) -> Splits:
    """The tasks' items by split: read from three places each, or from one that is cut. `read` gets entry and place."""
    found: dict[Split, list[Item]] = {split: [] for split in SPLITS}
    for entry in entries:
        if entry.split is None:
            parts: Splits = {split: tuple(read(entry, entry.task_of(split))) for split in SPLITS}
        else:
            everything = read(entry, entry.places[0])
            where = f"{origin}: task {entry.name!r}"
            parts = cut(everything, entry.split, seed=f"{seed}/{entry.name}", where=where)
            _refuse_empty(parts, entry, everything, where=where)
        for split in SPLITS:
            found[split] += parts[split]
    return {split: tuple(items) for split, items in found.items()}


def cut(items: Sequence[Item], sizes: SplitEntry, *, seed: str, where: str) -> Splits:
    """Cut items in three. In every split they stand in the order in which they came.

    A group of equal items that crosses a cut belongs to the split it begins in, so sizes may be off by a group.
    Raises CampaignError where counts ask for more items than there are.
    """
    wanted = sizes.sizes(len(items))
    if sum(wanted.values()) > len(items):
        raise CampaignError(
            f"{where}, split: asks for {sum(wanted.values())} items, {len(items)} are there", got=len(items)
        )
    order = interleave([_ordered(stratum, seed) for _, stratum in sorted(_strata(items).items())])
    groups: dict[str, list[str]] = defaultdict(list)
    for item in items:
        groups[_said(item)].append(item.key)
    said = {item.key: _said(item) for item in items}
    ordered = list(dict.fromkeys(said[key] for key in order))
    split_of: dict[str, Split] = {}
    place = 0
    for split in SPLITS:
        filled = 0
        while filled < wanted[split] and place < len(ordered):
            mine = groups[ordered[place]]
            split_of |= dict.fromkeys(mine, split)
            filled += len(mine)
            place += 1
    return {split: tuple(item for item in items if split_of.get(item.key) == split) for split in SPLITS}


def _refuse_empty(parts: Splits, entry: TaskEntry, items: Sequence[Item], *, where: str) -> None:
    """CampaignError where a split got none of the items that are there: too few, or too few different ones."""
    empty = next((split for split in SPLITS if items and not parts[split]), None)
    if empty is not None:
        said = Counter(map(_said, items))
        remedy = "a longer text, another `chunk`" if entry.kind == "text" else "more items"
        raise CampaignError(
            f"{where}, split: leaves no {empty} items: {len(items)} are there, {len(said)} different ones, one of "
            f"which {max(said.values())} times, and equal ones stay in one split. Give it {remedy}, or other shares.",
            task=entry.name,
            split=empty,
        )


def _said(item: Item) -> str:
    return item.text or item.content


def _strata(items: Sequence[Item]) -> dict[str, list[Item]]:
    strata: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        strata[item.stratum].append(item)
    return strata


def _ordered(items: Sequence[Item], seed: str) -> list[str]:
    """Keys by the hash of what the items say; equal ones lie side by side."""

    def rank(item: Item) -> tuple[bytes, str]:
        return blake2b(f"{seed}/{_said(item)}".encode(), digest_size=16).digest(), item.key

    return [item.key for item in sorted(items, key=rank)]
