"""A share of a fact: one stage of one tensor, measured over some of its blocks, to be put together elsewhere."""

from __future__ import annotations

from collections.abc import Mapping

from engine.execution.execute import Work, check_memory
from engine.execution.open_files import allow_open_files
from engine.execution.worker import Shared, Worker
from engine.methods.contract import Array, Facts
from engine.models.checkpoint import Checkpoint
from engine.planning.plan import OutputTensor, Plan
from engine.recipes.recipe import ModelRef


class _NoSink:
    """Measuring hands nothing on."""

    def write(self, index: int, tensor: OutputTensor, block: int, data: Array) -> None:
        raise AssertionError(f"{tensor.name}: measuring makes no blocks")


def measure_share(
    plan: Plan,
    checkpoints: Mapping[ModelRef, Checkpoint],
    share: tuple[int, int, range],
    *,
    facts: Facts,
    work: Work,
) -> Array:
    """The partial of (tensor, stage, blocks), from the tensor's earlier facts, in this thread.

    Where a partial keeps a slot per block, the slots of these blocks only. NaN and Inf end it unless `work` allows
    them; they are counted when the blocks are made.

    Raises what `execute` does.
    """
    index, number, blocks = share
    tensor = plan.tensors[index]
    assert tensor.call is not None
    stage = plan.method.stages(tensor.call)[number]
    check_memory(plan, work, [index])
    allow_open_files(plan, checkpoints.values())
    shared = Shared(
        plan=plan,
        sources=[checkpoints[ref] for ref in plan.sources],
        sink=_NoSink(),
        arithmetic=work.arithmetic,
        allow_nonfinite=work.allow_nonfinite,
        pool=work.pool,
        device=work.device,
    )
    partial = Worker(shared).measure(tensor, stage, facts, blocks=blocks)
    return partial[blocks.start : blocks.stop].copy() if stage.partial == "per_block" else partial
