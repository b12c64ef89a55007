"""One mergekit process merges every recipe of this folder; mergefleet merges them as the tests ask."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from conformance import with_models
from conformance_families import FAMILIES, Case, Merges

from bench import oracle
from engine import merge, parse_recipe

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def merges(tmp_path_factory: pytest.TempPathFactory) -> Merges:
    if not oracle.available():
        pytest.skip("mergekit's environment is absent: `make bench` or `python -m bench.oracle` makes it")
    scratch = tmp_path_factory.mktemp("conformance")
    # mergekit fails on a path with a space in it
    families = {name: make(scratch / name.replace(" ", "-")) for name, make in FAMILIES.items()}
    cases = [case for name in ("cases.yaml", "differences.yaml") for case in yaml.safe_load((HERE / name).read_text())]
    outputs = {case["name"]: scratch / "mergekit" / str(number) for number, case in enumerate(cases)}
    results = oracle.merge_all({outputs[case["name"]]: _recipe(case, families) for case in cases})

    def mergefleet(case: Case) -> Path:
        out = tmp_path_factory.mktemp("mergefleet") / "out"
        merge(parse_recipe(_recipe(case, families), origin=case["name"]), out)
        return out

    errors = {name: results[out] for name, out in outputs.items()}
    return Merges(families, outputs, {name: error for name, error in errors.items() if error}, mergefleet)


def _recipe(case: Case, families: dict[str, dict[str, Path]]) -> Case:
    recipe: Case = with_models(case["recipe"], families[case["family"]])
    return recipe
