"""How long chunks take, and so which of them take too long: a node may hang without dying (grey failure). Pure.

Time is seconds on any clock; what a chunk should take follows from its weight and from what the others took.
"""

from __future__ import annotations

from collections import deque
from statistics import median

OVERDUE_S = 20.0
"""Nothing is overdue before: a page cache that writes back may hold a healthy worker up for seconds."""
OVERDUE_TIMES = 5
PATIENCE_S = 300.0
PATIENCE_TIMES = 50
SLOWEST = 1_000_000
"""Bytes per second that are believed of a worker while there is nothing to compare it with."""
_REMEMBERED = 256


class Pace:
    """Seconds per byte of the chunks that were made last."""

    def __init__(self) -> None:
        self._rates: deque[float] = deque(maxlen=_REMEMBERED)

    def took(self, weight: int, seconds: float) -> None:
        self._rates.append(seconds / max(1, weight))

    def overdue_s(self, weight: int) -> float:
        """After so long a chunk is given to another worker as well; infinite until there is something to compare."""
        return max(OVERDUE_S, OVERDUE_TIMES * self._expected_s(weight)) if self._rates else float("inf")

    def patience_s(self, weight: int) -> float:
        """After so long its worker is given up."""
        return max(PATIENCE_S, PATIENCE_TIMES * self._expected_s(weight) if self._rates else weight / SLOWEST)

    def _expected_s(self, weight: int) -> float:
        return median(self._rates) * weight
