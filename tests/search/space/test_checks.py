"""An impossible space is refused before anything is scored, in one line with file, key, got and expected."""

from __future__ import annotations

from typing import Any

import pytest
from spaces import DENSITY, QK, TENSORS, WEIGHT, bound, space_of

from engine.errors import CampaignError
from search.space import Space, check_tensors

T = {"low": 0, "high": 1, "start": 0.5}
W = {"weight": WEIGHT}


def entry(**changes: Any) -> dict[str, Any]:
    return {"method": "ties", "parameters": {"weight": WEIGHT, "density": DENSITY}, "stages": [{"name": "s"}]} | changes


STACKED = entry(method="passthrough", parameters={})

BAD = [
    (entry(method="tise"), "space.method: unknown method 'tise'; did you mean 'ties'"),
    (entry(method=[]), "space.method: a method, or several different ones"),
    (entry(method=["ties", "ties"]), "space.method: a method, or several different ones"),
    (entry(parameters=W | {"gamma": T}), "space.parameters.gamma: ties has no parameter 'gamma'; known: density"),
    (entry(parameters={}), "space.parameters: ties needs 'weight'"),
    (
        entry(method="model_stock", parameters={}),
        "space.parameters: there is nothing to search; model_stock has filter_",
    ),
    (
        entry(method="slerp", parameters={"t": T, "weight": WEIGHT}),
        "space.parameters.weight: slerp has no parameter 'weight'",
    ),
    (entry(parameters=W | {"density": DENSITY | {"high": 1.5}}), "density: got 1.5; ties takes numbers from 0 to 1"),
    (
        entry(parameters={"weight": {"low": -1e308, "high": 1e308, "start": 0}, "density": DENSITY}),
        "space.parameters.weight: got -1e+308; ties takes numbers from -1e+18 to 1e+18",
    ),
    (
        entry(parameters={"weight": {"low": -1, "high": 1e30, "start": 0}, "density": DENSITY}),
        "weight: got 1e+30; ties",
    ),
    (entry(parameters={"weight": [1, -1e30], "density": DENSITY}), "space.parameters.weight: got -1e+30; ties"),
    (entry(fixed={"lambda": 1e19}), "space.fixed.lambda: got 1e+19; ties takes numbers from -1e+18 to 1e+18"),
    (
        entry(parameters={"weight": {"low": 0, "high": 1e-320, "start": 0}, "density": DENSITY}),
        "space.parameters.weight: got 0.0 to 1e-320; a range that is 1e-18 wide or more expected",
    ),
    (
        entry(method="passthrough", parameters={}, layers={"scale": {"low": 0.5, "high": 1e30, "start": 1}}),
        "space.layers.scale: got 1e+30; passthrough takes numbers from -1e+18 to 1e+18",
    ),
    (entry(parameters=W | {"density": DENSITY | {"low": 0.7}}), "space.parameters.density: want low <= start <= high"),
    (entry(parameters=W | {"density": {"low": 0.5, "high": 0.5, "start": 0.5}}), "want low <= start <= high and low <"),
    (entry(parameters=W | {"density": {"lo": 0.5}}), "space.parameters.density"),
    (entry(parameters=W | {"normalize": T}), "space.parameters.normalize: is a switch of ties: write [true, false]"),
    (
        entry(parameters=W | {"normalize": [True, True]}),
        "space.parameters.normalize: choices: one of them is there twice",
    ),
    (entry(parameters=W | {"density": [0.5, True]}), "space.parameters.density: got True; ties takes numbers"),
    (entry(fixed={"epsilon": 0.1}), "space.fixed.epsilon: ties has no parameter 'epsilon'"),
    (entry(fixed={"density": 0.5}), "space.fixed.density: is searched already (space.parameters.density)"),
    (entry(fixed={"lambda": True}), "space.fixed.lambda: got True; ties takes numbers"),
    (entry(method=["della", "ram"], parameters=W | {"epsilon": T}), "epsilon: means different things (model for della"),
    (entry(parameters=W, fixed={"density": 0.5}, stages=[{"name": "s", "search": ["density"]}]), "stages[0].search"),
    (entry(stages=[{"name": "s", "search": ["method"]}]), "space.stages[0].search: 'method' is not a parameter"),
    (entry(stages=[{"name": "s", "by": "layer_block", "blocks": 9}]), "stages[0].blocks: got 9, the models have 8"),
    (
        entry(stages=[{"name": "s", "by": "gradient", "knots": 1025}]),
        "stages[0].knots: got 1025, 1024 or less expected",
    ),
    (entry(stages=[{"name": "s", "by": "layer_block", "blocks": 1025}]), "stages[0].blocks: got 1025, 1024 or less"),
    (STACKED | {"layers": {"places": 1025}}, "space.layers.places: got 1025, 1024 or less expected"),
    (STACKED | {"layers": {"fewest": 1025}}, "space.layers.fewest: got 1025, 1024 or less expected"),
    (entry(stages=[{"name": "s", "by": "module", "blocks": 2}]), "space.stages[0]: by: module has no `blocks`"),
    (entry(stages=[{"name": "s", "by": "gradient", "knots": 2, "curve": "cubic"}]), "curve: cubic needs 3 knots"),
    (entry(stages=[{"name": "s", "by": "patterns"}]), "space.stages[0]: by: patterns needs `patterns`"),
    (entry(stages=[{"name": "s", "patterns": {"x": "mlp"}}]), "space.stages[0]: by: global has no `patterns`"),
    (
        entry(stages=[{"name": "s", "by": "patterns", "patterns": {"x": "re:("}}]),
        "stages[0].patterns: x: '(' is no regular",
    ),
    (entry(stages=[{"name": "s", "by": "patterns", "patterns": {"x": "*"}}]), "matches every tensor"),
    (entry(stages=[{"name": "s", "by": "patterns", "patterns": {"rest": "mlp"}}]), "got the name 'rest'"),
    (entry(modules={"a/b": "mlp"}), "space.modules: got the name 'a/b'"),
    (entry(layers={}), "space.layers: stacks layers, which passthrough does: write method: passthrough"),
    (
        entry(method="passthrough", parameters={}, layers={"places": 4, "fewest": 5}),
        "want fewest <= places, got 5 and 4",
    ),
    (entry(method="passthrough", parameters={}), "sources: passthrough takes exactly 1 source, got 2. To stack layers"),
    (entry(method="fisher", parameters=W), "space.parameters.weight: got -0.5; fisher takes numbers from 0 to inf"),
    (entry(method="fisher", parameters={"weight": T}), "sources[0]: has no `importance`, which fisher needs"),
    (entry(method="passthrough", layers={}), "space.parameters: has no effect on a layer sequence; leave it out"),
    (entry(method="passthrough", parameters={}, layers={}, subset=True), "space.subset: has no effect"),
    (
        entry(method="passthrough", parameters={}, layers={}, stages=[{"name": "s", "by": "module"}]),
        "space.stages[0].by: got module; a layer sequence has its own places",
    ),
    (entry(use_base=True), "space.use_base: is for methods that can do without a base; ties cannot"),
    (entry(method="tsvm", parameters={"lambda": {"low": 0, "high": 1}}), "space.parameters.lambda.start: is missing"),
    (entry(method="consensus_ta", parameters={"k": {"low": 1, "high": 3, "start": 1.5}}), "takes whole numbers from 1"),
    (entry(constraint=[]), "space.constraint: unknown key; did you mean 'constraints'"),
    (entry(method=["ties", "della"], parameters=W | {"gamma": T}), "ties and della have no parameter 'gamma'; known"),
    (entry(method="linear", parameters={"weight": WEIGHT | {"start": 0}}), "linear refuses the `start` values: "),
    (
        entry(method="della", parameters=W | {"density": T, "epsilon": T}),
        "della refuses the `start` values: density 0.5 and epsilon 0.5 make chances from 0 to 1, which must lie",
    ),
    (entry(parameters=W, tokenizer_source="m/x"), "c.yml: space: tokenizer_source: got 'm/x', which is no model"),
]


@pytest.mark.parametrize(("space", "says"), BAD, ids=[says for _, says in BAD])
def test_a_space_that_cannot_be_is_refused_in_one_line(space: dict[str, Any], says: str) -> None:
    with pytest.raises(CampaignError) as caught:
        bound(space)
    assert caught.value.exit_code == 2
    message = caught.value.message
    assert message.startswith("c.yml: ")
    assert says in message
    assert "\n" not in message


def test_three_sources_are_too_many_for_slerp_unless_a_subset_is_searched() -> None:
    three = ("m/a", "m/b", "m/c")
    pair = entry(method="slerp", parameters={"t": T})
    with pytest.raises(CampaignError, match=r"c\.yml: sources: slerp takes 1 to 2 sources, got 3\. Search a `subset`"):
        bound(pair, sources=three)
    space = bound(pair | {"subset": True}, sources=three)
    start = space.stages[0].start()
    assert space.violation(0, start) == 0  # of the first two
    everybody = start | {"use/c": True}
    assert space.violation(0, everybody) == 1
    two = space.recipe(0, everybody | {"use/b": False})
    assert [model["model"] for model in two["models"]] == ["m/a", "m/c"]
    assert two["base_model"] == "m/a"
    repaired = [space.repair(0, everybody | {"t": t / 256}) for t in range(60)]
    chosen = [space.taking_part(point) for point in repaired]
    assert {*chosen} == {(0, 1), (0, 2), (1, 2)}  # no source is preferred
    assert [point["t"] for point in repaired] == [t / 256 for t in range(60)]  # and the rest is left alone


GPT2 = ["wte.weight", "h.0.attn.c_attn.weight", "h.0.mlp.c_fc.weight", "ln_f.weight"]


@pytest.mark.parametrize(
    ("space", "tensors", "says"),
    [
        (
            space_of("module"),
            GPT2,
            r"space\.modules\.attention: 'self_attn' matches no tensor\. It is the default \({attention: self_attn, "
            r"mlp: mlp}\), for there is no space\.modules: .* the modules of these layers are 'attn' and 'mlp'\.$",
        ),
        (
            space_of("module"),
            ["model.layers.0.self_attn.q_proj.weight", "model.layers.0.block_sparse_moe.experts.1.w1.weight"],
            r"space\.modules\.mlp: 'mlp' matches .* modules of these layers are 'self_attn' and 'block_sparse_moe'\.",
        ),
        (
            bound(entry(stages=[{"name": "m", "by": "module"}], modules={"heads": "atn"})),
            GPT2,
            r"space\.modules\.heads: 'atn' matches no tensor; did you mean 'attn' or 'c_attn'\?$",
        ),
        (
            space_of("patterns", patterns={"all_mlp": "mlp", "up": "up_proj"}),
            TENSORS,
            r"space\.stages\[0\]\.patterns\.up: 'up_proj' matches only tensors that filters before it take",
        ),
    ],
)
def test_a_filter_that_means_nothing_is_named(space: Space, tensors: list[str], says: str) -> None:
    with pytest.raises(CampaignError, match=says):
        check_tensors(space, tensors)


def test_parts_of_a_group_hold_all_of_its_tensors_and_no_others() -> None:
    check_tensors(space_of("module", "parts"), TENSORS)
    stages = [
        {"name": "modules", "by": "module"},
        {"name": "parts", "by": "patterns", "patterns": {**QK, "attention.vo": "v_proj"}},
    ]
    with pytest.raises(CampaignError, match=r"space\.stages\[1\]\.patterns\.attention\.vo: 'v_proj' matches no tensor"):
        check_tensors(bound(entry(stages=stages)), TENSORS)
    tensors = [*TENSORS, "model.layers.0.self_attn.v_proj.weight"]
    with pytest.raises(
        CampaignError, match=r"'model.layers.0.self_attn.o_proj.weight' is in group 'rest', and in 'att"
    ):
        check_tensors(bound(entry(stages=stages)), tensors)


def test_what_a_layer_sequence_scales_has_to_be_there() -> None:
    scale = {"low": 0.5, "high": 1.5, "start": 1}
    space = bound(entry(method="passthrough", parameters={}, layers={"places": 9, "scale": scale}))
    check_tensors(space, TENSORS)
    with pytest.raises(CampaignError, match=r"space\.layers\.scaled: 'o_proj' matches no tensor"):
        check_tensors(space, GPT2)
