"""A crash at every step of an output in a bucket: no manifest or a complete output, and a rerun makes it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from backends import bytes_of
from deaths import merge_dies
from fault_places import Prefix
from tiny_models import vocabulary_model

from engine import Options, ShardSize, failpoints, merge
from engine.remote.clean import clean_url
from engine.remote.url import parse_url

OPTIONS = Options(threads=1, shard_size=ShardSize(1000))
MANY = 40
"""More steps of one kind than a merge of these models has."""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models")
    one, two = (vocabulary_model(place / name, rows=64, seed=seed) for seed, name in enumerate("ab"))
    (place / "r.yml").write_text(
        f"merge_method: linear\nmodels: [{{model: {one}}}, {{model: {two}}}]\nparameters: {{weight: 0.5}}\n"
    )
    return place / "r.yml"


@pytest.fixture(scope="module")
def expected(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return bytes_of(merge(recipe, tmp_path_factory.mktemp("expected") / "OUT", options=OPTIONS).out)  # type: ignore[arg-type]


@pytest.mark.parametrize("step", failpoints.BUCKET)
def test_a_crash_at_every_occurrence_of_a_step_is_made_good_by_a_rerun(
    step: str, recipe: Path, expected: str, bucket: str, s3_endpoint: str
) -> None:
    store = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    for count in range(1, MANY):
        target = Prefix(f"{bucket}/{count}", s3_endpoint)
        died = merge_dies(f"{step}:{count}", recipe, target.out, OPTIONS, store)
        if not target.exists():
            assert not merge_dies(None, recipe, target.out, OPTIONS, store)
        clean_url(parse_url(target.out))
        assert target.digest() == expected
        assert target.rest() == []
        if not died:
            break
    assert count > 1, "no merge comes to this step"
    assert count < MANY - 1
