"""The spherical methods: against their float64 formulas, and where angles and directions come to an end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import spherical_oracles as oracles
from method_oracles import Expected, Values
from oracle_runs import assert_merge_is_formula, source

from bench.families import Family
from engine import parse_recipe

WEIGHTS = (0.7, 0.4)
Formula = Callable[[Values, list[Values]], Expected]

ROWS, COLUMNS = {"nuslerp_flatten": False}, {"nuslerp_flatten": False, "nuslerp_row_wise": True}
WHOLE: dict[str, tuple[dict[str, Any], Formula]] = {
    "nuslerp": ({}, lambda b, xs: oracles.nuslerp(xs, WEIGHTS)),
    "nuslerp, based": ({}, lambda b, xs: oracles.nuslerp(xs, WEIGHTS, b)),
    "multislerp": ({"eps": 1e-3}, lambda b, xs: oracles.multislerp([b, *xs], (0.25, *WEIGHTS), eps=1e-3)),
    "multislerp, based": (
        {"normalize_weights": False},
        lambda b, xs: oracles.multislerp(xs, WEIGHTS, b, normalize=False),
    ),
    "karcher": ({}, lambda b, xs: oracles.karcher([b, *xs])),
    "karcher, one step": (
        {"max_iter": 1, "tol": 1e-7},
        lambda b, xs: oracles.karcher([b, *xs], max_iter=1, tol=1e-7),
    ),
    "model_stock, based": ({}, lambda b, xs: oracles.model_stock(b, xs)),
}
APART: dict[str, tuple[dict[str, Any], Formula]] = {
    "nuslerp": (ROWS, lambda b, xs: oracles.nuslerp(xs, WEIGHTS, axis=-1)),
    "nuslerp, based": (ROWS, lambda b, xs: oracles.nuslerp(xs, WEIGHTS, b, axis=-1)),
    "nuslerp, columns": (COLUMNS, lambda b, xs: oracles.nuslerp(xs, WEIGHTS, axis=0)),
    "nuslerp, columns, based": (COLUMNS, lambda b, xs: oracles.nuslerp(xs, WEIGHTS, b, axis=0)),
    "model_stock, based": ({"filter_wise": True}, lambda b, xs: oracles.model_stock(b, xs, axis=-1)),
}


@pytest.mark.parametrize("dtype", [None, "float64"])
@pytest.mark.parametrize("case", WHOLE)
def test_a_merge_of_whole_tensors_is_the_formula_rounded_once(
    case: str, dtype: str | None, family: Family, tmp_path: Path
) -> None:
    _assert_formula(case, dtype, family, tmp_path, *WHOLE[case])


@pytest.mark.parametrize("case", APART)
def test_a_merge_by_row_or_column_is_the_formula_rounded_once(case: str, family: Family, tmp_path: Path) -> None:
    _assert_formula(case, None, family, tmp_path, *APART[case])


def _assert_formula(
    case: str, dtype: str | None, family: Family, tmp_path: Path, settings: dict[str, Any], formula: Formula
) -> None:
    method = case.split(",")[0]
    base, *tunes = map(str, family.models)
    weighted = method in ("nuslerp", "multislerp")
    listed = list(zip(tunes, WEIGHTS, strict=True))
    if case.startswith(("multislerp", "karcher")) and "based" not in case:
        listed.insert(0, (base, 0.25))
    data = {
        "merge_method": method,
        "models": [source(path, weight=weight) if weighted else source(path) for path, weight in listed],
        "parameters": settings,
        **({"base_model": base} if "based" in case else {}),
        **({"dtype": dtype} if dtype else {}),
    }
    recipe = parse_recipe(data, origin="test")
    assert_merge_is_formula(recipe, family, lambda name, b, xs: formula(b, xs), tmp_path / "out")
