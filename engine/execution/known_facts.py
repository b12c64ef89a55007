"""Facts that were measured before: a campaign's inputs never change, so its candidates need not measure them again.

Known are, by the contents of the inputs (so that any recipe over the same sources finds them),

    partials           of a stage that looks at nothing but the inputs: dot products and norms (`Stage.reuse` "inputs")
    facts per source   thresholds, last kept indices and kept masses, for each density that was asked for ("source")

A source whose fact is missing is measured alone, with the base: its entry is the same, bit for bit, as beside others.
With `KeptFacts` they are looked for on disk, too, and `keep` writes there what was measured.
Methods with a stage of which nothing can be used again are measured for every candidate, as ever.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from engine import digest
from engine.methods.contract import Array, Call, Facts, Stage, finish_stages
from engine.models.checkpoint import Checkpoint
from engine.models.views import View
from engine.planning.plan import OutputTensor, Plan
from engine.recipes.recipe import ModelRef

if TYPE_CHECKING:
    from engine.execution.kept_facts import KeptFacts

LookAt = Callable[[OutputTensor, Stage, Facts], Array]
"""(tensor, stage, earlier facts) → the partial of the stage over all blocks of the tensor."""
_MOST_BYTES = 256 << 20


class KnownFacts:
    """What is remembered, up to `most_bytes` of numbers: what was not asked for longest goes first. Thread safe."""

    def __init__(self, *, most_bytes: int = _MOST_BYTES, kept: KeptFacts | None = None) -> None:
        self._most_bytes = most_bytes
        self._kept = kept
        self.nbytes = 0
        self._known: OrderedDict[str, Mapping[str, Array]] = OrderedDict()
        self._lock = threading.Lock()

    def facts(self, plan: Plan, index: int, sources: Mapping[ModelRef, Checkpoint], look: LookAt) -> Facts | None:
        """All facts of a tensor, what is not known yet being measured by `look`; None where nothing can be reused."""
        tensor = plan.tensors[index]
        if tensor.call is None:
            return None
        stages = plan.method.stages(tensor.call)
        measuring = [stage for stage in stages if stage.measure]
        if not measuring or any(stage.reuse == "never" for stage in measuring):
            return None
        told = _Told(plan, sources)
        known = self._by_source(tensor, stages, told, look)
        asked = [stage for stage in stages if stage.reuse != "way"]
        return finish_stages(asked, tensor.call, lambda stage, _: self._partial(tensor, stage, told, look), known=known)

    def keep(self) -> None:
        """Write what was measured since the last call to disk, for other processes."""
        if self._kept is not None:
            with self._lock:
                self._kept.write()

    def _by_source(self, tensor: OutputTensor, stages: Sequence[Stage], told: _Told, look: LookAt) -> dict[str, Array]:
        """The facts that each source has by itself, put side by side."""
        lasting = [stage for stage in stages if stage.reuse == "source"]
        if not lasting:
            return {}
        sources = range(len(_call(tensor).source_ids))
        parts = [self._of_one(_alone(tensor, place), stages, told, look) for place in sources]
        return {stage.name: np.concatenate([part[stage.name] for part in parts], axis=-1) for stage in lasting}

    def _of_one(self, alone: OutputTensor, stages: Sequence[Stage], told: _Told, look: LookAt) -> Mapping[str, Array]:
        lasting = [stage for stage in stages if stage.reuse == "source"]

        def measure() -> dict[str, Array]:
            found = finish_stages(stages, _call(alone), partial(look, alone))
            return {stage.name: found[stage.name] for stage in lasting}

        return self._recall(told, alone, lasting, measure)

    def _partial(self, tensor: OutputTensor, stage: Stage, told: _Told, look: LookAt) -> Array:
        return self._recall(told, tensor, [stage], lambda: {stage.name: look(tensor, stage, {})})[stage.name]

    def _recall(
        self, told: _Told, tensor: OutputTensor, stages: Sequence[Stage], measure: Callable[[], Mapping[str, Array]]
    ) -> Mapping[str, Array]:
        """Facts of these stages: remembered, found on disk, or measured."""
        key = told.key(tensor, stages)
        kept = self._kept if self._kept is not None and self._kept.takes(told.method, tensor) else None
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
            found = kept.find(key) if kept else None
        facts = measure() if found is None else found
        with self._lock:
            if kept and found is None:
                kept.add(key, facts)
            self._put(key, facts)
        return facts

    def _put(self, key: str, facts: Mapping[str, Array]) -> None:
        if key not in self._known:
            self._known[key] = facts
            self.nbytes += _nbytes(facts)
        while self.nbytes > self._most_bytes and len(self._known) > 1:
            self.nbytes -= _nbytes(self._known.popitem(last=False)[1])


class _Told:
    """Keys of what is known: everything that it depends on."""

    def __init__(self, plan: Plan, sources: Mapping[ModelRef, Checkpoint]) -> None:
        self.method = plan.method
        self._plan = plan
        self._sources = sources

    def key(self, tensor: OutputTensor, stages: Sequence[Stage]) -> str:
        call, method = _call(tensor), self.method
        settings = {name for stage in stages for name in stage.settings}
        values = {name: call.sources[name] if name in call.sources else call.options[name] for name in settings}
        drawn = [call.seed, call.tensor, list(call.source_ids)] if method.random else []
        inputs = [digest.of_input(view, self._content) for view in tensor.inputs]
        # which stages there are, and what they measure by, may be a matter of options
        asked = [call.scope, *([stage.name, stage.partial, list(stage.shape(call))] for stage in stages)]
        facts = [method.name, method.version, method.package, list(call.shape), call.base, tensor.row_dtype]
        return digest.of_json([*facts, asked, inputs, values, drawn])

    def _content(self, view: View) -> list[Any]:
        return digest.of_content(view, self._plan, self._sources)


def _alone(tensor: OutputTensor, place: int) -> OutputTensor:
    """The tensor as if the base and one source were all inputs."""
    call = _call(tensor)
    one = {name: (values[place],) for name, values in call.sources.items()}
    alone = replace(call, source_ids=(call.source_ids[place],), sources=one)
    return replace(tensor, inputs=(tensor.inputs[0], tensor.inputs[1 + place]), call=alone)


def _call(tensor: OutputTensor) -> Call:
    assert tensor.call is not None
    return tensor.call


def _nbytes(facts: Mapping[str, Array]) -> int:
    return sum(values.nbytes for values in facts.values())
