"""A tensor that all workers measure together: its stages one after the other, put together from what they send. Pure.

Partials arrive in any order and make the same facts: counts are integers, and other sums have a slot per block.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from cluster.sharding import Unit, after, next_stage
from engine.methods.contract import Array, Call, Stage
from engine.planning.plan import Plan


class Giant:
    """`facts` are those of all stages so far."""

    def __init__(self, plan: Plan, index: int, *, done: Collection[int] = ()) -> None:
        tensor = plan.tensors[index]
        assert tensor.call is not None
        self.index = index
        self.facts: dict[str, Array] = {}
        self._plan = plan
        self._done = done
        self._call: Call = tensor.call
        self._stages = plan.method.stages(tensor.call)
        self._blocks = tensor.blocks
        self._total: Array = np.empty(0)
        self._awaited: set[Unit] = set()

    @property
    def measured(self) -> bool:
        """Whether nothing more has to be measured: what `go_on` returned last are tiles."""
        return len(self.facts) == len(self._stages)

    def go_on(self) -> list[Unit]:
        """What is to be done next: the shares of a stage, or, when all facts are there, the tiles."""
        while not self.measured:
            stage = self._stages[len(self.facts)]
            if stage.measure is None:
                self._finish(stage, None)
                continue
            assert next_stage(self._plan, self.index, self.facts) == len(self.facts)
            shares = after(self._plan, self.index, self.facts)
            shape = stage.shape(self._call)
            self._total = np.zeros((self._blocks, *shape) if stage.partial == "per_block" else shape, stage.dtype)
            self._awaited = set(shares)
            if shares:
                return shares
            self._finish(stage, self._total)  # it looks at no block
        return after(self._plan, self.index, self.facts, done=self._done)

    def add(self, share: Unit, partial: Array) -> bool:
        """Take what was measured; whether that completes the stage. What comes a second time changes nothing."""
        if share not in self._awaited:
            return False
        self._awaited.remove(share)
        stage = self._stages[len(self.facts)]
        if stage.partial == "per_block":
            self._total[share.blocks.start : share.blocks.stop] = partial
        else:
            self._total += partial
        if not self._awaited:
            self._finish(stage, self._total)
        return not self._awaited

    def _finish(self, stage: Stage, partial: Array | None) -> None:
        with np.errstate(all="ignore"):  # what is not finite is counted where it is read and where it is made
            self.facts[stage.name] = stage.finish(self._call, partial, self.facts)
        self._total = np.empty(0)
