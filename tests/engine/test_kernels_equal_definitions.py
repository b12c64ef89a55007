"""Every method's kernels against its torch definition, bit for bit, on blocks of any size and any awkward values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.arithmetic import DefinitionArithmetic, KernelArithmetic
from engine.methods import METHODS
from engine.methods.contract import Call, Facts, Method, Parameter, Stage
from engine.numerics import BLOCK
from engine.views import STORED

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
    "scale": [0.75],
    "normalize": [0.0, 1.0],
    "rescale": [0.0, 1.0],
    "lambda": [0.8],
    "t": [0.35],
}
"""Values that parameters are tried with; others have their default."""


def call_of(method: Method, sources: int, shape: tuple[int, ...], draw: np.random.Generator) -> Call:
    based = method.base == "required"
    count = sources - based

    def values(parameter: Parameter, size: int) -> tuple[float, ...]:
        choices = CHOICES.get(parameter.name, [float(parameter.default or 0)])
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
        scope=method.scope_with(options),
    )


def measured(arithmetic: Any, stage: Stage, call: Call, rows: np.ndarray, facts: Facts) -> np.ndarray:
    shape = stage.shape(call)
    slots = stage.partial == "per_block"
    partial = np.zeros((1, *shape) if slots else shape, stage.dtype)
    wanted = None if stage.only is None else stage.only(facts)
    if wanted is None or 0 in wanted:
        out = partial[0] if slots else partial
        arithmetic.measure(stage, call, rows, (0, call.elements), facts=facts, out=out)
    return partial


@pytest.mark.parametrize("name", sorted(METHODS))
@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_kernels_give_the_bits_of_the_definition(name: str, data: st.DataObject) -> None:
    method = METHODS[name]
    low, high = method.models
    based = method.base == "required"
    sources = data.draw(st.integers(low + based, (high or 4) + based))
    shape = data.draw(st.sampled_from(SHAPES))
    elements = math.prod(shape)
    dtype, out_dtype = (
        data.draw(st.sampled_from(["BF16", "F16", "F32"])),
        data.draw(st.sampled_from(["BF16", "F16", "F32"])),
    )
    seed = data.draw(st.integers(0, 10_000))
    rows = rows_of(dtype, sources, elements, seed)
    call = call_of(method, sources, shape, np.random.default_rng(seed))
    if sum(call.sources.get("weight", (1.0,))) == 0:
        call = Call(**{**call.__dict__, "sources": {**call.sources, "weight": (0.3,) * len(call.source_ids)}})
    kernel, definition = KernelArithmetic(method), DefinitionArithmetic(method)
    facts: dict[str, Any] = {}
    with np.errstate(all="ignore"):
        for stage in method.stages(call):
            partial = None
            if stage.measure is not None:
                partial = measured(kernel, stage, call, rows, facts)
                np.testing.assert_array_equal(partial, measured(definition, stage, call, rows, facts), stage.name)
            facts[stage.name] = stage.finish(call, partial, facts)
        got = np.zeros(elements, STORED[out_dtype])
        wanted = got.copy()
        kernel.merge(call, rows, (0, elements), facts=facts, out=got)
        definition.merge(call, rows, (0, elements), facts=facts, out=wanted)
    np.testing.assert_array_equal(got.view(np.uint8), wanted.view(np.uint8))


def test_every_method_of_this_release_is_served_by_a_kernel() -> None:
    assert [name for name, method in METHODS.items() if method.kernel is None] == []
    stages = [
        stage
        for method in METHODS.values()
        for stage in method.stages(call_of(method, 2, (9,), np.random.default_rng(0)))
    ]
    assert all((stage.kernel is None) == (stage.measure is None) for stage in stages)


@pytest.mark.parametrize(("stored", "torch_name"), [("BF16", "bfloat16"), ("F16", "float16")])
def test_every_16_bit_pattern_is_decoded_and_encoded_as_torch_does(stored: str, torch_name: str) -> None:
    import torch

    from engine.kernels import combine

    bits = np.arange(1 << 16, dtype=np.uint16)
    wide = np.empty(1 << 16, np.float32)
    combine.convert(bits.view(STORED[stored]), wide)
    reference = torch.from_numpy(bits.view(np.int16)).view(getattr(torch, torch_name)).float().numpy()
    finite = ~np.isnan(reference)
    np.testing.assert_array_equal(wide[finite].view(np.uint32), reference[finite].view(np.uint32))
    back = np.empty(1 << 16, STORED[stored])
    combine.convert(wide, back)
    np.testing.assert_array_equal(back.view(np.uint16)[finite], bits[finite])
    assert set(back.view(np.uint16)[~finite].tolist()) == {0x7FC0 if stored == "BF16" else 0x7E00}


@given(st.lists(st.integers(0, (1 << 32) - 1), min_size=1, max_size=64))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_rounding_to_16_bits_is_torchs_for_any_float(bits: list[int]) -> None:
    import torch

    from engine.kernels import combine

    values = np.array(bits, np.uint32).view(np.float32)
    number = ~np.isnan(values)
    for stored, dtype in (("BF16", torch.bfloat16), ("F16", torch.float16)):
        out = np.empty(len(bits), STORED[stored])
        combine.convert(values, out)
        reference = torch.from_numpy(values.copy()).to(dtype).view(torch.int16).numpy()
        np.testing.assert_array_equal(out.view(np.int16)[number], reference[number])


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_nonfinite_values_are_counted(dtype: str) -> None:
    from engine.kernels import combine

    rows = rows_of(dtype, 1, 3000, 3)[0, :3000]
    clean = int(combine.count_nonfinite(rows))
    source = np.array([np.nan, np.inf, -np.inf], np.float32)
    combine.convert(source, rows[10:13])
    assert clean == 0
    assert int(combine.count_nonfinite(rows)) == 3
