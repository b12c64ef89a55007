"""How many files a merge keeps open at once, and the process's limit for that."""

from __future__ import annotations

import resource
from collections.abc import Iterable

from engine.errors import PlanError
from engine.models.checkpoint import Checkpoint
from engine.planning.plan import Plan

_OTHERS = 64  # the lock, the journal, libraries, the terminal


def allow_open_files(plan: Plan, checkpoints: Iterable[Checkpoint]) -> None:
    """Raise this process's soft limit, often 1024, where the shards of sources and output are more.

    Raises PlanError with got and needed where the hard limit is too low.
    """
    shards = {path for checkpoint in checkpoints for path in checkpoint.paths}
    needed = len(shards) + len(plan.files) + _OTHERS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY not in (soft, hard) and needed > hard:
        raise PlanError(
            f"{needed} files have to be open at once, the limit is {hard}: raise it (ulimit -Hn), "
            "or make fewer output files (--out-shard-size).",
            needed=needed,
            got=hard,
        )
    if soft != resource.RLIM_INFINITY and needed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
