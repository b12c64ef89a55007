"""A tensor measured in shares, in any order and some of them twice, has the facts that one thread measures."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from backends import MIB, recipe_of
from shared_families import shared_family

from cluster import sharding
from cluster.giants import Giant
from cluster.sharding import units
from engine import Options
from engine.execution.execute import Hooks, Work, execute
from engine.execution.shares import measure_share
from engine.methods.contract import Facts
from engine.outputs.job import Job


@pytest.fixture(params=["ties", "slerp", "sce", "della", "dare_linear", "nuslerp"])
def job(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Job]:
    models = shared_family("mixed", mixed=True).models
    columns = {"parameters": {"nuslerp_row_wise": False, "nuslerp_flatten": False}}
    recipe = recipe_of(request.param, models, **(columns if request.param == "nuslerp" else {}))
    with Job.prepare(recipe, tmp_path / "out", Options(threads=1, tile_bytes=MIB)) as job:
        yield job


def test_shares_in_any_order_make_the_facts_of_one_thread(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharding, "MAX_CHUNK_BYTES", 4 * MIB)
    owned: dict[int, Facts] = {}
    execute(job.plan, job.checkpoints, job.sink, work=Work(threads=1), hooks=Hooks(on_facts=owned.__setitem__))
    chance = random.Random(1)
    for index, expected in owned.items():
        giant = Giant(job.plan, index)
        todo = giant.go_on()
        while not giant.measured:
            shares = todo + chance.choices(todo, k=1)
            chance.shuffle(shares)
            partials = [
                measure_share(
                    job.plan,
                    job.checkpoints,
                    (index, share.stage or 0, share.blocks),
                    facts=dict(giant.facts),
                    work=Work(threads=1),
                )
                for share in shares
            ]
            done = [giant.add(share, partial) for share, partial in zip(shares, partials, strict=True)]
            assert sum(done) == 1
            todo = giant.go_on()
        assert giant.facts.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(giant.facts[name], value)
        tiles = {tile.number for tile in job.plan.tiles if tile.tensor == index}
        assert {number for unit in todo for number in unit.tiles} == tiles


def test_tiles_that_are_done_are_not_asked_for_again(job: Job) -> None:
    plan = job.plan
    index = max((unit.tensor for unit in units(plan) if plan.passes[unit.tensor].at_most), default=None)
    if index is None:
        pytest.skip("this method measures nothing here")
    done = [tile.number for tile in plan.tiles if tile.tensor == index]
    giant = Giant(plan, index, done=done)
    todo = giant.go_on()
    while not giant.measured:
        for share in todo:
            stage = plan.method.stages(plan.tensors[index].call)[share.stage or 0]  # type: ignore[arg-type]
            shape = stage.shape(plan.tensors[index].call)  # type: ignore[arg-type]
            slots = (len(share.blocks), *shape) if stage.partial == "per_block" else shape
            giant.add(share, np.zeros(slots, stage.dtype))
        todo = giant.go_on()
    assert todo == []
