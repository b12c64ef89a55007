"""The GPU's arithmetic without a GPU: a CPU in its place, graphs without breaks, and a device without values."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backends import recipe_of
from method_blocks import call_of, measured, rows_of

from bench.torture import torture_family
from engine import Options, device, merge
from engine.execution import gpu
from engine.execution.arithmetic import DefinitionArithmetic
from engine.execution.gpu import DeviceArithmetic, fused
from engine.execution.worker import ordinary
from engine.methods import METHODS
from engine.methods.contract import Array, Block, Call, Method
from engine.models.views import STORED

EXACT = sorted(name for name, method in METHODS.items() if method.exact)
SHAPE = (7, 65)


def sources_of(method: Method) -> int:
    low, high = method.models
    return (method.base == "required") + (high or max(low, 2))


def facts_of(arithmetic: Any, call: Call, rows: Array) -> dict[str, Array]:
    facts: dict[str, Array] = {}
    for stage in arithmetic.method.stages(call):
        partial = None if stage.measure is None else measured(arithmetic, stage, call, rows, facts)
        facts[stage.name] = stage.finish(call, partial, facts)
    return facts


@pytest.mark.parametrize("name", EXACT)
def test_settings_and_facts_as_tensors_give_the_bits_of_plain_numbers(name: str) -> None:
    method = METHODS[name]
    rows = rows_of("BF16", sources_of(method), 455, seed=3)
    for draw in range(3):
        call = call_of(method, len(rows), SHAPE, np.random.default_rng(draw))
        there, here = DeviceArithmetic(method, "cpu", mode=None), DefinitionArithmetic(method)
        facts = facts_of(here, call, rows)
        for key, value in facts_of(there, call, rows).items():
            np.testing.assert_array_equal(value, facts[key])
        got, wanted = np.zeros((2, 455), STORED["BF16"])
        there.merge(call, rows, (0, 455), facts=facts, out=got)
        here.merge(call, rows, (0, 455), facts=facts, out=wanted)
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("name", EXACT)
def test_one_graph_without_breaks_serves_tensors_of_all_sizes_and_settings(name: str) -> None:
    method = METHODS[name]
    torch._dynamo.reset()
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    arithmetic = DeviceArithmetic(method, "cpu", mode=None)
    arithmetic._merge = torch.compile(fused(method), dynamic=True, backend=backend, fullgraph=True)
    definition = DefinitionArithmetic(method)
    for draw, shape in enumerate([(7, 65), (50, 100), (3, 9), (4, 33)]):
        elements = shape[0] * shape[1]
        rows = rows_of("BF16", sources_of(method), elements, seed=draw)
        call = call_of(method, len(rows), shape, np.random.default_rng(0))  # the same switches every time
        changed = {name: tuple(0.9 * value for value in values) for name, values in call.sources.items()}
        call = Call(**{**_fields(call), "sources": changed if draw else call.sources})
        facts = facts_of(definition, call, rows)
        got, wanted = np.zeros((2, elements), STORED["BF16"])
        arithmetic.merge(call, rows, (0, elements), facts=facts, out=got)
        definition.merge(call, rows, (0, elements), facts=facts, out=wanted)
        np.testing.assert_array_equal(got, wanted)
    assert len(graphs) <= 2


@pytest.mark.parametrize("name", sorted(METHODS))
def test_definitions_stay_on_the_device_of_their_block(name: str) -> None:
    method = METHODS[name]
    rows = rows_of("F32", sources_of(method), 455, seed=3)
    call = call_of(method, len(rows), SHAPE, np.random.default_rng(1))
    plain = facts_of(DefinitionArithmetic(method), call, rows)
    moved, facts = DeviceArithmetic(method, "cpu", mode=None)._moved(call, plain)

    def there(value: Any) -> Any:
        return value.to("meta") if torch.is_tensor(value) else value

    fields = _fields(moved)
    fields["sources"] = {key: there(value) for key, value in moved.sources.items()}
    fields["options"] = {key: there(value) for key, value in moved.options.items()}
    keys = torch.empty((len(call.source_ids), 2), dtype=torch.int64, device="meta")
    block = Block(tuple(torch.empty(455, device="meta") for _ in rows), 0, 0, keys)
    merged = method.merge(Call(**fields), block, {key: there(value) for key, value in facts.items()})
    assert merged.device.type == "meta"
    for stage in method.stages(call):
        if stage.measure is not None:
            with suppress(NotImplementedError):  # bincount and nonzero, which run on a GPU all the same
                assert stage.measure(call, block, plain).device.type == "meta"


@pytest.mark.slow
def test_what_the_compiler_makes_of_a_definition_has_its_bits(caplog: pytest.LogCaptureFixture) -> None:
    _same_as_the_definition(DeviceArithmetic(METHODS["task_arithmetic"], "cpu"))
    assert not [record for record in caplog.records if record.name == "engine.execution.gpu"]


def test_a_definition_runs_as_it_is_where_the_compiler_gives_up(caplog: pytest.LogCaptureFixture) -> None:
    def backend(graph: Any, inputs: Any) -> Any:
        raise NotImplementedError("no such instruction")

    arithmetic = DeviceArithmetic(METHODS["ties"], "cpu", mode=backend)  # type: ignore[arg-type]
    _same_as_the_definition(arithmetic)
    _same_as_the_definition(arithmetic)
    assert len([record for record in caplog.records if record.name == "engine.execution.gpu"]) == 1


def _same_as_the_definition(arithmetic: DeviceArithmetic) -> None:
    method = arithmetic.method
    rows = rows_of("BF16", 3, 5000, seed=8)
    call = call_of(method, 3, (50, 100), np.random.default_rng(2))
    definition = DefinitionArithmetic(method)
    facts = facts_of(definition, call, rows)
    got, wanted = np.zeros((2, 5000), STORED["BF16"])
    arithmetic.merge(call, rows, (0, 5000), facts=facts, out=got)
    definition.merge(call, rows, (0, 5000), facts=facts, out=wanted)
    np.testing.assert_array_equal(got, wanted)


def test_a_merge_with_a_cpu_in_the_gpus_place_makes_the_kernels_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class InItsPlace(DeviceArithmetic):
        def __init__(self, method: Method, device: str) -> None:
            assert device == "cuda"
            super().__init__(method, "cpu", mode=None)

    models = torture_family(tmp_path / "family", giant=False).models
    recipe = recipe_of("ties", models)
    made = merge(recipe, tmp_path / "kernel", options=Options(threads=2))
    monkeypatch.setattr(gpu, "DeviceArithmetic", InItsPlace)
    monkeypatch.setattr(gpu, "pinned", ordinary)
    monkeypatch.setattr(device, "gpu_count", lambda: 1)
    monkeypatch.setattr(device, "torch_build", lambda: True)
    other = merge(recipe, tmp_path / "device", options=Options(threads=2, device="cuda"))
    assert other.weights_digest == made.weights_digest
    assert other.plan_digest != made.plan_digest  # on a GPU values agree within tolerances only


@pytest.mark.parametrize("careless", [lambda x: x + torch.arange(9), lambda x: x * float(x[0])])
def test_the_pretended_device_finds_tensors_elsewhere_and_values_taken_out(careless: Any) -> None:
    with pytest.raises((RuntimeError, NotImplementedError)):
        careless(torch.empty(9, device="meta"))


def _fields(call: Call) -> dict[str, Any]:
    return {name: getattr(call, name) for name in Call.__dataclass_fields__}
