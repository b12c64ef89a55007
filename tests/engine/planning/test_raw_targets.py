"""Files of tensors: matched by name, merged as any source, written without a config; and sets of names that differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from engine import Options, ShardSize, make_plan, merge, open_checkpoint, open_checkpoints, parse_recipe, recipe_to_dict
from engine.errors import PlanError, RecipeError, SourceError
from engine.recipes.model_ref import ModelRef


def values(seed: int, *names: str, size: int = 7) -> dict[str, Any]:
    return {name: np.random.default_rng([seed, len(name)]).normal(size=(3, size)).astype(np.float32) for name in names}


def write(path: Path, tensors: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        import torch

        torch.save({name: torch.from_numpy(array) for name, array in tensors.items()}, path)
    return path


def recipe(*files: Path, method: str = "linear", base: Path | None = None, **top: Any) -> dict[str, Any]:
    """A mergekit-pytorch config: files with a weight each, but for the base."""
    entries = [{"model": str(file), "parameters": {"weight": 0.5}} for file in files]
    named = {} if base is None else {"base_model": str(base)}
    return {"merge_method": method, "models": entries, **named, **top}


def merged(data: dict[str, Any], out: Path) -> dict[str, Any]:
    directory = merge(parse_recipe(data, origin="r.yml"), out).out
    return load_file(directory / "model.safetensors")


def refusal(data: dict[str, Any]) -> str:
    loaded = parse_recipe(data, origin="r.yml")
    with pytest.raises(PlanError) as caught:
        make_plan(loaded, open_checkpoints(loaded.models))
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".safetensors", ".bin", ".pt", ".pth", ".ckpt"])
def test_files_of_every_kind_are_merged_and_only_tensors_are_written(suffix: str, tmp_path: Path) -> None:
    names = ("conv.weight", "layers.0.w", "layers.1.w", "lm_head.weight")
    files = [write(tmp_path / f"{n}{suffix}", values(n, *names)) for n in (1, 2)]
    (tmp_path / "tokenizer.json").write_text("that of something else in this folder")
    tensors = merged(recipe(*files), tmp_path / "out")
    assert tensors.keys() == set(names)
    for name in names:
        expected = (values(1, name)[name] + values(2, name)[name]) / 2
        np.testing.assert_allclose(tensors[name], expected, rtol=1e-6)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("model.safetensors", "README.md", "recipe.json", "provenance.json", "mergekit_config.yml")
    }
    assert "transformers" not in (tmp_path / "out" / "README.md").read_text()


def test_a_model_and_its_file_alone_give_the_same_tensors(tmp_path: Path) -> None:
    names = ("model.embed_tokens.weight", "model.layers.0.w", "model.norm.weight")
    digests = set()
    for form in ("model", "file"):
        paths = []
        for n in (0, 1, 2):
            file = write(tmp_path / form / str(n) / "model.safetensors", values(n, *names))
            (file.parent / "config.json").write_text(json.dumps({"num_hidden_layers": 1}))
            paths.append(file.parent if form == "model" else file)
        data = recipe(*paths[1:], method="dare_ties", base=paths[0], parameters={"density": 0.5})
        digests.add(merge(parse_recipe(data), tmp_path / f"out-{form}").weights_digest)
    assert len(digests) == 1


def test_a_gradient_has_depth_0_and_a_weight_of_0_is_a_weight(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{n}.safetensors", values(n, "layers.0.w", "layers.9.w")) for n in (1, 2)]
    data = recipe(*files)
    data["models"][0]["parameters"] = {"weight": [1.0, 0.0]}
    data["models"][1] = {"model": str(files[1]), "parameters": {"weight": 0.0}}
    tensors = merged(data, tmp_path / "out")
    assert all((tensors[name] == values(1, name)[name]).all() for name in tensors)


def test_files_without_parameters_take_the_recipes(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{n}.pt", values(n, "w")) for n in (1, 2)]
    data = {"merge_method": "linear", "models": [{"model": str(file)} for file in files], "parameters": {"weight": 1}}
    assert merged(data, tmp_path / "out").keys() == {"w"}


def test_nothing_is_taken_for_tied_or_for_a_vocabulary(tmp_path: Path) -> None:
    with_head = write(tmp_path / "a.safetensors", values(1, "embed_tokens.weight", "lm_head.weight"))
    without = write(tmp_path / "b.safetensors", values(2, "embed_tokens.weight"))
    assert "tensor 'lm_head.weight' is not in" in refusal(recipe(with_head, without))
    tall = write(tmp_path / "c.safetensors", {"embed_tokens.weight": np.ones((4, 7), np.float32)})
    assert "models of different shape cannot be merged" in refusal(recipe(without, tall))


A, B, BASE = ("all", "a", "a_and_b"), ("all", "a_and_b", "b"), ("all", "a_and_b", "base")


def three(folder: Path) -> tuple[Path, Path, Path]:
    """Two files and a base with names of their own, and with some in common."""
    files = zip(("base", "a", "b"), (BASE, A, B), strict=True)
    base, a, b = (write(folder / f"{n}.safetensors", values(i, *names)) for i, (n, names) in enumerate(files))
    return base, a, b


def test_tensors_that_some_files_lack_are_refused_with_the_ways_out(tmp_path: Path) -> None:
    _, a, b = three(tmp_path)
    assert refusal(recipe(a, b)) == (
        f"r.yml: tensor 'a' is not in {b}: tensor_set: intersection leaves such tensors out, tensor_set: union merges "
        "them from the files that have them."
    )


def test_an_intersection_has_what_all_files_have_and_the_plan_says_what_is_left_out(tmp_path: Path) -> None:
    _, a, b = three(tmp_path)
    data = parse_recipe(recipe(a, b, tensor_set="intersection"))
    plan = make_plan(data, open_checkpoints(data.models))
    assert {tensor.name for tensor in plan.tensors} == {"all", "a_and_b"}
    assert plan.left_out == {str(a): ("a",), str(b): ("b",)}


def test_a_union_merges_every_tensor_from_the_files_that_have_it(tmp_path: Path) -> None:
    _, a, b = three(tmp_path)
    tensors = merged(recipe(a, b, tensor_set="union", parameters={"normalize": False}), tmp_path / "out")
    assert tensors.keys() == {*A, *B}
    assert (tensors["b"] == 0.5 * values(2, "b")["b"]).all()


def test_a_union_copies_what_one_file_has_alone_where_the_method_needs_more(tmp_path: Path) -> None:
    base, a, b = three(tmp_path)
    tensors = merged(recipe(a, b, method="task_arithmetic", base=base, tensor_set="union"), tmp_path / "out")
    for seed, name in ((0, "base"), (1, "a"), (2, "b")):
        assert (tensors[name] == values(seed, name)[name]).all()
    origin, first, second = (values(seed, "a_and_b")["a_and_b"] for seed in (0, 1, 2))
    np.testing.assert_allclose(tensors["a_and_b"], origin + (first - origin) / 2 + (second - origin) / 2, atol=1e-6)


def test_a_union_without_a_base_to_compare_with_is_refused(tmp_path: Path) -> None:
    base = write(tmp_path / "base.pt", values(0, "w"))
    files = [write(tmp_path / f"{n}.pt", values(n, "w", "new")) for n in (1, 2)]
    assert refusal(recipe(*files, method="ties", base=base, tensor_set="union")) == (
        f"r.yml: tensor 'new' is not in {base}: ties needs it there: tensor_set: intersection leaves it out, or a rule "
        "(tensors)."
    )


def test_rules_for_single_tensors_hold_for_files_too(tmp_path: Path) -> None:
    base, a, b = three(tmp_path)
    rules = [{"filter": "a_and_b", "keep": "base"}, {"filter": "re:^(a|b|base)$", "exclude": True}]
    tensors = merged(recipe(a, b, method="task_arithmetic", base=base, tensors=rules), tmp_path / "out")
    assert tensors.keys() == {"all", "a_and_b"}
    assert (tensors["a_and_b"] == values(0, "a_and_b")["a_and_b"]).all()


def test_the_set_is_part_of_the_canonical_recipe_and_must_be_known(tmp_path: Path) -> None:
    data = parse_recipe(recipe(tmp_path / "a.pt", tensor_set="union"))
    assert parse_recipe(recipe_to_dict(data)) == data
    with pytest.raises(RecipeError, match=r"tensor_set: got 'unoin'; did you mean 'union'\?"):
        parse_recipe(recipe(tmp_path / "a.pt", tensor_set="unoin"), origin="r.yml")


def test_what_only_models_have_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.pt", values(1, "w"))
    model = write(tmp_path / "model" / "model.safetensors", values(1, "w")).parent
    (model / "config.json").write_text("{}")
    assert refusal(recipe(file, model)) == (
        f"r.yml: {file} is a file of tensors, {model} a model: they cannot be merged. For a model name its directory."
    )
    assert refusal(recipe(model, tensor_set="union")) == (
        "r.yml: tensor_set: is for files of tensors; models of one architecture have the same."
    )
    sliced = {"merge_method": "passthrough", "slices": [{"sources": [{"model": str(file), "layer_range": [0, 1]}]}]}
    for data, key in (
        (recipe(file, tokenizer_source="base"), "tokenizer_source"),
        (recipe(file, chat_template="chatml"), "chat_template"),
        (sliced, "slices"),
    ):
        assert refusal(data) == f"r.yml: {key}: is for models; {file} is a file of tensors."


def test_files_with_nothing_in_common_are_refused(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{name}.pt", values(1, name)) for name in ("a", "b")]
    assert "the files have no tensor in common" in refusal(recipe(*files, tensor_set="intersection"))


def test_names_of_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.safetensors", values(1, "w"))
    (tmp_path / "a.txt").write_text("x")
    for ref, message in (
        (ModelRef(str(tmp_path / "b.safetensors")), "there is no such file"),
        (ModelRef(str(tmp_path / "a.txt")), r"is a file, but none of tensors \(\.safetensors, \.bin"),
        (ModelRef(str(file), "v1"), "is a local file, which has no revisions"),
        (ModelRef(str(file), lora=ModelRef(str(tmp_path))), "an adapter needs a model: name its directory"),
    ):
        with pytest.raises(SourceError, match=message):
            open_checkpoint(ref)


def test_the_output_may_lie_beside_the_files_and_in_several_shards(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{n}.safetensors", values(n, "v", "w")) for n in (1, 2)]
    out = merge(parse_recipe(recipe(*files)), tmp_path / "out", options=Options(shard_size=ShardSize(100))).out
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == {"v", "w"}
