"""A merge on Ray: this process plans, journals and publishes; workers on all nodes read, merge and write.

    Job.prepare (here) → workers make the same plan → chunks of tiles → block digests and facts → Job.record → publish

Only recipes, tile numbers, digests and facts go through Ray. A worker may die at any moment: what it had in hand is
given to others, and a worker that was given up and writes on does no harm, because it writes the same bytes.
"""

from __future__ import annotations

import os
import secrets
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cluster import ray_session
from cluster.actors import Made, MergeTask, MergeWorker, Present
from cluster.address import check_address
from cluster.placement import Post, Request, posts
from cluster.queues import Queues
from cluster.ray_session import Session
from cluster.sharding import Chunk, measuring_passes, units
from engine.errors import ClusterError, MergefleetError, WorkerLost
from engine.execute import Executed
from engine.job import Job, MergeResult, Progress
from engine.merging import merge_with
from engine.methods.contract import Array, Facts
from engine.options import Options
from engine.recipe import Recipe
from engine.recipe_writer import recipe_to_dict
from engine.stages import Stages

START_S = 120.0
POLL_S = 1.0
PATIENCE_S = 300.0
MAX_ATTEMPTS = 4


def merge_on_ray(
    recipe: Recipe | Stages | str | Path,
    out: str | Path,
    *,
    options: Options | None = None,
    address: str = "local",
    workers: int | None = None,
    cpus_per_worker: float | None = None,
    progress: Progress | None = None,
) -> MergeResult:
    """Merge `recipe` into the directory `out` with the workers of a Ray; the bytes are those of `engine.job.merge`.

    Args:
        options: as for `merge`; `threads` and `memory_bytes` are for each worker (default: its processors, and a
            quarter of its node's memory divided by the workers there).
        address: `local`, `auto` or HOST:PORT (cluster.address).
        workers, cpus_per_worker: see `cluster.placement.posts`; default: one worker per node.
        progress: called with (bytes written, bytes to write).

    Raises what `merge` raises, and:
        ClusterError: the cluster cannot be used; nothing was written.
        WorkerLost: workers died more often than this job may bear; run the same command again to resume.
    """
    check_address(address)
    options = options or Options()
    backend = _RayBackend(address, workers, cpus_per_worker, options.threads)
    with backend:
        # the driver holds nothing: every worker checks its own memory for its own threads
        return merge_with(backend, recipe, out, options=replace(options, threads=1), progress=progress)


class _RayBackend:
    """Makes jobs with the workers of one Ray, which is joined when the first job is there and left at the end."""

    def __init__(self, address: str, workers: int | None, cpus_per_worker: float | None, threads: int) -> None:
        self._address = address
        self._workers = workers
        self._cpus_per_worker = cpus_per_worker
        self._threads = threads
        self._open = ExitStack()
        self._session: Session | None = None

    def __call__(self, job: Job, progress: Progress | None) -> Executed:
        if self._session is None:
            self._session = self._open.enter_context(ray_session.session(self._address))
        request = Request(self._workers, self._cpus_per_worker, threads=self._threads)
        there = posts(ray_session.alive_nodes(), request)
        drive = _Drive(job, self._session, there, progress)
        try:
            return drive.go()
        finally:
            drive.dismiss()

    def __enter__(self) -> _RayBackend:
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()


@dataclass
class _Worker:
    """One post and who fills it. `calls` are its unfinished calls: the reference → (chunk, since when)."""

    post: Post
    handle: Any = None
    since: float = 0.0
    present: Present | None = None
    calls: dict[Any, tuple[Chunk | None, float]] = field(default_factory=dict)


class _Drive:
    """The driver's loop: hand out chunks, take what was made, replace the dead."""

    def __init__(self, job: Job, session: Session, there: list[Post], progress: Progress | None) -> None:
        self.job = job
        self.session = session
        self.made: dict[int, list[bytes]] = {}
        self._hooks = job.hooks(progress)
        self._facts: dict[int, Facts] = dict(job.facts)
        self._nonfinite: Counter[tuple[str, str]] = Counter()
        self._missing = {tile.number for tile in job.plan.tiles} - set(job.done)
        self._queues = Queues(units(job.plan, done=job.done, measured=job.facts), [post.threads for post in there])
        self._crew = [_Worker(post) for post in there]
        self._attempts: Counter[int] = Counter()
        self._losses = 0
        self._slowest_s = 0.0
        self._probe = secrets.token_hex(16)
        self._here = ray_session.this_node()

    def go(self) -> Executed:
        """Make all missing tiles."""
        import ray

        (self.job.staging.partial / "probe").write_text(self._probe)
        for index in range(len(self._crew) if self._missing else 0):
            self._start(index)
        while self._missing:
            owner = {call: index for index, worker in enumerate(self._crew) for call in worker.calls}
            ready, _ = ray.wait(list(owner), num_returns=1, timeout=POLL_S)
            for call in ready:
                self._take(owner[call], call)
            self._check_patience()
        return Executed({**self.job.done, **self.made}, dict(self._nonfinite))

    def dismiss(self) -> None:
        """End all workers."""
        import ray

        for worker in self._crew:
            if worker.handle is not None:
                ray.kill(worker.handle)

    def _start(self, index: int) -> None:
        import ray

        worker = self._crew[index]
        post, staging = worker.post, self.job.staging
        task = MergeTask(
            recipe=recipe_to_dict(self.job.recipe),
            origin=self.job.recipe.origin,
            directory=str(Path.cwd()),
            staging=staging.partial,
            probe=self._probe,
            plan_digest=self.job.plan.digest,
            describe=self.job.plan.describe,
            options=replace(self.job.options, scores=None, extra={}),
            threads=post.threads,
            on_node=post.on_node,
            far=post.node.id != self._here,
            hub_cache=os.environ.get("HF_HUB_CACHE"),
        )
        alive = any(node.id == post.node.id for node in ray_session.alive_nodes())
        actor = ray.remote(MergeWorker).options(
            num_cpus=post.cpus,
            max_concurrency=post.threads,
            max_restarts=0,
            # where its node is gone, wherever there is room, now or later
            label_selector={"ray.io/node-id": post.node.id} if alive else None,
        )
        worker.handle = actor.remote(task)
        worker.present, worker.since = None, time.monotonic()
        worker.calls = {worker.handle.prepare.remote(): (None, worker.since)}

    def _take(self, index: int, call: Any) -> None:
        """One call of a worker has ended: well, with an error of the merge, or with the worker."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        worker = self._crew[index]
        if call not in worker.calls:
            return
        try:
            answer = ray.get(call)
        except RayTaskError as failure:
            if isinstance(failure.cause, MergefleetError):
                raise failure.cause from None
            raise
        except RayError as failure:
            if worker.present is None and "creation task" in str(failure):
                raise ray_session.cannot_start(worker.post.node.host, str(failure)) from None
            self._lose(index, str(failure))
            return
        chunk, since = worker.calls.pop(call)
        if chunk is None:
            worker.present = answer
        else:
            self._slowest_s = max(self._slowest_s, time.monotonic() - since)
            self._record(answer)
        self._feed(index)

    def _record(self, made: Made) -> None:
        for tensor, facts in made.facts.items():
            self._hooks.on_facts(tensor, facts)
            self._facts[tensor] = facts
        for number, blocks in made.blocks.items():
            self._hooks.on_tile(self.job.plan.tiles[number], blocks)
        self.made.update(made.blocks)
        self._missing.difference_update(made.blocks)
        self._nonfinite.update(made.nonfinite)
        self._losses = 0

    def _feed(self, index: int) -> None:
        """A chunk for every thread of the worker that has none."""
        worker = self._crew[index]
        while worker.present is not None and len(worker.calls) < worker.post.threads:
            chunk = self._queues.take(index)
            if chunk is None:
                return
            worker.calls[worker.handle.run.remote(chunk.tiles, self._known(chunk))] = (chunk, time.monotonic())

    def _known(self, chunk: Chunk) -> dict[int, Facts]:
        """Facts of the chunk's tensors; those that need no data are made here, once: the workers' libms may differ."""
        for index in chunk.tensors:
            call = self.job.plan.tensors[index].call
            if call is not None and index not in self._facts and not measuring_passes(self.job.plan, index):
                facts: dict[str, Array] = {}
                for stage in self.job.plan.method.stages(call):
                    facts[stage.name] = stage.finish(call, None, facts)
                self._facts[index] = facts
                self._hooks.on_facts(index, facts)
        return {index: self._facts[index] for index in chunk.tensors if index in self._facts}

    def _lose(self, index: int, cause: str) -> None:
        """Give up a worker, put back what it had, start another in its place."""
        import ray

        worker = self._crew[index]
        ray.kill(worker.handle)
        chunks = [chunk for chunk, _ in worker.calls.values() if chunk is not None]
        for chunk in chunks:
            self._attempts.update(unit.tiles[0] for unit in chunk.units)
            self._queues.give_back(index, chunk.units)
        self._losses += 1
        self._check_losses(worker, chunks, cause)
        self._start(index)
        for other in range(len(self._crew)):
            self._feed(other)

    def _check_losses(self, worker: _Worker, chunks: list[Chunk], cause: str) -> None:
        units_lost = [unit for chunk in chunks for unit in chunk.units]
        spent = {unit.tensor for unit in units_lost if self._attempts[unit.tiles[0]] >= MAX_ATTEMPTS}
        if not spent and self._losses <= len(self._crew) + MAX_ATTEMPTS:
            return
        names = [self.job.plan.tensors[tensor].name for tensor in sorted(spent)]
        doing = (
            f"{MAX_ATTEMPTS} times while making {', '.join(names[:3])}" if names else f"{self._losses} times in a row"
        )
        tail = "" if worker.present is None else ray_session.log_tail(self.session.logs, worker.present.pid)
        raise WorkerLost(
            f"workers died {doing}, last on {worker.post.node.host}: {cause.strip().splitlines()[0]} "
            f"What is finished is kept: run the same command again to resume.{ray_session.indented(tail)}",
            tensors=names,
            log=tail,
        )

    def _check_patience(self) -> None:
        """Give up workers that have not answered for far longer than any chunk has taken so far."""
        now = time.monotonic()
        if all(worker.present is None and now - worker.since > START_S for worker in self._crew):
            wants = ", ".join(sorted({f"{worker.post.cpus:g}" for worker in self._crew}))
            raise ClusterError(
                f"{self.session.address}: no worker could be started within {START_S:g} s; each asks for {wants} "
                "processors. Is the cluster busy (`ray status`)? Fewer --workers, or none of its jobs, help."
            )
        for index, worker in enumerate(self._crew):
            waited = max((now - since for chunk, since in worker.calls.values() if chunk is not None), default=0.0)
            if waited > max(PATIENCE_S, 20 * self._slowest_s):
                self._lose(index, f"it has not answered for {waited:.0f} s.")
