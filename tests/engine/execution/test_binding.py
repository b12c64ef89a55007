"""Live memory of any layout is filled as the output's row-major order says, and all of it exactly once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from engine import make_plan, open_checkpoints, parse_recipe
from engine.errors import PlanError
from engine.execution.binding import Binding
from engine.planning.plan import Plan


class Experts(nn.Module):
    """Two experts as one stacked parameter, gate and up joined; a tied pair; a persistent buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.stacked = nn.Parameter(torch.zeros(2, 6, 4))
        self.embed = nn.Parameter(torch.zeros(5, 4))
        self.head = self.embed
        self.register_buffer("steps", torch.zeros(3, dtype=torch.int64))


HALVES = {f"experts.{e}.{half}": (e, rows) for e in range(2) for half, rows in (("gate", [0, 3]), ("up", [3, 6]))}
OTHERS = {"embed": (5, 4), "steps": (3,)}


def views_of(model: Experts) -> dict[str, tuple[Tensor, ...]]:
    stacked = model.stacked.detach()
    halves = {name: (stacked[expert, slice(*rows)],) for name, (expert, rows) in HALVES.items()}
    return {**halves, "embed": (model.embed.detach(),), "steps": (model.get_buffer("steps"),)}


@pytest.fixture(scope="module")
def plan_of(tmp_path_factory: pytest.TempPathFactory):
    """Makes plans whose outputs have the given names and shapes."""

    def make(shapes: Mapping[str, Sequence[int]]) -> Plan:
        folder = tmp_path_factory.mktemp("model")
        dtypes = {name: torch.int64 if name == "steps" else torch.float32 for name in shapes}
        tensors = {name: torch.zeros(*shape, dtype=dtypes[name]) for name, shape in shapes.items()}
        save_file(tensors, Path(folder / "model.safetensors"))
        (folder / "config.json").write_text("{}")
        recipe = parse_recipe({"merge_method": "passthrough", "models": [{"model": str(folder)}]})
        return make_plan(recipe, open_checkpoints(recipe.models))

    return make


@pytest.fixture(scope="module")
def plan(plan_of) -> Plan:
    return plan_of({**dict.fromkeys(HALVES, (3, 4)), **OTHERS})


@given(data=st.data())
def test_any_cut_of_any_strided_view_is_filled_in_its_row_major_order(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    memory = torch.zeros(shape)
    view = memory.permute(data.draw(st.permutations(range(len(shape)))))
    for axis in range(view.dim()):
        start = data.draw(st.integers(0, view.shape[axis] - 1))
        view = view.narrow(axis, start, data.draw(st.integers(1, view.shape[axis] - start)))
    parts = view.split(data.draw(st.integers(1, view.shape[0])))
    count = view.numel()
    cuts = sorted({0, count, *data.draw(st.lists(st.integers(0, count)))})
    values = torch.arange(1, count + 1, dtype=torch.float32)
    expected = memory.clone()
    expected.as_strided(view.shape, view.stride(), view.storage_offset()).copy_(values.view(view.shape))
    binding = Binding((parts,), shapes=())
    for start, end in data.draw(st.permutations(list(pairwise(cuts)))):
        binding.fill(0, start, values[start:end])
    assert torch.equal(memory, expected)


def test_stacked_parameters_ties_and_buffers_are_bound_part_by_part(plan: Plan) -> None:
    model = Experts()
    binding = Binding.build(model, plan, views=views_of(model))
    for index, tensor in enumerate(plan.tensors):
        binding.fill(index, 0, torch.full((tensor.elements,), index + 1))
    numbers = {tensor.name: index + 1 for index, tensor in enumerate(plan.tensors)}
    for name, (expert, rows) in HALVES.items():
        assert set(model.stacked[expert, slice(*rows)].flatten().tolist()) == {numbers[name]}
    assert set(model.head.flatten().tolist()) == {numbers["embed"]}
    assert model.get_buffer("steps").tolist() == [numbers["steps"]] * 3


def test_a_tensor_that_the_model_does_not_use_fills_nothing(plan_of) -> None:
    plan = plan_of({**dict.fromkeys(HALVES, (3, 4)), **OTHERS, "rotary.inv_freq": (8,)})
    model = Experts()
    binding = Binding.build(model, plan, views={**views_of(model), "rotary.inv_freq": ()})
    binding.fill([tensor.name for tensor in plan.tensors].index("rotary.inv_freq"), 0, torch.ones(8))
    assert not any(value.any() for value in model.state_dict().values())


def test_one_fused_tensor_fills_several_parameters_one_after_the_other(plan_of) -> None:
    model = nn.Module()
    model.q, model.k = nn.Parameter(torch.zeros(4, 2)), nn.Parameter(torch.zeros(1, 2))
    parts = (model.q.detach(), model.k.detach())
    binding = Binding.build(model, plan_of({"qk": (5, 2)}), views={"qk": parts})
    binding.fill(0, 6, torch.arange(6.0, 10.0))
    binding.fill(0, 0, torch.arange(0.0, 6.0))
    assert torch.equal(torch.cat(parts).flatten(), torch.arange(10.0))
    with pytest.raises(PlanError, match=r"tensor 'qk' is \[6, 2\] in the recipe's output and \[5, 2\]"):
        Binding.build(model, plan_of({"qk": (6, 2)}), views={"qk": parts})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": None}, "live parameter 'steps' (1 in all) is filled by no output tensor"),
        ({"experts.1.up": None}, "12 elements of live parameter 'stacked' are filled by no output tensor"),
        ({"head": "embed"}, "tensors 'embed' and 'head' share one live parameter"),
        ({"experts.1.up": "experts.0.gate"}, "tensors 'experts.0.gate' and 'experts.1.up' share one live parameter"),
        ({"other": "unknown"}, "the live Experts has no parameter 'other' (1 such tensors)"),
    ],
)
def test_what_is_not_filled_exactly_once_is_named(changes: dict[str, str | None], message: str, plan_of) -> None:
    shapes: dict[str, Sequence[int]] = {**dict.fromkeys(HALVES, (3, 4)), **OTHERS}
    model = Experts()
    views = views_of(model)
    for name, other in changes.items():
        if other is None:
            del shapes[name]
        else:
            shapes[name] = shapes.get(other, (3, 4))
            views |= {name: views[other]} if other in views else {}
    with pytest.raises(PlanError) as caught:
        Binding.build(model, plan_of(shapes), views=views)
    assert message in str(caught.value)


def test_a_parameter_that_is_not_contiguous_is_refused(plan: Plan) -> None:
    model = Experts()
    model.embed.data = torch.zeros(4, 5).T
    with pytest.raises(PlanError, match="live parameter 'embed' is not contiguous in memory"):
        Binding.build(model, plan, views=views_of(model))


def test_the_first_elements_are_those_of_now_wherever_they_lie() -> None:
    model = Experts()
    turned = torch.zeros(4, 5).T  # its rows lie apart: what comes first has to be copied together
    binding = Binding([[model.embed.detach()], [turned]], shapes=())
    for value in (1.0, 2.0):
        with torch.no_grad():
            model.embed.fill_(value)
            turned.fill_(value)
        assert [binding.first(index, 7).tolist() for index in (0, 1)] == [[value] * 7] * 2
        row = binding.row(0, 7)
        assert row is not None
        assert row.tolist() == [value] * 7
        assert binding.row(1, 7) is None


@pytest.mark.parametrize("how", ["cast", "moved", "replaced", "child"])
def test_a_model_that_was_given_other_memory_is_not_known_by_what_lies_in_the_old(how: str, plan: Plan) -> None:
    model = Experts()
    model.add_module("child", nn.Identity())
    binding = Binding.build(model, plan, views=views_of(model))
    before = binding.checksum()
    model.to(torch.float32)  # changes nothing
    assert binding.is_intact(before)
    if how == "cast":
        model.to(torch.bfloat16)
    elif how == "moved":
        model.get_buffer("steps").data = torch.zeros(3, dtype=torch.int64)
    elif how == "replaced":
        model.stacked = nn.Parameter(torch.zeros(2, 6, 4))
    else:
        model.child = nn.Identity()
    assert not binding.in_use
    assert not binding.is_intact(before)
