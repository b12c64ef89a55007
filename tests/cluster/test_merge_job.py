"""Merges on Ray when things go wrong: killed, stopped, blind and mistaken workers, and clusters without room."""

from __future__ import annotations

import importlib
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from backends import MIB, bytes_of, inline, on_ray, recipe_of
from bad_workers import BlindWorker, DyingWorker, OnceStoppedWorker
from processes import actor_pids
from shared_families import shared_family

from cluster import merge_job
from cluster.merge_job import merge_on_ray
from cluster.ray_session import Session
from engine import Options, merge
from engine.errors import ClusterError, PlanError, WorkerLost

pytestmark = pytest.mark.ray
Models = tuple[Path, ...]


@pytest.fixture(scope="module")
def small() -> Models:
    return shared_family("mixed", mixed=True).models


@pytest.fixture(scope="module")
def large() -> Models:
    return shared_family("giant", giant=True).models


def test_a_worker_killed_in_the_middle_changes_nothing(ray_here: Session, large: Models, tmp_path: Path) -> None:
    recipe = recipe_of("linear", large)
    expected = inline(recipe, tmp_path / "expected", Options(threads=2))
    killed: list[int] = []

    def kill_one(done: int, total: int) -> None:
        if done and not killed:
            killed.extend(actor_pids(ray_here, "MergeWorker")[:1])
            os.kill(killed[0], signal.SIGKILL)

    made = on_ray(ray_here.address)(recipe, tmp_path / "made", Options(threads=1, tile_bytes=MIB), kill_one)
    assert killed
    assert bytes_of(made.out) == bytes_of(expected.out)


def test_all_workers_killed_in_the_middle_change_nothing(ray_here: Session, large: Models, tmp_path: Path) -> None:
    recipe = recipe_of("slerp", large)
    expected = inline(recipe, tmp_path / "expected", Options(threads=2))
    killed: list[int] = []

    def kill_all(done: int, total: int) -> None:
        if done and not killed:
            killed.extend(actor_pids(ray_here, "MergeWorker"))
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    made = on_ray(ray_here.address)(recipe, tmp_path / "made", Options(threads=1, tile_bytes=MIB), kill_all)
    assert len(killed) == 2
    assert bytes_of(made.out) == bytes_of(expected.out)


def test_stages_on_ray_are_those_made_in_process(ray_here: Session, small: Models, tmp_path: Path) -> None:
    base, one, two = small[:3]
    (tmp_path / "r.yml").write_text(
        f"name: first\nmerge_method: linear\nmodels: [{{model: {base}, parameters: {{weight: 0.25}}}},"
        f" {{model: {one}, parameters: {{weight: 0.75}}}}]\n---\nmerge_method: slerp\nbase_model: {two}\n"
        f"models: [{{model: {two}}}, {{model: first}}]\nparameters: {{t: 0.5}}\n"
    )
    expected = merge(tmp_path / "r.yml", tmp_path / "expected", options=Options(threads=1))
    made = on_ray(ray_here.address, workers=1)(tmp_path / "r.yml", tmp_path / "made", Options(threads=1))
    assert [stage.weights_digest for stage in made.stages] == [stage.weights_digest for stage in expected.stages]
    assert made.weights_digest == expected.weights_digest
    again = on_ray(ray_here.address, workers=1)(
        tmp_path / "r.yml", tmp_path / "again", Options(threads=1, intermediate_dir=tmp_path / "made.stages")
    )
    assert [stage.made for stage in again.stages] == [False]
    assert again.weights_digest == expected.weights_digest


def test_workers_that_always_die_end_the_job_with_their_last_words(
    ray_here: Session, small: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge_job, "MergeWorker", DyingWorker)
    monkeypatch.setattr(merge_job, "MAX_ATTEMPTS", 2)
    with pytest.raises(WorkerLost, match="2 times while making model") as caught:
        on_ray(ray_here.address, workers=1)(recipe_of("linear", small), tmp_path / "out", Options(threads=1))
    assert "these are my last words" in caught.value.log
    assert (tmp_path / "out.partial").is_dir()
    assert not (tmp_path / "out").exists()


def test_a_worker_that_stops_answering_is_given_up(
    ray_here: Session, small: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge_job, "MergeWorker", OnceStoppedWorker)
    monkeypatch.setattr(merge_job, "PATIENCE_S", 2.0)
    recipe = recipe_of("ties", small)
    expected = inline(recipe, tmp_path / "expected", Options(threads=1))
    try:
        made = on_ray(ray_here.address, workers=1)(recipe, tmp_path / "made", Options(threads=1))
    finally:
        stopped = int((tmp_path / "stopped.pid").read_text())
        if Path(f"/proc/{stopped}").exists():
            os.kill(stopped, signal.SIGKILL)
    assert bytes_of(made.out) == bytes_of(expected.out)


def test_a_node_that_does_not_see_the_output_ends_the_job_and_leaves_nothing(
    ray_here: Session, small: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge_job, "MergeWorker", BlindWorker)
    with pytest.raises(ClusterError, match="node blind: /mnt/elsewhere") as caught:
        on_ray(ray_here.address)(recipe_of("linear", small), tmp_path / "out", Options(threads=1))
    assert type(caught.value) is ClusterError
    assert caught.value.node == "blind"
    assert list(tmp_path.iterdir()) == []


def test_a_node_without_this_software_is_said(
    ray_here: Session, small: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_here.py").write_text("from cluster.actors import MergeWorker\nclass Own(MergeWorker): pass\n")
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        patch.setattr(merge_job, "MergeWorker", importlib.import_module("only_here").Own)
        with pytest.raises(ClusterError, match=r"No module named 'only_here'\. Is the same mergefleet installed"):
            on_ray(ray_here.address)(recipe_of("linear", small), tmp_path / "out", Options(threads=1))
    assert not (tmp_path / "out.partial").exists()


def test_too_little_memory_for_the_workers_threads_is_said_and_leaves_nothing(
    ray_here: Session, small: Models, tmp_path: Path
) -> None:
    options = Options(threads=4, memory_bytes=30 * MIB)
    with pytest.raises(PlanError, match="4 threads of a worker need"):
        on_ray(ray_here.address, workers=1)(recipe_of("ties", small), tmp_path / "out", options)
    assert list(tmp_path.iterdir()) == []


def test_a_cluster_without_room_is_not_waited_for_for_ever(
    ray_here: Session, small: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setattr(merge_job, "START_S", 2.0)

    class Guest:
        def there(self) -> bool:
            return True

    guest: Any = ray.remote(Guest).options(num_cpus=1).remote()
    assert ray.get(guest.there.remote())
    try:
        with pytest.raises(ClusterError, match="no worker could be started within 2 s; each asks for 8 processors"):
            merge_on_ray(recipe_of("linear", small), tmp_path / "out", address=ray_here.address)
    finally:
        ray.kill(guest)
    assert list(tmp_path.iterdir()) == []


def test_an_address_that_is_wrong_is_refused_before_anything_is_written(small: Models, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="ray job submit"):
        merge_on_ray(recipe_of("linear", small), tmp_path / "out", address="ray://head:10001")
    assert list(tmp_path.iterdir()) == []


def test_progress_counts_the_bytes_of_all_tiles(ray_here: Session, small: Models, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    made = on_ray(ray_here.address, workers=1)(
        recipe_of("linear", small), tmp_path / "out", Options(threads=1), lambda done, total: seen.append((done, total))
    )
    assert seen[0][0] == 0
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]
    assert len(seen) == made.tiles + 1
