"""The search benchmark: its fast evaluator answers what lm-eval answers, and its runs count what they use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.search_best import parents
from bench.search_evaluator import FastEvaluator, ItemCache
from bench.search_families import Family, campaign
from bench.search_forward import FastForward, make_tree
from bench.search_runs import run_ours, run_peer
from search.evaluators.resident import open_evaluator
from search.ports import BlockResult, Work
from search.space import make_space

FAMILY = Family("tiny", 0)
ITEMS = 60


@pytest.fixture(scope="module")
def fast(tmp_path_factory: pytest.TempPathFactory) -> FastEvaluator:
    cache = ItemCache(tmp_path_factory.mktemp("cache") / "scores.sqlite")
    return FastEvaluator(FAMILY, campaign(FAMILY, seed=0, items=10_000), cache=cache)


def candidates() -> dict[str, dict[str, Any]]:
    """A parent, weights that differ by layer and module, and a merge that only the engine makes."""
    setup = campaign(FAMILY, seed=0, items=10_000)
    space = make_space(setup, layers=3)
    weights = {axis.name: 0.2 + 0.05 * (number % 17) for number, axis in enumerate(space.stages[1].axes)}
    ties = {
        "merge_method": "ties",
        "base_model": setup.base_model,
        "models": [{"model": source.model, "parameters": {"weight": 1.0, "density": 0.5}} for source in setup.sources],
        "parameters": {"normalize": True},
        "dtype": "float32",
    }
    return {"parent": parents(FAMILY)["plurals"], "layers": space.recipe(1, weights), "ties": ties}


@pytest.mark.parametrize("name", ["parent", "layers", "ties"])
def test_scores_are_those_of_the_products_evaluator_with_lm_eval(
    name: str, fast: FastEvaluator, tmp_path: Path
) -> None:
    recipe = candidates()[name]
    items = fast.items("search", ITEMS // 3)
    product = open_evaluator(campaign(FAMILY, seed=0, items=10_000), audit=tmp_path / "audit.jsonl")
    planned = product.resident._plans.hash_of(recipe)
    work = Work(0, recipe, planned, "search", 0, items, "1.1", 1, 1)
    result = product.evaluate(work)
    assert isinstance(result, BlockResult), result
    assert fast.scores(recipe, items) == result.scores
    assert 0.2 <= sum(result.scores.values()) / ITEMS <= 0.95


def test_items_that_begin_alike_share_their_beginning_and_keep_their_own_targets() -> None:
    tree = make_tree([((1, 2, 3), (7, 9)), ((1, 2, 4), (8, 9)), ((1, 2, 3), (5, 9))])
    assert len(tree.tokens_S) == 7  # 1, 2, 3, 7, 4, 8, 5
    assert tree.targets_A.tolist() == [7, 9, 8, 9, 5, 9]
    assert tree.owner_A.tolist() == [0, 0, 1, 1, 2, 2]
    assert tree.tokens_S[tree.asked_A].tolist() == [3, 7, 4, 8, 3, 5]


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox"])
def test_one_pass_over_a_tree_says_what_greedy_decoding_says(architecture: str) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
    shape = AutoConfig.for_model(
        architecture, vocab_size=11, tie_word_embeddings=architecture == "llama", max_position_embeddings=32, **sizes
    )
    model = AutoModelForCausalLM.from_config(shape, dtype=torch.float32).eval()
    prompts = [(1, 2, 3), (1, 2), (4, 2, 3, 5), (1, 2, 3, 6)]
    greedy = [
        tuple(model.generate(torch.tensor([prompt]), max_new_tokens=3, do_sample=False, eos_token_id=None)[0].tolist())
        for prompt in prompts
    ]
    pairs = [(prompt, answer[len(prompt) :]) for prompt, answer in zip(prompts, greedy, strict=True)]
    wrong = [(prompt, (*answer[:-1], (answer[-1] + 1) % 11)) for prompt, answer in pairs]
    names = {"lm_head.weight": "embed_out.weight"} if architecture == "gpt_neox" else {}
    weights = {names.get(name, name): value for name, value in model.state_dict(keep_vars=True).items()}
    forward = FastForward(model, weights)
    assert forward.exact(make_tree(pairs)) == [True] * 4
    assert forward.exact(make_tree(wrong)) == [False] * 4
    assert forward.exact(make_tree([pairs[0], wrong[1], pairs[2]])) == [True, False, True]


def test_a_run_of_ours_is_answered_by_the_cache_when_it_is_made_again(fast: FastEvaluator) -> None:
    setup = campaign(FAMILY, seed=3, items=1_200)
    before = fast.scored
    first = run_ours(setup, fast)
    spent = [choice.spent for choice in first]
    assert spent == sorted(spent)
    assert 300 <= spent[0] < spent[-1] <= 1_200
    assert first[-1].stage == "layers"
    assert fast.scored - before <= 1_200 + 450  # and the first selection unit, at which the look stops it
    scored = fast.scored
    assert run_ours(setup, fast) == first
    assert fast.scored == scored


def test_the_peer_counts_every_candidate_in_full_and_chooses_what_scored_best(fast: FastEvaluator) -> None:
    setup = campaign(FAMILY, seed=3, items=13 * 30 * 2)
    choices = list(run_peer(setup, fast, per_skill=10))
    items = fast.items("search", 10)
    scores = [fast.mean(choice.recipe, items) for choice in choices]
    assert scores == sorted(set(scores))
    assert choices[0].spent == 30
    assert all(choice.spent % 30 == 0 and choice.spent <= 780 for choice in choices)
