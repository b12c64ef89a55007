"""What candidates' plans cost: counted, not timed."""

from __future__ import annotations

import random
from typing import Any

import pytest

from engine.planning import outline
from engine.planning.planner import make_plan
from engine.recipes.reader import parse_recipe
from search.campaign_file import load_campaign
from search.evaluators import plans as plans_of_search
from search.evaluators.plans import Plans
from search.space import Space
from search.starting import space_of

CAMPAIGN = "configs/campaigns/demo.yml"


def drawn(space: Space, stage: int, number: int) -> dict[str, Any]:
    draw = random.Random(f"{stage} {number}")
    return space.recipe(stage, {axis.name: axis.at(draw.random()) for axis in space.stages[stage].axes})


def test_a_stage_is_read_and_planned_once_however_many_candidates_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    planned, read = [], []

    def counted(*args: Any) -> Any:
        planned.append(args)
        return make_plan(*args)

    def counted_reading(*args: Any, **options: Any) -> Any:
        read.append(args)
        return parse_recipe(*args, **options)

    monkeypatch.setattr(plans_of_search, "make_plan", counted)
    monkeypatch.setattr(plans_of_search, "parse_recipe", counted_reading)
    monkeypatch.setattr(outline, "parse_recipe", counted_reading)
    plans = Plans()
    space = space_of(load_campaign(CAMPAIGN), plans)
    hashes = {plans.hash_of(drawn(space, stage, number)) for stage in (0, 1) for number in range(20)}
    assert len(hashes) == 40
    assert len(planned) == 2
    assert len(read) == 6  # for the plan, for the outline, and to see what each number is for
    whole = Plans()
    assert {whole.hash_of(drawn(space, 1, number)) for number in (3, 7)} <= hashes
    plans.close()
