"""Candidates of the search before they are due: the next ones of a cohort are drawn, planned and hashed together.

Between two candidates lies a forward pass, which drives code and data of everything else from the processor's caches:
one at a time a candidate takes three times as long. A draft is used only if nothing was told to the sampler since it
was drawn, so that the candidates are those that would have been drawn one by one: samplers that are told cohorts draw
by the number of a candidate and what they were told, and by nothing else (samplers/contract.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from search.campaign import Ask
from search.live import Point

AHEAD = 32
"""Drafts at once: more would wait longer than plans are kept (evaluators/plans.py)."""


@dataclass(frozen=True)
class Entry:
    """A candidate about to enter: its point, its recipe and that one's hash; `cause`: why it cannot work."""

    point: Point
    recipe: Mapping[str, Any]
    recipe_hash: str
    cause: str | None = None


class Drafts:
    """Of one coordinator. `draw` makes what an Ask asks for."""

    def __init__(self, draw: Callable[[Ask], Entry], *, ahead: int) -> None:
        self._draw, self._ahead = draw, ahead
        self._drawn_after = -1
        self._waiting: dict[int, Entry] = {}

    def take(self, ask: Ask, *, lessons: int) -> Entry:
        """What is asked for now, after the sampler was told so many times."""
        if self._drawn_after != lessons or ask.number not in self._waiting:
            room = ask.cohort.capacity - len(ask.cohort.members)
            numbers = range(ask.number, ask.number + min(room, self._ahead))
            self._waiting = {number: self._draw(replace(ask, number=number)) for number in numbers}
            self._drawn_after = lessons
        return self._waiting.pop(ask.number)

    def waiting(self, ask: Ask, *, lessons: int) -> list[tuple[int, Entry]]:
        """Number and entry of what was drawn already, from what is asked for now on, if it stands."""
        if self._drawn_after != lessons or ask.number not in self._waiting:
            return []
        return [(number, entry) for number, entry in sorted(self._waiting.items()) if number >= ask.number]
