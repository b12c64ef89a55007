"""What would keep a plan from being made at OUT, foreseen without touching anything there."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from engine.errors import MergefleetError
from engine.outputs.output import refuse_existing
from engine.outputs.publish import refuse_inside, refuse_other, require_space
from engine.planning.stage_plans import StagePlans
from engine.remote.url import Url


def obstacles(out: Path | Url, planned: StagePlans) -> list[str]:
    """The errors that a merge of these plans into `out` would end with now, one line each; [] where it would begin.

    Of a place in an object store only whether something is there.
    """
    last = planned.parts[-1].plan
    checks: list[Callable[[], None]] = [partial(refuse_existing, out)]
    if isinstance(out, Path):
        sources = [checkpoint.directory for checkpoint in planned.checkpoints.values() if not checkpoint.raw]
        needed = sum(part.plan.bytes_written for part in planned.parts if not part.current)
        # the digest of what is made of stages is known when they are there
        digest = last.digest if all(part.current for part in planned.parts[:-1]) else None
        checks += [
            partial(refuse_inside, out, sources),
            partial(refuse_other, out, digest, last.describe),
            partial(require_space, out, needed),
        ]
    found = []
    for check in checks:
        try:
            check()
        except MergefleetError as error:
            found.append(error.message)
    return found
