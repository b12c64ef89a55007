"""A campaign's coordinator as a Ray actor, and how evaluators and the driver see it.

The actor is a shell over `search.coordinator.Coordinator`: when its process dies, Ray starts another one, which opens
the store again under the next epoch and goes on from the rows. Calls may be repeated (Ray retries those that were under
way), so a repeated `next_work` gives the worker the unit that it has already, and a repeated `submit` is ignored;
`exchange` is both.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cluster.evaluator_worker import SearchTask
from engine.errors import ClusterError, MergefleetError
from search.blame import Cordon
from search.ports import SPLITS, BlockResult, CampaignStatus, Failed, Finished, Inventory, Item, Wait, Work
from search.store.takeover import ProcessIdentity, this_process

if TYPE_CHECKING:
    from search.lasting import LastingCoordinator

UNREACHABLE_S = 120.0


@dataclass(frozen=True)
class Report:
    """What the driver is told: progress, which process says so, for how long each worker was not heard of (s), and who
    gets no further work."""

    status: CampaignStatus
    process: ProcessIdentity
    silent: dict[str, float]
    cordon: Cordon


class Hired(NamedTuple):
    """Evaluators that get ready, and those that were sent to work; none that is known to be gone."""

    preparing: tuple[str, ...] = ()
    working: tuple[str, ...] = ()


class CoordinatorActor:
    """The one writer. Nothing happens in the constructor: an exception there would arrive without its type.

    `inventory` is a file (keep_inventory) that a restarted actor reads again: an argument of that size would lie in
    Ray's object store, which may drop it (Ray warns of that on stderr, whatever its settings).
    """

    def __init__(self, task: SearchTask, inventory: Path, resume: bool) -> None:
        self._task = task
        self._items = inventory
        self._resume = resume
        self._coordinator: LastingCoordinator | None = None
        self._closed = False
        self._out: dict[str, Work] = {}
        self._heard: dict[str, float] = {}

    def next_work(self, worker: str) -> Work | Wait | Finished:
        self._heard[worker] = time.monotonic()
        if self._closed:
            return Finished("done")
        if worker in self._out:  # it asks again: the answer was lost on its way
            return self._out[worker]
        return self._given(worker, self._opened().next_work(worker))

    def submit(self, worker: str, result: BlockResult | Failed) -> None:
        self._heard[worker] = time.monotonic()
        if worker in self._out and self._out[worker].lease == result.lease:
            del self._out[worker]
        if not self._closed:
            self._opened().submit(worker, result)

    def exchange(self, worker: str, result: BlockResult | Failed) -> Work | Wait | Finished:
        """`submit` and `next_work` in one call, and one commit."""
        held = self._out.get(worker)
        if self._closed or (held is not None and held.lease != result.lease):  # over, or asked again
            self.submit(worker, result)
            return self.next_work(worker)
        self._heard[worker] = time.monotonic()
        self._out.pop(worker, None)
        return self._given(worker, self._opened().exchange(worker, result))

    def _given(self, worker: str, answer: Work | Wait | Finished) -> Work | Wait | Finished:
        if isinstance(answer, Work):
            self._out[worker] = answer
        return answer

    def heartbeat(self, worker: str) -> None:
        self._heard[worker] = time.monotonic()
        if not self._closed:
            self._opened().heartbeat(worker)

    def lost(self, worker: str) -> None:
        """The driver knows that this worker is dead: its unit goes to another at once."""
        self._heard.pop(worker, None)
        work = self._out.pop(worker, None)
        if work is not None and not self._closed:
            cause = f"worker {worker} died while it scored this"
            self._opened().submit(worker, Failed(work.lease, cause, retryable=True, blameless=True))

    def report(self, hired: Hired) -> Report:
        """How it stands, and who is hired now; the first one opens the run.

        Raises what `search.opening.open_coordinator` raises.
        """
        now, coordinator = time.monotonic(), self._opened()
        coordinator.expect({*hired.preparing, *hired.working})
        self._heard |= dict.fromkeys(hired.preparing, now)
        for worker in hired.working:
            self._heard.setdefault(worker, now)  # a coordinator that was restarted has yet to hear of it
        silent = {worker: now - heard for worker, heard in self._heard.items()}
        return Report(coordinator.status(), this_process(), silent, coordinator.cordon())

    def pause(self) -> None:
        self._opened().pause()

    def save(self) -> None:
        """Commit what waits: this actor is about to be ended."""
        if not self._closed and self._coordinator is not None:
            self._coordinator.save()

    def close(self) -> None:
        """Write the exports and close the store; may be repeated."""
        if not self._closed:
            self._opened().close()
            self._closed = True

    def _opened(self) -> LastingCoordinator:
        if self._coordinator is None:
            import ray

            restarted = bool(ray.get_runtime_context().was_current_actor_reconstructed)
            self._inventory = kept_inventory(self._items)
            self._coordinator = self._open(resume=self._resume or restarted, patient=restarted)
        return self._coordinator

    def _open(self, *, resume: bool, patient: bool) -> LastingCoordinator:
        from search.run import RunDirectory
        from search.session import open_session

        if Path(self._task.directory).is_dir():
            os.chdir(self._task.directory)
        return open_session(
            self._task.parsed(),
            self._inventory,
            directory=RunDirectory(self._task.root),
            resume=resume,
            lease_s=self._task.lease_s,
            patient=patient,
        )


def keep_inventory(path: Path, inventory: Inventory) -> None:
    """Write an inventory to a file, as JSON."""
    path.write_text(json.dumps(asdict(inventory)), encoding="utf-8")


def kept_inventory(path: Path) -> Inventory:
    """What keep_inventory wrote."""
    data = json.loads(path.read_text(encoding="utf-8"))
    measures = data["measures"]
    return Inventory(
        key=data["key"],
        items={split: tuple(Item(**item) for item in data["items"][split]) for split in SPLITS},
        notes=tuple(data["notes"]),
        measures=None if measures is None else tuple(measures),
        former_key=data["former_key"],
    )


class RemoteCoordinator:
    """The actor as a `search.ports.WorkSource`; a restart of it is waited for."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def next_work(self, worker: str) -> Work | Wait | Finished:
        answer: Work | Wait | Finished = answered(self._handle.next_work, worker)
        return answer

    def submit(self, worker: str, result: BlockResult | Failed) -> None:
        answered(self._handle.submit, worker, result)

    def exchange(self, worker: str, result: BlockResult | Failed) -> Work | Wait | Finished:
        """`submit` and `next_work` in one call: one way there and back for each unit."""
        answer: Work | Wait | Finished = answered(self._handle.exchange, worker, result)
        return answer

    def heartbeat(self, worker: str) -> None:
        answered(self._handle.heartbeat, worker)


def answered(method: Any, *arguments: Any) -> Any:
    """The answer of a coordinator's method, a restart of it waited for.

    Ray waits by itself; where it says that the actor cannot be reached just now, we ask again, at growing intervals.
    Raises what the method raises, and ClusterError where the actor is gone, or away for longer than `UNREACHABLE_S`.
    """
    from ray.exceptions import ActorUnavailableError, RayActorError

    deadline, pause_s = time.monotonic() + UNREACHABLE_S, 0.1
    while True:
        try:
            return answer_of(method.remote(*arguments))
        except RayActorError as failure:
            if not isinstance(failure, ActorUnavailableError) or time.monotonic() > deadline:
                raise _gone(failure) from None
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 5.0)


def report_of(call: Any) -> Report | None:
    """The answer of a call of `report`; None where the coordinator cannot be reached just now.

    Raises ClusterError where it is gone, as when the Ray of the driver's own node has ended.
    """
    from ray.exceptions import ActorUnavailableError, RayActorError

    try:
        found: Report = answer_of(call)
    except ActorUnavailableError:
        return None
    except RayActorError as failure:
        raise _gone(failure) from None
    return found


def answer_of(call: Any) -> Any:
    """`ray.get`, but errors that were raised on purpose come as they were raised."""
    import ray
    from ray.exceptions import RayTaskError

    try:
        return ray.get(call)
    except RayTaskError as failure:
        if isinstance(failure.cause, MergefleetError):
            raise failure.cause from None
        raise


def _gone(failure: Exception) -> ClusterError:
    said = str(failure).strip().splitlines()
    return ClusterError(
        f"the campaign's coordinator is gone: {said[0] if said else 'Ray does not say why'} What was scored is in the "
        "store: once Ray is there again, go on with --resume."
    )
