"""The fixed recipes: what each is, and that the engine reads it."""

from __future__ import annotations

from typing import Any

import pytest
from simulated import make_campaign

from engine.errors import CampaignError
from engine.recipes.reader import parse_recipe
from search.baselines import make_baselines


def labels(**changes: Any) -> list[str]:
    return [baseline.label for baseline in make_baselines(make_campaign(**changes))]


def test_auto_is_base_parents_uniform_five_scales_ties_and_dare() -> None:
    assert labels() == [
        "base",
        "parent letters",
        "parent numerals",
        "parent plurals",
        "uniform",
        *(f"task arithmetic {scale}" for scale in ("0.3", "0.5", "0.7", "0.85", "1")),
        "ties",
        "dare_ties",
    ]


@pytest.mark.parametrize("name", ["ties", "dare_ties"])
def test_ties_and_dare_ties_keep_half_of_every_task_vector_and_are_normalized(name: str) -> None:
    (recipe,) = [baseline.recipe for baseline in make_baselines(make_campaign()) if baseline.label == name]
    assert [model["parameters"] for model in recipe["models"]] == [{"weight": 1.0, "density": 0.5}] * 3
    assert recipe["parameters"] == {"normalize": True}


def test_base_and_parents_are_always_there_and_nothing_is_there_twice() -> None:
    assert labels(baselines=["ties", "parents", "task_arithmetic:0.4", "ties"]) == [
        "base",
        "parent letters",
        "parent numerals",
        "parent plurals",
        "ties",
        "task arithmetic 0.4",
    ]


@pytest.mark.parametrize("dtype", [None, "float32"])
def test_the_engine_reads_every_baseline(dtype: str | None) -> None:
    for baseline in make_baselines(make_campaign(dtype=dtype)):
        recipe = parse_recipe(dict(baseline.recipe))
        assert recipe.dtype == dtype
        models = [str(source.model) for source in recipe.slices[0].sources]
        assert len(models) == (1 if baseline.kind in ("base", "parent") else 3)


def test_a_campaigns_seed_reaches_the_only_random_baseline() -> None:
    seeds = {
        baseline.label: parse_recipe(dict(baseline.recipe)).seed for baseline in make_baselines(make_campaign(seed=5))
    }
    assert seeds["dare_ties"] == 5
    assert set(seeds.values()) == {0, 5}


def test_weights_of_equivalent_task_arithmetic_are_those_of_the_recipe() -> None:
    by_label = {baseline.label: baseline.weights for baseline in make_baselines(make_campaign())}
    assert by_label["base"] == (0, 0, 0)
    assert by_label["parent numerals"] == (0, 1, 0)
    assert by_label["uniform"] == pytest.approx((1 / 3,) * 3)
    assert by_label["task arithmetic 0.85"] == (0.85,) * 3
    assert by_label["ties"] is None


def test_a_search_has_to_beat_the_defaults_of_its_own_method() -> None:
    stages = [{"name": "s"}]
    t = {"low": 0, "high": 1, "start": 0.5}
    slerp = {"method": "slerp", "parameters": {"t": t}, "stages": stages}
    assert labels(space=slerp, sources=["m/a", "m/b"])[-1] == "slerp 0.5"
    karcher = {"method": ["karcher", "model_stock"], "subset": True, "stages": stages}
    assert labels(space=karcher)[-2:] == ["karcher", "model stock"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("slerp", "'slerp' takes 1 to 2 sources, got 3"),
        ("slerp:x", "a number above 0 after 'task_arithmetic:' and 'slerp:' expected"),
        ("karcher:2", "a number above 0 after"),
        ("karchr", "did you mean 'karcher'"),
        ("fisher", "needs an `importance` for every source"),
    ],
)
def test_a_baseline_that_cannot_be_is_refused(name: str, says: str) -> None:
    with pytest.raises(CampaignError, match=rf"simulated.yml: baselines: .*{says}"):
        make_campaign(baselines=[name])
