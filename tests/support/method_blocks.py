"""Blocks, calls and partials for trying one method on one block, with awkward values and every choice of settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.execution.arithmetic import DefinitionArithmetic, KernelArithmetic
from engine.methods.contract import Call, Facts, Method, Parameter, Stage
from engine.models.views import STORED
from engine.numerics import BLOCK

AWKWARD = np.array([0.0, -0.0, 1e-45, -1e-40, 6e-8, 1.0, -1.0, 65504.0, -3.0e38, 3.3e38, 1.17549435e-38], np.float32)

SHAPES = [(1,), (2,), (3, 1), (64,), (1023,), (1, 1024), (1025,), (2, 1024), (5000,), (7, 65), (50, 100)]


def rows_of(dtype: str, sources: int, elements: int, seed: int) -> np.ndarray:
    """rows[sources, BLOCK]: a base and small deltas on it, sprinkled with awkward values and exact ties."""
    generator = np.random.default_rng(seed)
    base = generator.normal(0, 0.02, elements)
    values = np.stack([base + (j > 0) * generator.normal(0, 0.002, elements) for j in range(sources)])
    values[:, generator.random(elements) < 0.2] = values[:1, generator.random(elements) < 0.2][:, :1].sum()
    places = generator.random(values.shape) < 0.05
    values[places] = generator.choice(AWKWARD if dtype != "F16" else AWKWARD[:8], places.sum())
    rows = np.zeros((sources, BLOCK), STORED[dtype])
    single = values.astype(np.float32)
    if dtype == "BF16":
        rows[:, :elements] = (single.view(np.uint32) >> 16).astype(np.uint16)
    elif dtype == "F16":
        rows[:, :elements] = single.astype(np.float16).view(np.int16)
    else:
        rows[:, :elements] = single
    return rows


CHOICES: dict[str, list[float]] = {
    "weight": [-0.5, 0.3, 0.7, 1.0, 1.3],
    "density": [0.0, 0.01, 0.37, 0.5, 0.99, 1.0],
    "gamma": [0.0, 0.01, 0.2, 0.7],
    "elect_by_count": [0.0, 1.0],
    "select_topk": [0.0, 0.1, 0.5, 1.0],
    "scale": [0.75],
    "normalize": [0.0, 1.0],
    "rescale": [0.0, 1.0],
    "lambda": [0.8],
    "t": [0.002, 0.35],
    "epsilon": [0.0, 0.0015, 0.009],
    "r": [0.3],
    "alpha": [0.2, 5.0],
    "mask_share": [0.2, 0.6],
    "k": [1.0, 2.0],
    "nuslerp_flatten": [0.0, 1.0],
    "nuslerp_row_wise": [0.0, 1.0],
    "filter_wise": [0.0, 1.0],
    "normalize_weights": [0.0, 1.0],
    "eps": [1e-8, 1e-3],
    "max_iter": [0.0, 10.0],
    "tol": [0.0, 1e-5],
}
"""Values that parameters are tried with; others have their default."""


def call_of(
    method: Method, sources: int, shape: tuple[int, ...], draw: np.random.Generator, *, based: bool | None = None
) -> Call:
    """A call with settings from `CHOICES` over so many inputs: the base where there is one, models, importances."""
    based = method.base == "required" if based is None else based
    count = (sources - based) // (1 + method.importance)

    def values(parameter: Parameter, size: int) -> tuple[float, ...]:
        choices = CHOICES.get(parameter.name, [float(parameter.default or 0)])
        choices = [choice for choice in choices if parameter.low <= choice <= parameter.high]
        return tuple(draw.choice(choices, size).tolist())

    rows = method.parameters.values()
    options = {p.name: values(p, 1)[0] for p in rows if p.scope == "global"}
    return Call(
        method=method.name,
        tensor="model.layers.0.mlp.up_proj.weight",
        shape=shape,
        base=based,
        source_ids=tuple(range(1, count + 1)),
        sources={p.name: values(p, count) for p in rows if p.scope == "model"},
        options=options,
        seed=5,
        scope=method.scope_of(options, shape),
    )


def merged(method: Method, call: Call, inputs: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """One float32 tensor through a method, block by block: by its kernels, or its definition where it has none."""
    arithmetic = (DefinitionArithmetic if method.kernel is None else KernelArithmetic)(method)
    blocks = []
    for number in range(call.blocks):
        rows = np.zeros((len(inputs), call.block), np.float32)
        for row, values in zip(rows, inputs, strict=True):
            part = values.ravel()[number * call.block : (number + 1) * call.block]
            row[: part.size] = part
        blocks.append((rows, (number, part.size)))
    facts: dict[str, Any] = {}
    for stage in method.stages(call):
        shape = stage.shape(call)
        slots = stage.partial == "per_block"
        partial = np.zeros((len(blocks), *shape) if slots else shape, stage.dtype) if stage.measure else None
        for rows, at in blocks if partial is not None else ():
            out = partial[at[0]] if slots else partial
            arithmetic.measure(stage, call, rows, at, facts=facts, out=out)
        facts[stage.name] = stage.finish(call, partial, facts)
    result = np.empty(call.elements, np.float32)
    for rows, (number, elements) in blocks:
        start = number * call.block
        arithmetic.merge(call, rows, (number, elements), facts=facts, out=result[start : start + elements])
    return result.reshape(call.shape)


def measured(arithmetic: Any, stage: Stage, call: Call, rows: np.ndarray, facts: Facts) -> np.ndarray:
    shape = stage.shape(call)
    slots = stage.partial == "per_block"
    partial = np.zeros((1, *shape) if slots else shape, stage.dtype)
    wanted = None if stage.only is None else stage.only(facts)
    if wanted is None or 0 in wanted:
        out = partial[0] if slots else partial
        arithmetic.measure(stage, call, rows, (0, call.elements), facts=facts, out=out)
    return partial
