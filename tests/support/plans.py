"""Plans of any method over tensors of given sizes, without files: for what decides on integers alone."""

from __future__ import annotations

from engine.methods import METHODS
from engine.methods.contract import Call
from engine.models.views import View
from engine.planning.plan import OutputTensor, Plan
from engine.recipes.model_ref import ModelRef


def call_of(method: str, name: str, elements: int, **options: float) -> Call:
    defaults = {p.name: float(p.default or 0) for p in METHODS[method].parameters.values() if p.scope == "global"}
    sources = {p.name: (0.5, 0.25) for p in METHODS[method].parameters.values() if p.scope == "model"}
    return Call(
        method=method,
        tensor=name,
        shape=(elements,),
        base=METHODS[method].base == "required",
        source_ids=(1, 2),
        sources=sources,
        options=defaults | options,
    )


def plan_of(method: str, sizes: list[int], tile_bytes: int = 1, **options: float) -> Plan:
    """A plan of bfloat16 tensors with these numbers of elements; a size of None-like 0 is an empty tensor."""
    inputs = tuple(View(source, "x", "BF16", "BF16") for source in range(3))
    tensors = tuple(
        OutputTensor(
            f"t{n}", "BF16", (size,), 0, 0, inputs, call_of(method, f"t{n}", size, **options), "BF16", None, size
        )
        for n, size in enumerate(sizes)
    )
    ref = ModelRef("base")
    return Plan(METHODS[method], (ref,), tensors, (), {}, {}, ref, ref, tile_bytes=tile_bytes)
