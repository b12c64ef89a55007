"""The definitions on a GPU make the processor's bytes. Without a GPU: a CPU in its place, and a device without values.

`make test-gpu` (MERGEFLEET_TEST_DEVICE=cuda) runs the same tests on a GPU.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backends import recipe_of
from device import DEVICE
from method_blocks import call_of, measured, rows_of

from bench.torture import torture_family
from engine import Options, device, merge
from engine.execution import gpu
from engine.execution.arithmetic import DefinitionArithmetic
from engine.execution.gpu import DeviceArithmetic
from engine.execution.worker import ordinary
from engine.methods import METHODS
from engine.methods.contract import Array, Block, Call, Method
from engine.models.views import STORED

EXACT = sorted(name for name, method in METHODS.items() if method.exact)
SHAPE = (7, 65)
# With a processor in the GPU's place the same code runs twice: that it is reached at all takes one of each.
DTYPES = ["BF16"] if DEVICE == "cpu" else ["BF16", "F16", "F32"]
MERGED = ["ties"] if DEVICE == "cpu" else ["linear", "slerp", "ties", "dare_ties", "della", "model_stock"]


def sources_of(method: Method) -> int:
    low, high = method.models
    return (method.base == "required") + (high or max(low, 2))


def facts_of(arithmetic: Any, call: Call, rows: Array) -> dict[str, Array]:
    facts: dict[str, Array] = {}
    for stage in arithmetic.method.stages(call):
        partial = None if stage.measure is None else measured(arithmetic, stage, call, rows, facts)
        facts[stage.name] = stage.finish(call, partial, facts)
    return facts


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", EXACT)
def test_facts_and_merged_values_are_the_definitions_bit_for_bit(name: str, dtype: str) -> None:
    method = METHODS[name]
    for draw, shape in enumerate([SHAPE, (1023,), (50, 100)]):
        elements = int(np.prod(shape))
        rows = rows_of(dtype, sources_of(method), elements, seed=3)
        call = call_of(method, len(rows), shape, np.random.default_rng(draw))
        there, here = DeviceArithmetic(method, DEVICE), DefinitionArithmetic(method)
        facts = facts_of(here, call, rows)
        for key, value in facts_of(there, call, rows).items():
            np.testing.assert_array_equal(value, facts[key])
        got, wanted = np.zeros((2, elements), STORED[dtype])
        there.merge(call, rows, (0, elements), facts=facts, out=got)
        here.merge(call, rows, (0, elements), facts=facts, out=wanted)
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_definitions_stay_on_the_device_of_their_block(name: str) -> None:
    method = METHODS[name]
    rows = rows_of("F32", sources_of(method), 455, seed=3)
    call = call_of(method, len(rows), SHAPE, np.random.default_rng(1))
    facts = facts_of(DefinitionArithmetic(method), call, rows)
    keys = np.zeros((len(call.source_ids), 2), np.uint32)
    block = Block(tuple(torch.empty(455, device="meta") for _ in rows), 0, 0, keys)
    merged = method.merge(call, block, facts)
    assert merged.device.type == "meta"
    for stage in method.stages(call):
        if stage.measure is not None:
            with suppress(NotImplementedError):  # bincount and nonzero, which run on a GPU all the same
                assert stage.measure(call, block, facts).device.type == "meta"


@pytest.mark.parametrize("method", MERGED)
def test_a_merge_on_a_gpu_makes_the_kernels_bytes_and_can_be_resumed_without_one(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class InItsPlace(DeviceArithmetic):
        def __init__(self, method: Method, device: str) -> None:
            assert device == "cuda"
            super().__init__(method, DEVICE)

    models = torture_family(tmp_path / "family", giant=False).models
    recipe = recipe_of(method, models)
    made = merge(recipe, tmp_path / "kernel", options=Options(threads=2))
    monkeypatch.setattr(gpu, "DeviceArithmetic", InItsPlace)
    if DEVICE == "cpu":
        monkeypatch.setattr(gpu, "pinned", ordinary)
        monkeypatch.setattr(device, "gpu_count", lambda: 1)
        monkeypatch.setattr(device, "torch_build", lambda: True)
    other = merge(recipe, tmp_path / "device", options=Options(threads=2, device="cuda"))
    assert other.weights_digest == made.weights_digest
    assert other.plan_digest == made.plan_digest


@pytest.mark.parametrize("careless", [lambda x: x + torch.arange(9), lambda x: x * float(x[0])])
def test_the_pretended_device_finds_tensors_elsewhere_and_values_taken_out(careless: Any) -> None:
    with pytest.raises((RuntimeError, NotImplementedError)):
        careless(torch.empty(9, device="meta"))
