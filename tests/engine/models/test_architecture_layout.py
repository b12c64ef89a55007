"""Layers and ties read from tensor names."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import SourceError
from engine.models.architecture import Layout, has_head, tied_source

PER_LAYER = ["self_attn.q_proj.weight", "mlp.up_proj.weight", "input_layernorm.weight"]


def llama(layers: int, prefix: str = "model.layers") -> list[str]:
    inner = [f"{prefix}.{number}.{rest}" for number in range(layers) for rest in PER_LAYER]
    return ["model.embed_tokens.weight", *inner, "model.norm.weight", "lm_head.weight"]


# tensor names


@given(st.integers(1, 30), st.sampled_from(["model.layers", "h", "transformer.h", "gpt_neox.layers"]), st.booleans())
def test_locate_finds_every_layer_and_filling_the_template_gives_the_name_back(
    layers: int, prefix: str, counted: bool
) -> None:
    names = llama(layers, prefix)
    layout = Layout.read(reversed(names), {"num_hidden_layers": layers} if counted else {})
    assert layout == Layout(prefix, layers)
    for name in names:
        template, layer = layout.locate(name)
        assert (template if layer is None else template.replace("{}", str(layer))) == name
        assert (layer is not None) == name.startswith(f"{prefix}.")
    assert {layout.locate(name)[1] for name in names} == {None, *range(layers)}


@pytest.mark.parametrize("key", ["num_hidden_layers", "n_layer", "num_layers", "n_layers"])
@pytest.mark.parametrize("nested", [False, True])
def test_the_count_is_read_under_every_familiar_key_also_nested(key: str, nested: bool) -> None:
    config: dict[str, Any] = {"text_config": {key: 2}} if nested else {key: 2}
    names = [*llama(2), *(f"vision.blocks.{number}.mlp.weight" for number in range(9))]
    assert Layout.read(names, config) == Layout("model.layers", 2)
    assert Layout.read(names, {}) == Layout("vision.blocks", 9)


def test_experts_have_numbers_of_their_own_and_only_the_first_number_counts() -> None:
    names = [f"model.layers.{i}.mlp.experts.{j}.up_proj.weight" for i in range(2) for j in range(8)]
    layout = Layout.read(names, {"num_hidden_layers": 2})
    assert layout.locate("model.layers.1.mlp.experts.7.up_proj.weight") == (
        "model.layers.{}.mlp.experts.7.up_proj.weight",
        1,
    )


def test_of_two_stacks_that_fit_the_one_called_text_or_decoder_is_meant() -> None:
    names = [f"{side}.block.{n}.{rest}" for side in ("encoder", "decoder") for n in range(3) for rest in PER_LAYER]
    assert Layout.read(names, {"num_layers": 3}).prefix == "decoder.block"
    both = [*llama(3, "vision_model.layers"), *llama(3, "language_model.model.layers")]
    layout = Layout.read(both, {"text_config": {"num_hidden_layers": 3}, "vision_config": {"num_hidden_layers": 3}})
    assert layout.prefix == "language_model.model.layers"
    assert layout.locate("vision_model.layers.0.mlp.up_proj.weight") == (
        "vision_model.layers.0.mlp.up_proj.weight",
        None,
    )


def test_a_vision_tower_of_as_many_fuller_layers_is_not_meant() -> None:
    tower = [f"visual.blocks.{n}.{rest}" for n in range(3) for rest in (*PER_LAYER, "attn.qkv.bias")]
    assert Layout.read([*tower, *llama(3)], {"num_hidden_layers": 3}).prefix == "model.layers"


def test_prediction_layers_behind_the_counted_ones_are_no_layers() -> None:
    layout = Layout.read(llama(4), {"num_hidden_layers": 3, "num_nextn_predict_layers": 1})
    assert layout.layers == 3
    assert layout.locate("model.layers.3.mlp.up_proj.weight")[1] is None
    assert layout.place("model.layers.3.mlp.up_proj.weight") == "post"


def test_a_model_without_numbered_tensors_has_no_layers() -> None:
    assert Layout.read(["weight", "bias", "0.weight", "net.3"], {}) == Layout(None, 0)
    assert Layout.read(["weight"], {"num_hidden_layers": 0}) == Layout(None, 0)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("model.embed_tokens.weight", "pre"),
        ("transformer.wte.weight", "pre"),
        ("wpe.weight", "pre"),
        ("bert.embeddings.LayerNorm.weight", "pre"),
        ("model.layers.1.mlp.up_proj.weight", "layer"),
        ("model.norm.weight", "post"),
        ("lm_head.weight", "post"),
        ("embed_out.weight", "post"),
        ("language_model.lm_head.bias", "post"),
    ],
)
def test_embeddings_come_before_the_layers_and_heads_and_norms_after(name: str, place: str) -> None:
    assert Layout("model.layers", 2).place(name) == place


@pytest.mark.parametrize(
    ("names", "config", "message"),
    [
        (llama(3), {"num_hidden_layers": 4},
         "org/a: config.json says num_hidden_layers = 4, but its tensors have 3 layers: "
         "model.layers.0 to model.layers.2. One of the two is incomplete: get the model again."),
        ([name for name in llama(6) if ".3." not in name], {"text_config": {"n_layer": 6}},
         "org/a: config.json says text_config.n_layer = 6, but its tensors have 5 layers: "
         "model.layers.0 to model.layers.5, without 3. One of the two is incomplete: get the model again."),
        (["weight"], {"num_layers": 2},
         "org/a: config.json says num_layers = 2, but no tensor has a layer number in its name."),
        (["x.7.y"], {"num_layers": 10**12},
         "org/a: config.json says num_layers = 1000000000000, but its tensors have 1 layers: "
         "x.7 to x.7, without 0, 1, 2, 3, 4 .... One of the two is incomplete: get the model again."),
    ],
)  # fmt: skip
def test_config_and_tensors_that_disagree_are_both_named(
    names: list[str], config: dict[str, Any], message: str
) -> None:
    with pytest.raises(SourceError) as caught:
        Layout.read(names, config, origin="org/a")
    assert str(caught.value) == message


# tied tensors


@pytest.mark.parametrize(
    ("head", "embedding"),
    [
        ("lm_head.weight", "model.embed_tokens.weight"),
        ("lm_head.weight", "transformer.wte.weight"),
        ("embed_out.weight", "gpt_neox.embed_in.weight"),
        ("lm_head.weight", "backbone.embeddings.weight"),
        ("language_model.lm_head.weight", "language_model.model.embed_tokens.weight"),
    ],
)
def test_a_missing_head_is_the_embedding_and_a_missing_embedding_the_head(head: str, embedding: str) -> None:
    others = ["model.norm.weight", "model.layers.0.mlp.up_proj.weight"]
    assert tied_source(head, [*others, embedding]) == embedding
    assert tied_source(embedding, [*others, head]) == head
    assert has_head([*others, head])
    assert not has_head([*others, embedding, head.replace("weight", "bias")])


def test_nothing_else_is_tied() -> None:
    names = ["model.embed_tokens.weight", "lm_head.weight"]
    assert tied_source("model.norm.weight", names) is None
    assert tied_source("lm_head.bias", names) is None
    assert tied_source("lm_head.weight", ["model.norm.weight"]) is None
    assert tied_source("lm_head.weight", ["a.embed_tokens.weight", "b.embed_tokens.weight"]) is None
