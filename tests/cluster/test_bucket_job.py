"""Merges on Ray into an object store: every file streamed whole by one worker, the bytes of a local merge."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from backends import recipe_of
from s3_server import objects, uploads
from shared_families import shared_family

from cluster.sharding import file_units, units
from engine import Options, ShardSize, merge, recipe_to_dict
from engine.models.checkpoint import open_checkpoints
from engine.planning.planner import make_plan
from engine.remote.layout import MANIFEST

ROOT = Path(__file__).parents[2]
MIB = 1 << 20


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`mergefleet ...` in a process of its own, whose Ray inherits the variables that lead to the bucket."""
    line = [sys.executable, "-c", "from cluster.entry import run; run()", *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(line, cwd=ROOT, env=env, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.ray
@pytest.mark.slow
def test_workers_stream_the_files_of_a_local_merge(bucket: str, tmp_path: Path) -> None:
    recipe = recipe_of("slerp", shared_family("mixed", mixed=True).models)
    (tmp_path / "recipe.yml").write_text(json.dumps(recipe_to_dict(recipe)))
    line = ("merge", str(tmp_path / "recipe.yml"), f"{bucket}/out", "--out-shard-size", "3MiB", "--json")
    done = command(*line, "--address", "local", "--workers", "2", "--threads", "1")
    assert done.returncode == 0, done.stderr
    expected = merge(recipe, tmp_path / "out", options=Options(shard_size=ShardSize(3 * MIB)))
    there = objects(f"{bucket}/out")
    assert json.loads(done.stdout)["weights"] == expected.weights_digest
    assert json.loads(done.stdout)["out"] == f"{bucket}/out"
    assert set(there) == {path.name for path in (tmp_path / "out").iterdir()} | {MANIFEST}
    for path in (tmp_path / "out").glob("*.safetensors"):
        assert there[path.name] == path.read_bytes()
    assert uploads(bucket) == []
    again = command(*line)
    assert again.returncode == 3
    assert "an output is there already" in again.stdout + again.stderr


def test_a_file_is_one_unit_with_all_that_moves_for_it() -> None:
    recipe = recipe_of("ties", shared_family("mixed", mixed=True).models)
    checkpoints = open_checkpoints(recipe.opened)
    plan = make_plan(recipe, checkpoints, Options(shard_size=ShardSize(3 * MIB), tile_bytes=MIB))
    found = file_units(plan)
    assert len(found) == len(plan.files) > 2
    assert sorted(number for unit in found for number in unit.tiles) == [tile.number for tile in plan.tiles]
    for unit in found:
        assert len({plan.tensors[plan.tiles[number].tensor].file for number in unit.tiles}) == 1
    assert sum(unit.weight for unit in found) == sum(unit.weight for unit in units(plan))
    assert any(plan.passes[index].as_a_rule for index in range(len(plan.tensors)))
    done = set(found[0].tiles)
    assert file_units(plan, done=done) == found[1:]
