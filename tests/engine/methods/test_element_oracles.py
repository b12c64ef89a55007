"""engine.merge of the element-wise methods against their formulas in float64."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import element_oracles as oracles
import pytest
from method_oracles import Expected, Values
from oracle_runs import DTYPES, assert_merge_is_formula, source

from bench.families import Family
from engine import make_plan, open_checkpoints, parse_recipe
from engine.errors import PlanError

METHODS: dict[str, tuple[dict[str, Any], int, Callable[[Values, list[Values]], Expected]]] = {
    "nearswap": ({"t": 0.0007}, 1, lambda b, xs: oracles.nearswap(b, xs[0], 0.0007)),
    "ram": ({"epsilon": 0.0013}, 2, lambda b, xs: oracles.ram(b, xs, 0.0013)),
    "ramplus_tl": (
        {"epsilon": 0.0013, "r": 0.4, "alpha": 0.9},
        2,
        lambda b, xs: oracles.ramplus_tl(b, xs, r=0.4, alpha=0.9, epsilon=0.0013),
    ),
    "consensus_ta": (
        {"weight": [0.7, 0.4], "mask_share": [0.3, 0.6], "k": 2, "lambda": 0.8},
        2,
        lambda b, xs: oracles.consensus_ta(b, xs, (0.7, 0.4), (0.3, 0.6), k=2, scale=0.8),
    ),
    "emr": ({"weight": [0.7, 0.4], "lambda": 0.8}, 2, lambda b, xs: oracles.emr(b, xs, (0.7, 0.4), scale=0.8)),
    "emr, rebuilding one model": ({"weight": [0, 1]}, 2, lambda b, xs: oracles.emr(b, xs, (0, 1), scale=1.0)),
    "arcee_fusion": ({}, 1, lambda b, xs: oracles.arcee_fusion(b, xs[0])),
}
"""Settings (a list: per fine-tune), number of fine-tunes, formula."""


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", METHODS)
def test_a_merge_equals_the_formula_in_float64_rounded_once(
    method: str, dtype: str | None, small_family: Family, tmp_path: Path
) -> None:
    settings, tunes, formula = METHODS[method]
    base, *others = map(str, small_family.models)
    shared = {name: value for name, value in settings.items() if not isinstance(value, list)}
    own = {name: value for name, value in settings.items() if isinstance(value, list)}
    models = [source(path, **{name: own[name][j] for name in own}) for j, path in enumerate(others[:tunes])]
    data = {"merge_method": method.split(",")[0], "base_model": base, "parameters": shared, "models": models}
    recipe = parse_recipe(data | ({"dtype": dtype} if dtype else {}), origin="test")
    assert_merge_is_formula(recipe, small_family, lambda tensor, base, xs: formula(base, xs), tmp_path / "out")


def test_a_consensus_of_more_models_than_take_part_is_refused(small_family: Family) -> None:
    base, first, second = map(str, small_family.models)
    data = {"merge_method": "consensus_ta", "base_model": base, "parameters": {"k": 3}}
    recipe = parse_recipe(data | {"models": [source(first), source(second)]}, origin="r.yml")
    with pytest.raises(PlanError, match=r"^r.yml: tensor '.*': k is 3, but only 2 models have a weight other than 0: "):
        make_plan(recipe, open_checkpoints(recipe.models))
