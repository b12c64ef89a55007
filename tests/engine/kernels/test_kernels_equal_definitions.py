"""Every method's kernels against its torch definition, bit for bit, on blocks of any size and any awkward values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from method_blocks import SHAPES, call_of, measured, rows_of

from engine.errors import MergefleetError
from engine.execution.arithmetic import DefinitionArithmetic, KernelArithmetic
from engine.methods import METHODS
from engine.methods.contract import Call
from engine.models.views import STORED

# Formats of input and output, and how many models more than the least: every format with every count, loops for one
# format (they are others) and for two. Each row compiles loops of its own, which is nearly all that this costs.
LOOPS = [
    ("BF16", "BF16", 0),
    ("BF16", "BF16", 1),
    ("F16", "F16", 1),
    ("F16", "F16", 3),
    ("F32", "F32", 3),
    ("F32", "F32", 0),
    ("BF16", "F32", 3),
    ("F32", "F16", 1),
    ("F16", "BF16", 0),
]
SERVED = [name for name, method in sorted(METHODS.items()) if method.kernel is not None]


@pytest.mark.parametrize("name", SERVED)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_kernels_give_the_bits_of_the_definition(name: str, data: st.DataObject) -> None:
    method = METHODS[name]
    low, high = method.models
    based = method.base == "required" or (method.base == "optional" and data.draw(st.booleans()))
    dtype, out_dtype, more = data.draw(st.sampled_from(LOOPS))
    sources = (min(low + more, high or low + more) + based) * (1 + method.importance)
    shape = data.draw(st.sampled_from(SHAPES))
    elements = math.prod(shape)
    seed = data.draw(st.integers(0, 10_000))
    rows = rows_of(dtype, sources, elements, seed)
    call = call_of(method, sources, shape, np.random.default_rng(seed), based=based)
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
            try:
                facts[stage.name] = stage.finish(call, partial, facts)
            except MergefleetError:  # multislerp where directions cancel: no result to compare
                reject()
        got = np.zeros(elements, STORED[out_dtype])
        wanted = got.copy()
        kernel.merge(call, rows, (0, elements), facts=facts, out=got)
        definition.merge(call, rows, (0, elements), facts=facts, out=wanted)
    np.testing.assert_array_equal(got.view(np.uint8), wanted.view(np.uint8))


def test_every_exact_method_of_the_table_is_served_by_a_kernel_and_so_are_its_stages() -> None:
    assert [name for name, method in METHODS.items() if method.exact and method.kernel is None] == []
    stages = [
        stage
        for name in SERVED
        for stage in METHODS[name].stages(call_of(METHODS[name], 2, (9,), np.random.default_rng(0)))
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
    from engine.kernels import combine, finite

    rows = rows_of(dtype, 1, 3000, 3)[0, :3000]
    clean = int(finite.count_nonfinite(rows))
    source = np.array([np.nan, np.inf, -np.inf], np.float32)
    combine.convert(source, rows[10:13])
    assert clean == 0
    assert int(finite.count_nonfinite(rows)) == 3
