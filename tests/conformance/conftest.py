"""One mergekit process merges every recipe of this folder; mergefleet merges them as the tests ask."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from conformance import with_models
from conformance_architectures import MAKERS
from conformance_families import FAMILIES, Case, Merges

from bench import oracle
from engine import make_plan, merge, open_checkpoints, parse_recipe
from engine.planning.plan import Plan

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def merges(tmp_path_factory: pytest.TempPathFactory) -> Merges:
    """The recipes that were written down."""
    cases = [case for name in ("cases.yaml", "differences.yaml") for case in yaml.safe_load((HERE / name).read_text())]
    return _merged(cases, FAMILIES, tmp_path_factory)


@pytest.fixture(scope="session")
def drawn_merges(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Merges:
    """Those recipes of test_drawn.py that this session asks for."""
    items = [item for item in request.session.items if item.path.name == "test_drawn.py" and hasattr(item, "callspec")]
    return _merged([item.callspec.params["case"] for item in items], MAKERS, tmp_path_factory)


def _merged(cases: list[Case], makers: Mapping[str, Any], factory: pytest.TempPathFactory) -> Merges:
    if not oracle.available():
        pytest.skip("mergekit's environment is absent: `make oracle` makes it")
    scratch = factory.mktemp("conformance")
    # mergekit fails on a path with a space in it
    families = {
        name: make(scratch / name.replace(" ", "-"))
        for name, make in makers.items()
        if any(case["family"] == name for case in cases)
    }
    outputs = {case["name"]: scratch / "mergekit" / str(number) for number, case in enumerate(cases)}
    results = oracle.merge_all({outputs[case["name"]]: _recipe(case, families) for case in cases})

    def mergefleet(case: Case) -> Path:
        out = factory.mktemp("mergefleet") / "out"
        merge(parse_recipe(_recipe(case, families), origin=case["name"]), out)
        return out

    def plan(case: Case) -> Plan:
        recipe = parse_recipe(_recipe(case, families), origin=case["name"])
        return make_plan(recipe, open_checkpoints(recipe.models))

    errors = {name: results[out] for name, out in outputs.items()}
    return Merges(families, outputs, {name: error for name, error in errors.items() if error}, mergefleet, plan)


def _recipe(case: Case, families: dict[str, dict[str, Path]]) -> Case:
    recipe: Case = with_models(case["recipe"], families[case["family"]])
    return recipe
