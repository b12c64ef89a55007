"""What is no language model fails before its items are scored; no model of the tiny family does."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from device import DEVICE
from tiny_tasks import make_model, make_tokenizer

from engine.errors import EvaluationError
from search.evaluators.entries import EvaluatorEntry
from search.evaluators.floor import (
    CONTINUED,
    PROMPTS,
    Look,
    Watch,
    failure,
    look_at,
    loops,
    nothing_right,
    only_loops,
    prompts_of,
)
from search.evaluators.loading import load_from_disk
from search.evaluators.norms import FACTOR, _largest_number
from search.evaluators.resident import ResidentModel
from search.ports import Item

MODELS = Path(__file__).parents[3] / "configs" / "demo" / "models"
PARENTS = [str(MODELS / name) for name in ("letters", "numerals", "plurals")]
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
    subject = load_from_disk(MODELS / name, EvaluatorEntry(device=DEVICE))
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


class Toy(torch.nn.Module):
    """Hidden states as they are given, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.base_model = Body()
        self.head = torch.nn.Linear(4, 7)

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.head


class Body(torch.nn.Module):
    def forward(self, hidden, attention_mask=None):
        return (hidden,)


def hidden_states(rows: int, columns: int) -> torch.Tensor:
    return torch.randn(rows, columns, 4, generator=torch.Generator().manual_seed(1))


def test_a_watch_looks_once_and_not_at_padding() -> None:
    toy, hidden, mask = Toy(), hidden_states(5, 20), torch.ones(5, 20)
    hidden[:, :3], mask[:, :3] = float("nan"), 0
    with Watch(toy) as watch:
        toy.base_model(hidden[:, :2], attention_mask=torch.ones(5, 2))  # too few positions to tell, or not even that
        assert not watch.looked
        toy.base_model(hidden, attention_mask=mask[:, None])  # a mask of another form
        assert not watch.looked
        toy.base_model(hidden, attention_mask=mask)
        assert watch.looked
        toy.base_model(torch.full((5, 20, 4), float("nan")))
    toy.base_model(torch.full((5, 20, 4), float("nan")))
    assert watch.cause is None


@contextlib.contextmanager
def in_other_words():
    try:
        yield
    except EvaluationError:
        raise ValueError("my own words") from None


@pytest.mark.parametrize("mask", [None, torch.ones(2, 20)])
def test_a_failure_comes_out_even_where_the_scorer_takes_it_for_its_own(mask: torch.Tensor | None) -> None:
    toy = Toy()
    with pytest.raises(EvaluationError, match="NaN or Inf"), Watch(toy), contextlib.suppress(Exception):
        toy.base_model(hidden_states(2, 20) / 0, attention_mask=mask)
    with pytest.raises(EvaluationError, match="NaN or Inf"), Watch(toy), in_other_words():
        toy.base_model(hidden_states(2, 20) / 0)
    with pytest.raises(KeyboardInterrupt), Watch(toy):
        raise KeyboardInterrupt


def test_prompts_are_the_first_search_items_that_say_something() -> None:
    items = [Item(f"s/{n}", "t", "c") for n in range(20)]
    texts = {item.key: item.key if n % 2 else " " for n, item in enumerate(items)}
    found = prompts_of({"search": items, "selection": (), "holdout": ()}, texts)
    assert found == [f"s/{n}" for n in range(1, 2 * PROMPTS, 2)]


@pytest.fixture(scope="module")
def resident():
    made = ResidentModel(EvaluatorEntry(device=DEVICE))
    yield made
    made.close()


def merged(method: str, models: list[str], weight: float, *, normalize: bool = False) -> dict:
    each = [{"model": model, "parameters": {"weight": weight}} for model in models]
    recipe = {"merge_method": method, "models": each, "parameters": {"normalize": normalize}}
    return recipe | ({"base_model": str(MODELS / "base")} if method == "task_arithmetic" else {})


@pytest.mark.parametrize(
    "recipe",
    [
        *({"merge_method": "passthrough", "models": [{"model": model}]} for model in [*PARENTS, str(MODELS / "base")]),
        merged("linear", PARENTS[:1], 1.0),
        merged("linear", PARENTS, 1.0, normalize=True),
        *(merged("task_arithmetic", PARENTS, weight) for weight in (0.3, 0.5, 0.7, 1.0, 1.5)),
    ],
)
def test_no_parent_average_or_task_arithmetic_of_the_tiny_family_has_blown_up(resident, recipe: dict) -> None:
    resident.load(recipe)
    assert resident.blown_up() is None


def test_weights_are_compared_with_the_largest_input_to_the_factor_that_is_said(resident) -> None:
    resident.load(merged("linear", PARENTS[:1], 0.99 * FACTOR))
    assert resident.blown_up() is None
    resident.load(merged("linear", PARENTS[:1], 1.5 * FACTOR))
    assert "has 15 times the norm of the largest of its inputs" in str(resident.blown_up())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_largest_number_of_a_row_is_that_of_torch(dtype: torch.dtype) -> None:
    values = torch.randn(1000, generator=torch.Generator().manual_seed(3)).to(dtype) * 50
    values[77] = -301.25
    kind = np.float32 if dtype == torch.float32 else np.uint16 if dtype == torch.bfloat16 else np.int16
    row = values.view(torch.uint8).numpy().view(kind)
    assert _largest_number(row) == float(values.abs().max()) >= 300
    assert _largest_number(row[:1]) == float(values[0].abs())
    values[3], values[900] = torch.nan, torch.inf
    assert not math.isfinite(_largest_number(row))


def test_of_what_may_have_blown_up_the_norm_is_made(resident, monkeypatch: pytest.MonkeyPatch) -> None:
    """One large number is none: 10 times the norm of the inputs is the limit, whatever their largest number is."""
    resident.load(merged("linear", PARENTS[:1], 0.9 * FACTOR))
    norms, made = torch.linalg.vector_norm, list[int]()
    monkeypatch.setattr(torch.linalg, "vector_norm", lambda *args, **kwargs: made.append(1) or norms(*args, **kwargs))
    assert resident.blown_up() is None
    assert made
    resident.load(merged("linear", PARENTS, 1.0, normalize=True))
    made.clear()
    assert resident.blown_up() is None
    assert made == [] or DEVICE != "cpu"


@pytest.mark.parametrize(
    ("tokens", "looped"),
    [
        ([7] * CONTINUED, True),
        ([7] * (CONTINUED - 1), False),  # it ended by itself
        ([*range(100, 108), *[1, 2, 3] * 8], True),
        ([*range(100, 108), *[1, 2, 3, 4, 5] * 5][:CONTINUED], False),
        ([*[7] * (CONTINUED - 1), 8], False),
        ([], False),
    ],
)
def test_a_loop_is_up_to_four_tokens_that_repeat_until_the_text_is_cut_off(tokens: list[int], looped: bool) -> None:
    assert loops(tokens) == looped


def test_a_model_that_says_one_token_for_ever_only_loops_and_one_that_ends_does_not() -> None:
    tokenizer = make_tokenizer()
    model = make_model(1, tokenizer, tied=False)
    with torch.no_grad():
        model.model.norm.weight.zero_()
        model.lm_head = torch.nn.Linear(16, len(tokenizer))
        model.lm_head.bias.zero_()[5] = 30.0
    model.generation_config.eos_token_id = None
    assert only_loops(model, tokenizer, SAID)
    assert not only_loops(model, tokenizer, [])
    model.generation_config.eos_token_id = 5
    assert not only_loops(model, tokenizer, SAID)


def test_text_is_looked_at_only_where_no_answer_is_better_than_another() -> None:
    assert nothing_right({"a": 0.0, "b": 0.0})
    assert not nothing_right({"a": 0.0, "b": 1.0})
    assert not nothing_right({"a": 1.0, "b": 1.0})
    assert not nothing_right({"a": -2.5, "b": -2.6})
