"""`plan --scan`: read every input once and count NaN and Inf, before a merge of hours finds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from engine.execution.execute import Work
from engine.execution.worker import count_nonfinite
from engine.models.checkpoint import Checkpoint
from engine.planning.plan import Plan
from engine.recipes.recipe import ModelRef
from engine.tensorfile.store import PromisedStore


@dataclass(frozen=True)
class Finding:
    """A tensor of a source with NaN or Inf in it."""

    source: str
    tensor: str
    count: int


def scan(
    plan: Plan,
    checkpoints: Mapping[ModelRef, Checkpoint],
    *,
    threads: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Finding]:
    """Every input tensor of `plan` that holds NaN or Inf; `progress` gets (bytes read, bytes to read)."""
    there = {n for n, ref in enumerate(plan.sources) if not isinstance(checkpoints[ref].store, PromisedStore)}
    inputs = (view for tensor in plan.tensors for view in tensor.views if view.source in there)
    views = sorted({(view.source, view.tensor) for view in inputs})
    sizes = [checkpoints[plan.sources[source]].tensors[name].nbytes for source, name in views]
    found: list[Finding] = []
    done = 0

    def count(view: tuple[int, str]) -> int:
        return count_nonfinite(checkpoints[plan.sources[view[0]]], view[1])

    with ThreadPoolExecutor(Work(threads=threads).thread_count) as pool:
        for (source, name), nbytes, bad in zip(views, sizes, pool.map(count, views), strict=True):
            done += nbytes
            if bad:
                found.append(Finding(str(plan.sources[source]), name, bad))
            if progress:
                progress(done, sum(sizes))
    return found
