"""Which files are near, and that work goes there exactly where nodes differ."""

from __future__ import annotations

from pathlib import Path

import pytest
from backends import recipe_of
from shared_families import shared_family

from cluster.locality import homes, is_local, mounted, near_files
from cluster.sharding import units
from engine import Options
from engine.outputs.job import Job

MOUNTS = """\
overlay / overlay rw 0 0
server:/models /mnt/shared nfs4 rw,vers=4.2 0 0
/dev/nvme0n1 /mnt/shared/scratch ext4 rw 0 0
bucket /mnt/a\\040bucket fuse.gcsfuse ro 0 0
"""


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/root/.cache/huggingface/hub/m.safetensors", True),
        ("/mnt/shared/m.safetensors", False),
        ("/mnt/shared/scratch/m.safetensors", True),
        ("/mnt/a bucket/m.safetensors", False),
    ],
)
def test_a_file_is_near_where_its_file_system_needs_no_network(path: str, expected: bool) -> None:
    assert is_local(Path(path), mounted(MOUNTS)) == expected


def test_work_goes_to_workers_that_have_more_of_its_files_and_nowhere_if_all_have_the_same(tmp_path: Path) -> None:
    models = shared_family("mixed", mixed=True).models
    with Job.prepare(recipe_of("linear", models), tmp_path / "out", Options(threads=1)) as job:
        sources = [job.checkpoints[ref] for ref in job.plan.sources]
        files = near_files(sources)
        assert files == {f"{model}/model.safetensors" for model in models}
        one = {f"{models[0]}/model.safetensors"}
        merged = next(unit for unit in units(job.plan) if len(job.plan.tensors[unit.tensor].inputs) == len(models))
        where = homes(job.plan, sources, {4: set(), 5: files, 6: one})
        assert where is not None
        assert list(where(merged)) == [5]
        assert homes(job.plan, sources, {4: files, 5: files}) is None
        assert homes(job.plan, sources, {4: set(), 5: set()}) is None
        nowhere = homes(job.plan, sources, {4: {"/else/where"}, 5: set()})
        assert nowhere is not None
        assert list(nowhere(merged)) == []
