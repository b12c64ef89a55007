"""Modules by name: which a model has, what a recipe may call them, and what they are made of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.models.modules import known, roles, select


def stack(prefix: str, layers: int = 2) -> list[str]:
    return [f"{prefix}.{n}.{rest}" for n in range(layers) for rest in ("attn.q_proj.weight", "mlp.0.weight")]


TEXT = [*stack("model.layers"), "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]
MODELS: dict[str, dict[str, list[str]]] = {
    "llama": {"text_decoder": [*TEXT, "model.layers.0.self_attn.vision_expert.weight"]},
    "llava, as the Hub has it": {
        "text_decoder": [f"language_model.{name}" for name in TEXT],
        "vision_tower": [*stack("vision_tower.vision_model.encoder.layers"), "vision_tower.vision_model.norm.bias"],
        "multi_modal_projector": ["multi_modal_projector.linear_1.weight"],
    },
    "llava, as transformers names it in memory": {
        "text_decoder": [*stack("model.language_model.layers"), "model.language_model.norm.weight", "lm_head.weight"],
        "vision_tower": [*stack("model.vision_tower.encoder.layers"), "model.image_newline"],
        "multi_modal_projector": ["model.multi_modal_projector.linear_1.weight"],
    },
    "qwen2-vl": {
        "text_decoder": TEXT,
        "vision_tower": [*stack("visual.blocks"), "visual.patch_embed.proj.weight"],
        "multi_modal_projector": ["visual.merger.ln_q.weight", "visual.merger.mlp.0.bias", "visual.merger.mlp.2.bias"],
    },
    "qwen3-vl": {
        "text_decoder": [*stack("model.language_model.layers"), "lm_head.weight"],
        "vision_tower": stack("model.visual.blocks"),
        "multi_modal_projector": ["model.visual.merger.norm.weight", *stack("model.visual.deepstack_merger_list")],
    },
    "llama 4": {
        "text_decoder": [f"language_model.{name}" for name in TEXT],
        "vision_tower": [*stack("vision_model.model.layers"), "vision_model.vision_adapter.mlp.fc1.weight"],
        "multi_modal_projector": ["multi_modal_projector.linear_1.weight"],
    },
    "qwen2-audio": {
        "text_decoder": [f"language_model.{name}" for name in TEXT],
        "audio_tower": stack("audio_tower.layers"),
        "multi_modal_projector": ["multi_modal_projector.linear.weight"],
    },
    "t5": {
        "encoder": [*stack("encoder.block"), "encoder.final_layer_norm.weight"],
        "decoder": [*stack("decoder.block"), "decoder.final_layer_norm.weight"],
        "shared": ["shared.weight", "lm_head.weight"],
    },
    "whisper": {
        "encoder": [*stack("model.encoder.layers"), "model.encoder.conv1.weight"],
        "decoder": [*stack("model.decoder.layers"), "model.decoder.embed_tokens.weight"],
    },
    "bert": {"text_decoder": [*stack("bert.encoder.layer"), "bert.embeddings.word_embeddings.weight"]},
}  # fmt: skip


def names(model: str) -> list[str]:
    return [name for group in MODELS[model].values() for name in group]


@pytest.mark.parametrize("model", MODELS)
def test_every_tensor_has_its_module(model: str) -> None:
    assert roles(names(model)) == {name: role for role, group in MODELS[model].items() for name in group}


@pytest.mark.parametrize("model", MODELS)
def test_a_recipe_may_call_modules_what_mergekit_calls_them(model: str) -> None:
    expected = {role: tuple(group) for role, group in MODELS[model].items()}
    assert select(list(expected), names(model)) == expected
    assert set(known(names(model))) >= {*expected, "default"}


@pytest.mark.parametrize(
    ("model", "module", "beginnings"),
    [
        ("llava, as the Hub has it", "language_model", ("language_model.",)),
        ("llava, as the Hub has it", "vision_model", ("vision_tower.",)),
        ("llama 4", "vision_model", ("vision_model.",)),
        ("qwen3-vl", "visual", ("model.visual.",)),
        ("qwen3-vl", "model.visual.blocks", ("model.visual.blocks.",)),
        ("qwen3-vl", "model.visual.block", ()),
        ("llama", "default", ("model.", "lm_head.")),
        ("llama", "lm_head", ("lm_head.",)),
        ("whisper", "model.encoder", ("model.encoder.",)),
        ("llava, as transformers names it in memory", "image_newline", ("model.image_newline",)),
    ],
)
def test_a_module_may_also_be_the_beginning_of_names(model: str, module: str, beginnings: tuple[str, ...]) -> None:
    expected = [name for name in names(model) if beginnings and name.startswith(beginnings)]
    assert select([module], names(model)) == {module: tuple(expected)}


def test_the_longest_beginning_wins_and_default_takes_the_rest() -> None:
    found = select(["model", "model.visual", "merger", "default"], names("qwen3-vl"))
    assert found["merger"] == ()
    assert found["default"] == ("lm_head.weight",)
    assert all("visual" in name for name in found["model.visual"])
    assert all("language_model" in name for name in found["model"])
    assert found["model.visual"] != ()


@given(
    st.sampled_from(list(MODELS)),
    st.lists(
        st.sampled_from(["text_decoder", "vision_tower", "model", "model.visual", "encoder", "default"]), unique=True
    ),
)
def test_no_tensor_belongs_to_two_modules_and_default_leaves_none_out(model: str, modules: list[str]) -> None:
    groups = select(modules, names(model))
    taken = [name for group in groups.values() for name in group]
    assert len(taken) == len(set(taken))
    if "default" in modules:
        assert set(taken) == set(names(model))
