"""What is no language model fails before its items are scored; no model of the tiny family does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_tasks import make_model, make_tokenizer

from search.evaluators.entries import EvaluatorEntry
from search.floor import PROMPTS, Look, failure, look_at, prompts_of
from search.loading import load_from_disk
from search.ports import Item

MODELS = Path(__file__).parents[2] / "configs" / "demo" / "models"
SAID = [f"sort {word}=" for word in ("hgi", "ucwf", "apey", "qmxa", "roman", "plural", "kilo", "zeta")]


@pytest.mark.parametrize(
    ("look", "says"),
    [
        (Look(False, (1, 2) * 20, 0.5, 3.0), "NaN or Inf"),
        (Look(False, (), 0.0, 0.0), "NaN or Inf"),
        (Look(True, (0,) * 40, 0.03, 0.0), "all logits are equal"),
        (Look(True, (7,) * 40, 0.995, 9.0), "continued by token 7, with probability 0.995"),
        (Look(True, (7,) * 40, 0.9, 9.0), None),
        (Look(True, (7,) * 39 + (8,), 1.0, 9.0), None),
        (Look(True, (7,) * 20, 1.0, 9.0), None),
    ],
)
def test_only_what_no_language_model_does_is_a_failure(look: Look, says: str | None) -> None:
    cause = failure(look)
    assert (cause is None) == (says is None)
    assert says is None or says in str(cause)


@pytest.mark.parametrize("name", sorted(path.name for path in MODELS.iterdir() if path.is_dir()))
def test_no_parent_and_no_base_of_the_tiny_family_fails(name: str) -> None:
    subject = load_from_disk(MODELS / name, EvaluatorEntry())
    look = look_at(subject.model, subject.tokenizer, SAID)
    assert len(look.best) >= 32
    assert failure(look) is None


@pytest.mark.parametrize(("how", "says"), [("inf", "NaN or Inf"), ("zero", "all logits are equal"), ("one", "token 5")])
def test_a_broken_head_is_seen_in_one_forward_pass(how: str, says: str) -> None:
    tokenizer = make_tokenizer()
    model = make_model(1, tokenizer, tied=False)
    passes: list[object] = []
    model.register_forward_pre_hook(lambda *_: passes.append(1))
    with torch.no_grad():
        if how == "inf":
            model.model.embed_tokens.weight.fill_(float("inf"))
        elif how == "zero":
            model.lm_head.weight.zero_()
        else:
            model.model.norm.weight.zero_()
            model.lm_head = torch.nn.Linear(16, len(tokenizer))
            model.lm_head.bias.zero_()[5] = 30.0
    assert says in str(failure(look_at(model, tokenizer, SAID)))
    assert len(passes) == 1
    assert failure(look_at(make_model(1, tokenizer), tokenizer, SAID)) is None


def test_prompts_are_the_first_search_items_that_say_something() -> None:
    items = [Item(f"s/{n}", "t", "c") for n in range(20)]
    texts = {item.key: item.key if n % 2 else " " for n, item in enumerate(items)}
    found = prompts_of({"search": items, "selection": (), "holdout": ()}, texts)
    assert found == [f"s/{n}" for n in range(1, 2 * PROMPTS, 2)]
