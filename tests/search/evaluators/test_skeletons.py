"""A live model is as it was made, whatever ran on it before."""

from __future__ import annotations

import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from search.evaluators.skeletons import Unsaved


def test_dynamic_rope_forgets_the_longest_text_of_the_candidate_before() -> None:
    """Its frequencies belong to a length that it keeps beside: with the one put back and not the other, texts of up to
    that length would have the frequencies of short ones."""
    settings = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    rope = LlamaRotaryEmbedding(
        LlamaConfig(hidden_size=32, num_attention_heads=2, max_position_embeddings=8, rope_parameters=settings)
    )
    unsaved, x = Unsaved(rope), torch.zeros(1, 1, 16)

    def of_length(count: int) -> torch.Tensor:
        made: torch.Tensor = rope(x, torch.arange(count)[None])[0]
        return made.clone()

    alone = {}
    for count in (12, 20, 5):
        unsaved.restore()
        alone[count] = of_length(count)
    for count in (20, 12, 5, 20):
        of_length(30)
        unsaved.restore()
        assert torch.equal(of_length(count), alone[count])
    assert not torch.equal(alone[20][:, :12], alone[12])
