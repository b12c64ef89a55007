"""What config.json and names tell of a model that can be scored is what the live model finds."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from search.evaluators.causal import why_unscorable
from search.evaluators.loading import filled_views

TINY: dict[str, Any] = {
    "vocab_size": 16,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["qwen2", "gpt2"])
def test_a_body_without_a_head_can_be_scored_where_its_embedding_is_the_head(kind: str, tied: bool) -> None:
    config = AutoConfig.for_model(kind, **TINY, tie_word_embeddings=tied)
    with torch.device("meta"):
        body, whole = AutoModel.from_config(config), AutoModelForCausalLM.from_config(config)
    said = {**config.to_dict(), "architectures": [type(body).__name__]}
    filled = set(filled_views(whole, body.state_dict()))
    assert filled == set(body.state_dict())  # all but the head, which is the embedding if tied
    assert (why_unscorable(said, body.state_dict()) is None) == tied
    if tied == config.__class__().tie_word_embeddings:  # the class's default, where config.json does not say so
        del said["tie_word_embeddings"]
        assert (why_unscorable(said, body.state_dict()) is None) == tied


@pytest.mark.parametrize(
    ("kind", "architecture"),
    [("gemma3", "Gemma3ForConditionalGeneration"), ("gpt2", "GPT2LMHeadModel"), ("llama", "MistralForCausalLM")],
)
def test_what_transformers_serves_under_any_name_is_let_through(kind: str, architecture: str) -> None:
    config = {"model_type": kind, "architectures": [architecture]}
    assert why_unscorable(config, ["lm_head.weight"]) is None
    assert why_unscorable({"model_type": kind}, ["model.norm.weight"]) is None


def test_an_encoder_sees_what_it_is_to_predict_unless_it_is_a_decoder() -> None:
    config = {"model_type": "bert", "architectures": ["BertForMaskedLM"]}
    names = ["bert.embeddings.word_embeddings.weight", "cls.predictions.bias"]
    assert "sees the token that it is to predict" in str(why_unscorable(config, names))
    assert why_unscorable({**config, "is_decoder": True}, names) is None


def test_a_plan_of_causal_models_imports_no_torch() -> None:
    code = (
        "import sys\n"
        "from search.evaluators.causal import why_unscorable\n"
        "told = why_unscorable({'model_type': 'qwen2', 'architectures': ['Qwen2ForCausalLM']}, ['lm_head.weight'])\n"
        "print(told, 'torch' in sys.modules)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "None False\n"
