"""Everything that is fixed about a campaign, as the machine (campaign.py) sees it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from search.campaign_file import ComparatorGroup
from search.pools import window_items


@dataclass(frozen=True)
class StageRule:
    """A stage as the machine sees it: cohort size, and after how many told candidates it ends (None: never)."""

    population: int
    quota: int | None = None


@dataclass(frozen=True)
class Rules:
    """`kinds` are those of the baselines, candidates 0, 1, ... in this order; `pool` how many search items every task
    has (nothing where no items are known yet: windows then count as they are asked for)."""

    kinds: tuple[Literal["base", "parent", "baseline"], ...]
    sobol: int
    stages: tuple[StageRule, ...]
    window: Mapping[int, int]
    comparators: tuple[ComparatorGroup, ...] = ("parents", "base", "baselines", "best_global")
    budget_items: int | None = None
    budget_candidates: int | None = None
    fresh: bool = True
    pool: tuple[int, ...] = ()

    def window_size(self, spent: int) -> int:
        """Items per candidate after `spent` search items."""
        return self.window[max(mark for mark in self.window if mark <= spent)]

    def start_after(self, start: int, size: int) -> int:
        """Where the window after this one starts, in items over all tasks: each has one in it, however small it is."""
        return start + max(size, len(self.pool)) if self.fresh else 0

    def items(self, size: int) -> int:
        """How many items a window of about `size` really has: tasks share it equally, and none has an item twice."""
        return window_items(size, self.pool) if self.pool else size
