"""Is a candidate a language model at all? Norms, and a look at the first forward pass of its first items.

A merge can be finite in every weight and still compute nothing: activations overflow, or every context gives one token.
Scoring such a candidate costs a window of items (generation runs to its last token), so it fails here instead, in the
first pass of it. The limits are far outside what any language model does, so that no parent and no base meets them:

    a large matrix is ten times as large as in any parent              (search/evaluators/norms.py)

    a logit is NaN or Inf
    all logits of every position are equal                             (the head sees nothing)
    every position of every prompt predicts the same token, with a probability of 0.99 and more on average
                                                                       (the text would be that token, for ever)

A pass of its own over a few prompts would take an eighth of the time that scoring 15 short items takes (tiny family).
So it is made only where scoring shows no pass to look at: a function that never runs the model, or one text at a time.

Continuing text costs more than scoring a few items may, so that is done only where a whole block has nothing right:

    all greedy continuations of the prompts end in repeats of one to four tokens, and those of no parent do
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from engine.errors import EvaluationError
from search.ports import Item, Split

PROMPTS = 8
PROMPT_TOKENS = 64
LEAST_POSITIONS = 32  # fewer predictions may agree by chance
LOOKED_AT = 64  # positions of a forward pass whose logits are computed once more
SURE = 0.99
CONTINUED = 32  # tokens of a continuation
REPEATED = 24  # of them, at its end, that a loop makes
LONGEST_LOOP = 4


@dataclass(frozen=True)
class Look:
    """What a forward pass showed, over P positions of all prompts.

    finite    whether all logits are finite numbers
    best      [P] the token that each position predicts
    surest    the mean probability of that token
    spread    the largest difference of two logits of one position

    Where the positions predict several tokens the last two matter to nobody: they are 0 and infinite then.
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


class Watch:
    """Within it the first forward pass of a model that says enough is looked at: EvaluationError there, and at the end,
    where it shows a failure. `looked`: whether there was such a pass.

    The logits are those of the output head on the last hidden states, at positions evenly over the batch, so that
    scoring itself computes the very same as without.
    """

    def __init__(self, model: Any) -> None:
        self._body, self._head = model.base_model, model.get_output_embeddings()
        self._hook: Any = None
        self.cause: str | None = None
        self.looked = False

    def __enter__(self) -> Watch:
        if self._head is not None:
            self._hook = self._body.register_forward_hook(self._see, with_kwargs=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        self._remove()
        if self.cause is not None and (error is None or isinstance(error, Exception)):
            raise EvaluationError(self.cause) from None  # whatever a scorer made of it

    def _see(self, module: Any, args: Any, kwargs: Mapping[str, Any], output: Any) -> None:
        import torch

        hidden, mask = output[0], kwargs.get("attention_mask")
        with torch.inference_mode():
            places = _places(hidden, mask)
            if places is None or len(places) < LEAST_POSITIONS:
                return
            self._remove()
            rows = hidden.flatten(0, -2)
            finite = all_finite(rows) or all_finite(rows[places])  # what is behind padding need not be
            look = look_of(self._head(rows[places[:: -(-len(places) // LOOKED_AT)]]))
        self.looked = True
        self.cause = failure(look if finite else replace(look, finite=False))
        if self.cause is not None:
            raise EvaluationError(self.cause)

    def _remove(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None


def _places(hidden: Any, mask: Any) -> Any:
    """Of hidden states [..., width] the rows that stand for a token; None where it cannot be said which do."""
    import torch

    if mask is None:
        return torch.arange(hidden.shape[:-1].numel(), device=hidden.device)
    return mask.flatten().nonzero()[:, 0] if mask.shape == hidden.shape[:-1] else None


def all_finite(values: Any) -> bool:
    """Whether there is no NaN or Inf. One of them makes the sum one, and a sum is found in a tenth of the time; but
    large numbers may do so, too."""
    import torch

    return math.isfinite(values.sum().item()) or bool(torch.isfinite(values).all())


def look_at(model: Any, tokenizer: Any, prompts: Sequence[str]) -> Look:
    """One forward pass over the prompts' first tokens, padded on the right."""
    import torch

    rows = _rows(tokenizer, prompts)
    if not rows:
        return Look(True, (), 0.0, 0.0)
    mask = torch.zeros((len(rows), max(map(len, rows))), dtype=torch.long)
    ids = torch.zeros_like(mask)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.tensor(row)
        mask[place, : len(row)] = 1
    with torch.inference_mode():
        out = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False)
        return look_of(out.logits[mask.bool().to(model.device)])


def look_of(logits_PV: Any) -> Look:
    """What the logits of P positions show."""
    logits_PV = logits_PV.float()
    highest, best = logits_PV.max(-1)  # of equal ones the first
    tokens = tuple(best.tolist())
    if not all_finite(logits_PV):
        return Look(False, tokens, 0.0, 0.0)
    if len(set(tokens)) > 1:
        return Look(True, tokens, 0.0, math.inf)
    surest = float(logits_PV.softmax(-1).amax(-1).mean())
    spread = float((highest - logits_PV.amin(-1)).max())
    return Look(True, tokens, surest, spread)


def nothing_right(scores: Mapping[str, float]) -> bool:
    """Whether all items of a block have one score, 0 or less: no answer is better than another."""
    return len(set(scores.values())) == 1 and next(iter(scores.values())) <= 0


def only_loops(model: Any, tokenizer: Any, prompts: Sequence[str]) -> bool:
    """Whether every greedy continuation of the prompts' first tokens loops; the first that does not ends the search."""
    rows = _rows(tokenizer, prompts)
    return bool(rows) and all(loops(_continued(model, row, tokenizer.eos_token_id)) for row in rows)


def loops(tokens: Sequence[int]) -> bool:
    """Whether a continuation runs to its last token and ends in repeats of one to four tokens."""
    tail = tokens[-REPEATED:]
    periods = range(1, LONGEST_LOOP + 1)
    return len(tokens) == CONTINUED and any(tail[period:] == tail[:-period] for period in periods)


def _continued(model: Any, row: Sequence[int], end: int | None) -> list[int]:
    """One prompt at a time: without padding no attention implementation sees another text."""
    import torch

    ids = torch.tensor([row], device=model.device)
    settings = {"max_new_tokens": CONTINUED, "do_sample": False, "num_beams": 1, "pad_token_id": end or 0}
    with torch.inference_mode():
        made = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **settings)
    return [int(token) for token in made[0, len(row) :]]


def _rows(tokenizer: Any, prompts: Sequence[str]) -> list[list[int]]:
    rows = [tokenizer.encode(text, add_special_tokens=False, verbose=False)[:PROMPT_TOKENS] for text in prompts]
    return [row for row in rows if row]
