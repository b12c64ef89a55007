"""Is a candidate a language model at all? One forward pass over a few prompts, before any item is scored.

A merge can be finite in every weight and still compute nothing: activations overflow, or every context gives one token.
Scoring such a candidate costs a window of items (generation runs to its last token), so it fails here instead, for one
forward pass. The limits are far outside what any language model does, so that no parent and no base meets them:

    a logit is NaN or Inf
    all logits of every position are equal                             (the head sees nothing)
    every position of every prompt predicts the same token, with a probability of 0.99 and more on average
                                                                       (the text would be that token, for ever)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search.ports import Item, Split

PROMPTS = 8
PROMPT_TOKENS = 64
LEAST_POSITIONS = 32  # fewer predictions may agree by chance
SURE = 0.99


@dataclass(frozen=True)
class Look:
    """What a forward pass showed, over P positions of all prompts.

    finite    whether all logits are finite numbers
    best      [P] the token that each position predicts
    surest    the mean probability of that token
    spread    the largest difference of two logits of one position
    """

    finite: bool
    best: tuple[int, ...]
    surest: float
    spread: float


def failure(look: Look) -> str | None:
    """Why a candidate is not worth scoring, or None."""
    if not look.finite:
        return "floor: NaN or Inf in the logits of the first prompts"
    if len(look.best) < LEAST_POSITIONS:
        return None
    if look.spread == 0:
        return "floor: all logits are equal, whatever the prompt says"
    if len(set(look.best)) == 1 and look.surest >= SURE:
        return f"floor: every prompt is continued by token {look.best[0]}, with probability {look.surest:.3f}"
    return None


def prompts_of(items: Mapping[Split, Sequence[Item]], texts: Mapping[str, str]) -> list[str]:
    """The first search items that say something."""
    found = (texts.get(item.key, "") for item in items["search"])
    return [text for text in found if text.strip()][:PROMPTS]


def look_at(model: Any, tokenizer: Any, prompts: Sequence[str]) -> Look:
    """One forward pass over the prompts' first tokens, padded on the right."""
    import torch

    rows = [tokenizer.encode(text, add_special_tokens=False, verbose=False)[:PROMPT_TOKENS] for text in prompts]
    rows = [row for row in rows if row]
    if not rows:
        return Look(True, (), 0.0, 0.0)
    mask = torch.zeros((len(rows), max(map(len, rows))), dtype=torch.long)
    ids = torch.zeros_like(mask)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.tensor(row)
        mask[place, : len(row)] = 1
    with torch.inference_mode():
        out = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False)
        logits = out.logits[mask.bool().to(model.device)].float()
        finite = bool(torch.isfinite(logits).all())
        best = logits.argmax(-1)
        surest = float(logits.softmax(-1).amax(-1).mean()) if finite else 0.0
        spread = float((logits.amax(-1) - logits.amin(-1)).max()) if finite else 0.0
    return Look(finite, tuple(best.tolist()), surest, spread)
