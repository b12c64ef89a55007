"""A merge on Ray: this process plans, journals and publishes; workers on all nodes read, merge and write.

    Job.prepare (here) → workers make the same plan → chunks of tiles → block digests and facts → Job.record → publish

Only recipes, tile numbers, digests, partials and facts go through Ray. A worker may die at any moment: what it had in
hand is given to others, and a worker that was given up and writes on does no harm, because it writes the same bytes.
"""

from __future__ import annotations

import os
import secrets
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from cluster import ray_session
from cluster.actors import MergeTask
from cluster.address import check_address
from cluster.drive import Drive
from cluster.merge_status import NodeCount, Tally, Watch
from cluster.placement import Post, Request
from cluster.ray_session import Session
from cluster.roster import Roster
from engine.device import choose_device
from engine.execution.execute import Executed
from engine.merging import merge_with
from engine.outputs.job import Job, MergeResult, Progress
from engine.planning.options import Options
from engine.recipes.recipe import Recipe
from engine.recipes.stages import Stages
from engine.recipes.writer import recipe_to_dict


def merge_on_ray(
    recipe: Recipe | Stages | str | Path,
    out: str | Path,
    *,
    options: Options | None = None,
    address: str = "local",
    request: Request | None = None,
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> MergeResult:
    """Merge `recipe` into the directory `out` with the workers of a Ray; the bytes are those of `engine.merge`.

    Args:
        options: as for `merge`; `threads` and `memory_bytes` are for each worker (default: its processors, and a
            quarter of its node's memory divided by the workers there).
        address: `local`, `auto` or HOST:PORT (cluster.address).
        request: how many workers, and what each reserves; default: one per node, also on nodes that join.
        progress: called with (bytes written, bytes to write).
        watch: called with counts by node (cluster.merge_status).

    Raises what `merge` raises, and:
        ClusterError: the cluster cannot be used; nothing was written.
        TileFailed: a tile failed on every worker that tried it; names it, with the end of the worker's log.
        WorkerLost: workers died more often than this job may bear; run the same command again to resume.
    """
    check_address(address)
    options = options or Options()
    asked = replace(request or Request(), threads=options.threads)
    if choose_device(options.device) != "cpu" and not asked.gpus:
        asked = replace(asked, gpus=1)
    with _RayBackend(address, asked, watch) as backend:
        # the driver holds nothing: every worker checks its own memory for its own threads
        return merge_with(backend, recipe, out, options=replace(options, threads=1), progress=progress)


class _RayBackend:
    """Makes jobs with the workers of one Ray, which is joined when the first job is there and left at the end."""

    def __init__(self, address: str, request: Request, watch: Watch | None) -> None:
        self._address = address
        self._request = request
        self._watch = watch
        self._nodes: defaultdict[str, NodeCount] = defaultdict(NodeCount)
        self._open = ExitStack()
        self._session: Session | None = None

    def __call__(self, job: Job, progress: Progress | None) -> Executed:
        if self._session is None:
            self._session = self._open.enter_context(ray_session.session(self._address))
        task = partial(_task, job, probe=_probe(job), here=ray_session.this_node())
        tally = Tally(job.plan, job.done, self._nodes, self._watch)
        drive = Drive(job, Roster(self._session, self._request, task), tally, progress)
        try:
            return drive.go()
        finally:
            drive.dismiss()

    def __enter__(self) -> _RayBackend:
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()


def _probe(job: Job) -> str:
    """Text in a file by which workers know the directory that they share; a bucket needs none."""
    probe = secrets.token_hex(16)
    if job.url is None:
        (job.staging.partial / "probe").write_text(probe)
    return probe


def _task(job: Job, post: Post, *, probe: str, here: str) -> MergeTask:
    """What the worker at a post is told; `here` is the driver's node."""
    return MergeTask(
        recipe=recipe_to_dict(job.recipe),
        origin=job.recipe.origin,
        directory=str(Path.cwd()),
        staging=Path() if job.url else job.staging.partial,
        url=job.url,
        probe=probe,
        plan_digest=job.plan.digest,
        describe=job.plan.describe,
        options=replace(job.options, card=None, names=None, inspect=None, extra={}),
        threads=post.threads,
        on_node=post.on_node,
        far=post.node.id != here,
        hub_cache=os.environ.get("HF_HUB_CACHE"),
        own_process=True,
    )
