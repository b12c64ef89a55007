"""The config that fits what was written."""

import json
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import PlanError
from engine.models.output_config import output_config


def rewritten(config: dict[str, Any], **changes: Any) -> dict[str, Any]:
    nothing = {"layers": None, "dtype": None, "tied": None, "vocab_size": None}
    return output_config(config, **(nothing | changes))


def test_a_config_without_changes_stays_as_it_is_and_is_a_copy() -> None:
    config = {"num_hidden_layers": 2, "layer_types": ["a", "b"], "text_config": {"x": [1]}}
    result = rewritten(config)
    assert result == config
    result["text_config"]["x"].append(2)
    assert config["text_config"] == {"x": [1]}


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12))
def test_per_layer_lists_follow_the_layers_and_lists_of_layer_numbers_are_renumbered(layers: list[int]) -> None:
    config = {
        "num_hidden_layers": 6,
        "layer_types": list("abcdef"),
        "no_rope_layers": [1, 1, 0, 1, 1, 0],
        "mlp_only_layers": [0, 4],
        "moe_layers": [0, 1, 2, 3, 4, 5],
        "max_window_layers": 4,
        "eos_token_id": [7, 8],
        "bins": [1, 2, 3, 4, 5, 6],
    }
    result = rewritten(config, layers=layers)
    assert result["num_hidden_layers"] == len(layers)
    assert result["layer_types"] == ["abcdef"[layer] for layer in layers]
    assert result["no_rope_layers"] == [0 if layer in (2, 5) else 1 for layer in layers]
    assert result["mlp_only_layers"] == [new for new, old in enumerate(layers) if old in (0, 4)]
    assert result["moe_layers"] == list(range(len(layers)))
    assert result["max_window_layers"] == len(list(takewhile(lambda layer: layer < 4, layers)))
    assert result["eos_token_id"] == [7, 8]
    assert result["bins"] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("key", ["num_hidden_layers", "n_layer", "num_layers"])
def test_depth_is_written_under_the_key_the_config_uses(key: str) -> None:
    assert rewritten({key: 4}, layers=[0, 1, 2, 3, 2, 3]) == {key: 6}


def test_a_config_without_a_count_gets_one_because_its_class_would_assume_another() -> None:
    assert rewritten({"model_type": "llama"}, layers=[0, 1])["num_hidden_layers"] == 2


def test_the_text_part_of_a_multimodal_config_is_changed_and_the_vision_part_is_not() -> None:
    config = {
        "dtype": "bfloat16",
        "text_config": {"num_hidden_layers": 2, "layer_types": ["a", "b"], "vocab_size": 8, "dtype": "bfloat16"},
        "vision_config": {"num_hidden_layers": 2, "dtype": "bfloat16", "vocab_size": 3},
        "vocab_size": 8,
    }
    assert rewritten(config, layers=[1], dtype="float16", tied=False, vocab_size=9) == {
        "dtype": "float16",
        "text_config": {"num_hidden_layers": 1, "layer_types": ["b"], "vocab_size": 9, "dtype": "float16"},
        "vision_config": {"num_hidden_layers": 2, "dtype": "float16", "vocab_size": 3},
        "vocab_size": 9,
        "tie_word_embeddings": False,
    }


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, {"dtype": "float16"}),
        ({"torch_dtype": "float32"}, {"torch_dtype": "float16"}),
        ({"dtype": "float32"}, {"dtype": "float16"}),
        ({"dtype": "float32", "torch_dtype": "float32"}, {"dtype": "float16", "torch_dtype": "float16"}),
    ],
)
def test_dtype_is_written_under_the_keys_that_are_there(config: dict[str, str], expected: dict[str, str]) -> None:
    assert rewritten(config, dtype="float16") == expected


def test_a_layer_that_the_donors_lists_do_not_describe_is_refused() -> None:
    with pytest.raises(PlanError, match="layer_types describes 2 layers, and the output takes layer 5 of a deeper"):
        rewritten({"num_hidden_layers": 2, "layer_types": ["a", "b"]}, layers=[0, 5])


@pytest.mark.parametrize(
    ("layers", "dense"), [([0, 1, 2], 1), ([0, 0, 1, 2], 2), ([1, 2, 1], 0), ([0], 1), ([0, 0], 2)]
)
def test_dense_layers_in_front_of_the_others_are_counted_anew(layers: list[int], dense: int) -> None:
    config = {"num_hidden_layers": 3, "first_k_dense_replace": 1}
    assert rewritten(config, layers=layers)["first_k_dense_replace"] == dense


def test_a_dense_layer_behind_the_others_is_refused() -> None:
    with pytest.raises(PlanError, match=r"first_k_dense_replace = 1 .* layer 0 at place 2, behind layer 1\."):
        rewritten({"num_hidden_layers": 3, "first_k_dense_replace": 1}, layers=[0, 1, 0])


def test_layers_whose_kind_follows_from_their_number_move_by_whole_periods_only() -> None:
    config = {"num_hidden_layers": 8, "expert_layer_period": 2, "attn_layer_period": 4}
    assert rewritten(config, layers=[0, 1, 2, 3, 0, 1, 2, 3, 4])["num_hidden_layers"] == 9
    with pytest.raises(PlanError, match=r"attn_layer_period = 4 says .* layer 0 at place 2\."):
        rewritten(config, layers=[0, 1, 0, 1])
    with pytest.raises(PlanError, match=r"expert_layer_period = 2 says .* layer 1 at place 2\."):
        rewritten(config | {"attn_layer_period": 1}, layers=[0, 1, 1])
    spelled = {"num_hidden_layers": 4, "sliding_window_pattern": 2, "layer_types": ["s", "f", "s", "f"]}
    assert rewritten(spelled, layers=[0, 0])["layer_types"] == ["s", "s"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_transformers_loads_a_stacked_model_of_layer_types_in_the_dtype_written(
    tmp_path: Path, dtype: str, key: str
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

    types = ["full_attention", "sliding_attention"]
    shape = {"vocab_size": 16, "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1, "head_dim": 8}
    donor = Qwen3Config(**shape, num_key_value_heads=1, num_hidden_layers=2, layer_types=types, sliding_window=4)
    config = donor.to_dict()
    config[key] = config.pop("dtype", None) or "float32"
    layers = [0, 1, 1]
    written = rewritten(config, layers=layers, dtype=dtype, tied=False)

    deeper = Qwen3Config.from_dict(written)
    Qwen3ForCausalLM(deeper).to(getattr(torch, dtype)).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(written | {"architectures": ["Qwen3ForCausalLM"]}))
    model, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.config.layer_types == [types[layer] for layer in layers]
    assert model.config.tie_word_embeddings is False


@pytest.mark.parametrize(
    ("role", "config", "expected"),
    [
        ("vision_tower", {"vision_config": {"num_hidden_layers": 3, "layer_types": ["a", "b", "c"], "size": [1, 2, 3]}},
         {"vision_config": {"num_hidden_layers": 2, "layer_types": ["c", "a"], "size": [1, 2, 3]}}),
        ("vision_tower", {"vision_config": {"depth": 3}, "num_hidden_layers": 3},
         {"vision_config": {"depth": 2}, "num_hidden_layers": 3}),
        ("audio_tower", {"audio_config": {"encoder_layers": 3}}, {"audio_config": {"encoder_layers": 2}}),
        ("encoder", {"encoder_layers": 3, "decoder_layers": 3}, {"encoder_layers": 2, "decoder_layers": 3}),
        ("encoder", {"encoder_layers": 3, "num_hidden_layers": 3}, {"encoder_layers": 2, "num_hidden_layers": 2}),
        ("decoder", {"num_layers": 3, "num_decoder_layers": 3}, {"num_layers": 3, "num_decoder_layers": 2}),
    ],
)  # fmt: skip
def test_layers_of_other_modules_are_counted_where_the_config_counts_them(
    role: str, config: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert rewritten(config, others={role: [2, 0]}) == expected


@pytest.mark.parametrize("config", [{}, {"vision_config": {}}, {"vision_config": "clip"}, {"num_hidden_layers": 2}])
def test_layers_that_the_config_does_not_count_cannot_be_chosen(config: dict[str, Any]) -> None:
    with pytest.raises(PlanError, match=r"does not say how many layers vision_tower has"):
        rewritten(config, others={"vision_tower": [0]})
