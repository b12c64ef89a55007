"""engine.merge of the element-wise methods against their formulas in float64."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import element_oracles as oracles
import pytest
from method_oracles import Expected, Values
from oracle_runs import assert_merge_is_formula, source

from bench.families import Family
from engine import parse_recipe

DTYPES = (None, "bfloat16", "float64")
"""None: bfloat16, float16 and float32 tensors as they are stored."""
METHODS: dict[str, tuple[dict[str, Any], int, Callable[[Values, list[Values]], Expected]]] = {
    "nearswap": ({"t": 0.0007}, 1, lambda b, xs: oracles.nearswap(b, xs[0], 0.0007)),
    "ram": ({"epsilon": 0.0013}, 2, lambda b, xs: oracles.ram(b, xs, 0.0013)),
    "ramplus_tl": (
        {"epsilon": 0.0013, "r": 0.4, "alpha": 0.9},
        2,
        lambda b, xs: oracles.ramplus_tl(b, xs, r=0.4, alpha=0.9, epsilon=0.0013),
    ),
    "arcee_fusion": ({}, 1, lambda b, xs: oracles.arcee_fusion(b, xs[0])),
}
"""Settings, number of fine-tunes, formula."""


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", METHODS)
def test_a_merge_equals_the_formula_in_float64_rounded_once(
    method: str, dtype: str | None, family: Family, tmp_path: Path
) -> None:
    settings, tunes, formula = METHODS[method]
    base, *others = map(str, family.models)
    data: dict[str, Any] = {"merge_method": method, "base_model": base, "parameters": settings}
    data["models"] = [source(path) for path in others[:tunes]]
    recipe = parse_recipe(data | ({"dtype": dtype} if dtype else {}), origin="test")
    assert_merge_is_formula(recipe, family, lambda tensor, base, xs: formula(base, xs), tmp_path / "out")
