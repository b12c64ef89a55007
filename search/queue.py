"""Work units and their leases: who scores what, until when, for the how-manieth time. Pure: the time is an argument.

A unit belongs to a *recipe*, not to a candidate: two candidates with the same recipe share its scores. A worker goes on
with the recipe it has in its model; else it gets the oldest unit. A unit goes back when its worker failed for a passing
reason, at most `RETRIES` times, and when its worker went away (the lease ran out, it was preempted), at most `LOSSES`
times. A restart sends all running leases back and counts none, up to `MAX_ATTEMPTS`: a unit that takes the whole
process down every time must end, too.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable
from dataclasses import dataclass

from search.ports import Split

RETRIES = 2
LOSSES = 4
"""With half of all workers preempted every minute a unit of 10 s is lost 5 times in a row once in 300 000."""
MAX_ATTEMPTS = 12


def lease_key(epoch: int, number: int) -> str:
    """The name of a coordinator's lease, counted from 1."""
    return f"{epoch}.{number}"


@dataclass
class Unit:
    """Items of one recipe to be scored together.

    `attempts` were handed out; `failures` of them went wrong, `losses` went away with their worker, and `outages` met
    one (outage.py): these do not count.
    """

    candidate: int
    recipe_hash: str
    split: Split
    block: int
    items: tuple[str, ...]
    attempts: int = 0
    failures: int = 0
    losses: int = 0
    outages: int = 0

    @property
    def spent(self) -> bool:
        """No further attempt is due."""
        return self.failures > RETRIES or self.losses > LOSSES or self.attempts - self.outages >= MAX_ATTEMPTS


@dataclass
class Lease:
    """A unit in a worker's hands; `deadline` is None where leases do not run out."""

    key: str
    worker: str
    unit: Unit
    deadline: float | None


class WorkQueue:
    """Pending units in order, and running leases."""

    def __init__(self, *, lease_s: float | None) -> None:
        self.lease_s = lease_s
        self.pending: list[Unit] = []
        self.leases: dict[str, Lease] = {}
        self._loaded: dict[str, str] = {}

    def add(self, units: Iterable[Unit]) -> None:
        """Put units at the end of the queue."""
        self.pending.extend(units)

    def items_out(self, recipe_hash: str) -> set[str]:
        """Items of a recipe that are pending or running."""
        running = [lease.unit for lease in self.leases.values()]
        return {item for unit in (*self.pending, *running) if unit.recipe_hash == recipe_hash for item in unit.items}

    def recipes_out(self) -> set[str]:
        """Recipes of which something is pending or running."""
        running = (lease.unit for lease in self.leases.values())
        return {unit.recipe_hash for unit in (*self.pending, *running)}

    def take(self, worker: str, *, key: str, now: float, avoid: Collection[str] = ()) -> Lease | None:
        """A lease on the next unit for this worker, or None where nothing is pending but recipes to `avoid`."""
        place = self._best_for(worker, avoid)
        if place is None:
            return None
        unit = self.pending.pop(place)
        unit.attempts += 1
        lease = Lease(key, worker, unit, None if self.lease_s is None else now + self.lease_s)
        self.leases[key] = lease
        self._loaded[worker] = unit.recipe_hash
        return lease

    def _best_for(self, worker: str, avoid: Collection[str]) -> int | None:
        """Place in the queue: the recipe that the worker has loaded, else one that no other worker is busy with."""
        loaded = self._loaded.get(worker)
        elsewhere = {lease.unit.recipe_hash for lease in self.leases.values()}
        places = [index for index, unit in enumerate(self.pending) if unit.recipe_hash not in avoid]
        choices = [index for index in places if self.pending[index].recipe_hash == loaded]
        choices += [index for index in places if self.pending[index].recipe_hash not in elsewhere][:1]
        return next(iter((*choices, *places)), None)

    def release(self, key: str) -> Unit | None:
        """End a lease; None where it is not running (answered, or run out)."""
        lease = self.leases.pop(key, None)
        return None if lease is None else lease.unit

    def retry(self, unit: Unit, *, lost: bool = False) -> bool:
        """Count a failure (or a loss) and put the unit first in the queue; False where there were too many."""
        unit.losses += lost
        unit.failures += not lost
        if unit.spent:
            return False
        self.pending.insert(0, unit)
        return True

    def put_back(self, unit: Unit) -> None:
        """Put a unit that met an outage first in the queue."""
        unit.outages += 1
        self.pending.insert(0, unit)

    def extend(self, worker: str, *, now: float) -> None:
        """Move the deadlines of a worker's leases."""
        for lease in self.leases.values():
            if lease.worker == worker and self.lease_s is not None:
                lease.deadline = now + self.lease_s

    def run_out(self, *, now: float) -> list[Lease]:
        """Leases past their deadline, taken out of the running ones."""
        late = [lease for lease in self.leases.values() if lease.deadline is not None and lease.deadline < now]
        for lease in late:
            del self.leases[lease.key]
        return late

    def drop(self, recipe_hash: str) -> None:
        """Forget what is pending of a recipe (it failed for good)."""
        self.pending = [unit for unit in self.pending if unit.recipe_hash != recipe_hash]

    def drop_scored(self, recipe_hash: str, known: Container[str]) -> None:
        """Forget pending units whose items are all scored by now (a late answer to an old lease)."""
        self.pending = [
            unit
            for unit in self.pending
            if unit.recipe_hash != recipe_hash or not all(item in known for item in unit.items)
        ]
