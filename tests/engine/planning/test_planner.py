"""What every output tensor is made of: slices, precedence, tying, dropped sources, files; and what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from engine import Options, Plan, ShardSize, make_plan, open_checkpoints, parse_recipe, recipe_hash
from engine.errors import PlanError, SourceError
from engine.planning.plan import OutputTensor

SHAPES = {"embed_tokens": (6, 4), "norm": (4,)}


def model(directory: Path, *, layers: int = 3, fill: float = 1.0, head: bool = False, **shapes: tuple[int, ...]) -> str:
    sizes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (6, 4), "model.norm.weight": (4,)}
    for layer in range(layers):
        sizes[f"model.layers.{layer}.mlp.up_proj.weight"] = (5, 4)
        sizes[f"model.layers.{layer}.self_attn.q_proj.weight"] = (4, 4)
    if head:
        sizes["lm_head.weight"] = (6, 4)
    sizes |= shapes
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {name: np.full(size, fill, np.float32) for name, size in sizes.items()}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    config = {"model_type": "llama", "num_hidden_layers": layers, "tie_word_embeddings": not head}
    (directory / "config.json").write_text(json.dumps(config))
    return str(directory)


def planned(data: Mapping[str, Any], **options: Any) -> Plan:
    recipe = parse_recipe(dict(data), origin="r.yml")
    return make_plan(recipe, open_checkpoints(recipe.models), Options(**options))


def tensor(plan: Plan, name: str) -> OutputTensor:
    return next(t for t in plan.tensors if t.name == name)


def weights(plan: Plan, name: str) -> tuple[float, ...]:
    call = tensor(plan, name).call
    assert call is not None
    return call.sources["weight"]


def linear(*models: str, **top: Any) -> dict[str, Any]:
    return {"merge_method": "linear", "models": [{"model": m, "parameters": {"weight": 1}} for m in models], **top}


def test_gradients_follow_the_layers_and_everything_else_takes_the_first_knot(tmp_path: Path) -> None:
    a, b = model(tmp_path / "a", layers=5, head=True), model(tmp_path / "b", layers=5, head=True)
    entries = [{"model": a, "parameters": {"weight": [0.5, 1.0, 3.0]}}, {"model": b, "parameters": {"weight": 1}}]
    plan = planned({"merge_method": "linear", "models": entries})
    got = [weights(plan, f"model.layers.{layer}.mlp.up_proj.weight")[0] for layer in range(5)]
    assert got == [0.5, 0.75, 1.0, 2.0, 3.0]
    for name in ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"):
        assert weights(plan, name) == (0.5, 1.0)


def test_the_nearest_level_wins_and_a_filter_that_fails_falls_through(tmp_path: Path) -> None:
    a, b = model(tmp_path / "a"), model(tmp_path / "b")
    own = {"weight": [{"filter": "mlp", "value": 0.25}]}
    sources = [{"model": a, "layer_range": [0, 3], "parameters": own}, {"model": b, "layer_range": [0, 3]}]
    slices = [{"sources": sources, "parameters": {"weight": [{"filter": "self_attn", "value": 0.5}]}}]
    plan = planned({"merge_method": "linear", "slices": slices, "parameters": {"weight": 0.75}})
    assert weights(plan, "model.layers.1.mlp.up_proj.weight") == (0.25, 0.75)
    assert weights(plan, "model.layers.1.self_attn.q_proj.weight") == (0.5, 0.5)
    assert weights(plan, "model.norm.weight") == (0.75, 0.75)


def test_slices_renumber_layers_and_take_the_outside_from_first_and_last(tmp_path: Path) -> None:
    a, b = model(tmp_path / "a", head=True), model(tmp_path / "b", head=True)
    slices = [{"sources": [{"model": a, "layer_range": [0, 2]}]}, {"sources": [{"model": b, "layer_range": [1, 3]}]}]
    plan = planned({"merge_method": "passthrough", "slices": slices})
    origin = {t.name: (str(plan.sources[t.inputs[0].source]), t.inputs[0].tensor) for t in plan.tensors}
    assert origin["model.embed_tokens.weight"][0] == a
    assert origin["lm_head.weight"][0] == origin["model.norm.weight"][0] == b
    assert origin["model.layers.2.mlp.up_proj.weight"] == (b, "model.layers.1.mlp.up_proj.weight")
    assert plan.config["num_hidden_layers"] == 4
    assert [t.call for t in plan.tensors] == [None] * len(plan.tensors)
    assert "model.layers.2.mlp.up_proj.weight" in plan.left_out[a]
    assert "model.embed_tokens.weight" in plan.left_out[b]


def test_sources_of_weight_0_are_dropped_but_keep_their_numbers(tmp_path: Path) -> None:
    a, b, c, base = (model(tmp_path / name) for name in ("a", "b", "c", "base"))
    entries = [{"model": m, "parameters": {"weight": w, "density": 0.5}} for m, w in ((a, 1), (b, 0), (c, 2))]
    plan = planned({"merge_method": "dare_ties", "base_model": base, "models": entries})
    call = plan.tensors[0].call
    assert call is not None
    assert (call.source_ids, call.sources["weight"]) == ((0, 2), (1.0, 2.0))
    assert len(plan.tensors[0].inputs) == 3


def test_equal_weights_have_equal_hashes_wherever_the_models_lie(tmp_path: Path) -> None:
    def hash_of(data: Mapping[str, Any]) -> str:
        recipe = parse_recipe(dict(data))
        checkpoints = open_checkpoints(recipe.models)
        return recipe_hash(make_plan(recipe, checkpoints), checkpoints)

    a, b, copy = model(tmp_path / "a", fill=1), model(tmp_path / "b", fill=2), model(tmp_path / "elsewhere", fill=1)
    assert hash_of(linear(a, b)) == hash_of(linear(copy, b))
    zero = linear(a, b)
    zero["models"].append({"model": copy, "parameters": {"weight": 0}})
    assert hash_of(zero) == hash_of(linear(a, b))
    flat = linear(a, b)
    flat["models"][0]["parameters"]["weight"] = [1, 1, 1]
    assert hash_of(flat) == hash_of(linear(a, b))
    assert hash_of(linear(b, a)) != hash_of(linear(a, b))
    assert hash_of(linear(a, b, dtype="bfloat16")) != hash_of(linear(a, b))


def test_files_are_filled_in_order_and_no_tensor_is_cut(tmp_path: Path) -> None:
    a, b = model(tmp_path / "a"), model(tmp_path / "b")
    plan = planned(linear(a, b), shard_size=ShardSize(200))
    assert [file.name for file in plan.files] == [
        f"model-{i:05}-of-{len(plan.files):05}.safetensors" for i in range(1, len(plan.files) + 1)
    ]
    for number, file in enumerate(plan.files):
        inside = [t for t in plan.tensors if t.file == number]
        assert inside[0].offset == len(file.header)
        assert inside[-1].offset + inside[-1].nbytes == file.nbytes
        assert all(left.offset + left.nbytes == right.offset for left, right in pairwise(inside))
        assert file.nbytes - len(file.header) <= 200


@pytest.mark.parametrize("tile_bytes", [1, 1 << 20, 1 << 30])
def test_tiles_cover_every_block_once_and_do_not_change_the_digest(tile_bytes: int, tmp_path: Path) -> None:
    big = {"model.norm.weight": (1 << 19, 1)}
    a, b = model(tmp_path / "a", **big), model(tmp_path / "b", **big)
    plan = planned(linear(a, b), tile_bytes=tile_bytes)
    for index, t in enumerate(plan.tensors):
        blocks = [n for tile in plan.tiles if tile.tensor == index for n in range(tile.first, tile.first + tile.count)]
        assert blocks == list(range(t.blocks))
    assert plan.digest == planned(linear(a, b)).digest


def test_models_of_different_shape_are_refused_with_tensor_and_both_shapes(tmp_path: Path) -> None:
    a, b = model(tmp_path / "a"), model(tmp_path / "b", **{"model.norm.weight": (7,)})
    with pytest.raises(PlanError, match=r"'model.norm.weight' is \[4\] in .*a and \[7\] in .*b"):
        planned(linear(a, b))


def test_models_of_different_depth_are_refused_with_both_depths(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"has 3 layers, .* has 4 layers"):
        planned(linear(model(tmp_path / "a"), model(tmp_path / "b", layers=4)))


def test_a_layer_range_beyond_the_model_is_refused(tmp_path: Path) -> None:
    slices = [{"sources": [{"model": model(tmp_path / "a"), "layer_range": [1, 9]}]}]
    with pytest.raises(PlanError, match=r"r.yml: slices\[0\]: layer_range \[1, 9\] .* has 3 layers"):
        planned({"merge_method": "passthrough", "slices": slices})


def test_a_tensor_that_one_model_lacks_is_named(tmp_path: Path) -> None:
    a = model(tmp_path / "a", **{"model.layers.1.mlp.extra.weight": (2,)})
    with pytest.raises(PlanError, match=r"'model.layers.1.mlp.extra.weight' is missing in .*b"):
        planned(linear(a, model(tmp_path / "b")))


@pytest.mark.parametrize(("method", "switch"), [("linear", "normalize"), ("multislerp", "normalize_weights")])
def test_weights_that_cancel_cannot_be_normalised(method: str, switch: str, tmp_path: Path) -> None:
    data = linear(model(tmp_path / "a"), model(tmp_path / "b"), merge_method=method)
    data["models"][1]["parameters"]["weight"] = -1
    with pytest.raises(PlanError, match=f"sum to 0 .* or {switch}: false"):
        planned(data)
    assert planned({**data, "parameters": {switch: False}}).tensors


def test_a_filter_that_leaves_tensors_without_a_setting_is_refused(tmp_path: Path) -> None:
    data = linear(model(tmp_path / "a"), model(tmp_path / "b"))
    data["models"][0]["parameters"]["weight"] = [{"filter": "mlp", "value": 1}]
    with pytest.raises(PlanError, match=r"needs 'weight' for tensor 'model.embed_tokens.weight'"):
        planned(data)


def test_a_base_that_only_lends_its_config_says_the_tying_and_the_dtype_that_are_written(tmp_path: Path) -> None:
    tied, untied = model(tmp_path / "tied"), model(tmp_path / "untied", head=True)
    file = tmp_path / "untied" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "dtype": "float16"}))
    plan = planned(linear(tied, base_model=untied))
    assert "lm_head.weight" not in {t.name for t in plan.tensors}
    assert (plan.config["tie_word_embeddings"], plan.config["dtype"]) == (True, "float32")


def test_a_name_with_braces_is_refused(tmp_path: Path) -> None:
    strange = model(tmp_path / "a", **{"model.{}.layers.0.mlp.up_proj.weight": (2,)})
    with pytest.raises(SourceError, match="braces have no place in a name"):
        planned(linear(strange))
