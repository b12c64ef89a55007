"""Units that were in hand when a worker failed: who may try them next, and when one of them is to blame. Pure.

A worker that dies does not say which of its tiles it died of. So what it had in hand is tried again unit by unit, on
another node where there is one, and what was in hand at two failures with nothing beside it. A failure is certain where
the worker itself named the unit, or died with nothing else in hand; a unit with certain failures on two nodes is
poisoned: it would kill one worker after the other. Machines that die in a wave prove nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from cluster.sharding import Unit


@dataclass(frozen=True)
class Place:
    """Where something failed: the node, and which worker of all that there ever were."""

    node: str
    worker: int


class Suspects:
    """`failures` counts all that were noted."""

    def __init__(self) -> None:
        self.failures = 0
        self._failed: dict[Unit, list[Place]] = {}
        self._certain: dict[Unit, list[Place]] = {}
        self._waiting: list[Unit] = []

    def __bool__(self) -> bool:
        """Whether some wait to be tried again."""
        return bool(self._waiting)

    def accuse(self, units: Sequence[Unit], place: Place, *, certain: bool, nodes: Collection[str]) -> Unit | None:
        """Note that `units` failed at `place`; returns the one that is poisoned, else all will be tried again.

        Args:
            certain: it is known that the (one) unit failed, not merely that it was in hand.
            nodes: that have workers; where there is only one, another worker counts as another node does.
        """
        for unit in units:
            self.failures += 1
            self._failed.setdefault(unit, []).append(place)
            places = self._certain.setdefault(unit, [])
            if certain:
                places.append(place)
            distinct = {at.node for at in places} if len(nodes) > 1 else set(places)
            if len(distinct) > 1:
                return unit
            self._waiting.append(unit)
        return None

    def take(self, place: Place, nodes: Collection[str], *, idle: bool) -> tuple[Unit, bool] | None:
        """A unit for the worker at `place` to try, and whether it must do nothing beside; None: none is for it.

        `idle`: it does nothing now. Units go where they have not failed yet, while there are such nodes, or at least
        where it is not certain that they have.
        """
        for position, unit in enumerate(self._waiting):
            failed, certain = ({at.node for at in noted[unit]} for noted in (self._failed, self._certain))
            right = set(nodes) - failed or set(nodes) - certain or set(nodes)
            alone = len(self._failed[unit]) > 1
            if place.node in right and (idle or not alone):
                del self._waiting[position]
                return unit, alone
        return None

    def put_back(self, unit: Unit) -> bool:
        """A suspect that was taken and neither made nor failed waits again; False: it is no suspect."""
        if unit not in self._failed:
            return False
        self._waiting.append(unit)
        return True
