"""Merges on Ray when things go wrong: killed, stopped, blind and mistaken workers, and clusters without room."""

from __future__ import annotations

import importlib
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml
from backends import MIB, bytes_of, inline, on_ray, recipe_of
from bad_workers import BlindWorker, DyingWorker, NeverOwnsWorker, OnceStoppedWorker, UnmountedWorker
from processes import actor_pids
from shared_families import shared_family

from cluster import drive, pace, roster, sharding
from cluster.merge_job import merge_on_ray
from cluster.merge_status import Status
from cluster.placement import Request
from cluster.ray_session import Session
from engine import Options, merge, recipe_to_dict
from engine.errors import ClusterError, PlanError, TileFailed

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


def test_a_tile_that_kills_its_workers_ends_the_job_by_name_and_with_their_last_words(
    ray_here: Session, small: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roster, "MergeWorker", DyingWorker)
    with pytest.raises(TileFailed, match=r"tensor 'model.*', tile 3 \(blocks 0 to \d+\), failed wherever") as caught:
        on_ray(ray_here.address, workers=1)(recipe_of("linear", small), tmp_path / "out", Options(threads=1))
    assert "these are my last words" in caught.value.log
    assert (tmp_path / "out.partial").is_dir()
    assert not (tmp_path / "out").exists()


def test_what_a_stopped_worker_had_is_made_by_another_without_waiting_for_it(
    ray_here: Session, large: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roster, "MergeWorker", OnceStoppedWorker)
    monkeypatch.setattr(sharding, "MIN_CHUNK_BYTES", MIB)
    monkeypatch.setattr(pace, "OVERDUE_S", 1.0)  # while PATIENCE_S stays what it is: minutes
    recipe = recipe_of("linear", large)
    expected = inline(recipe, tmp_path / "expected", Options(threads=2))
    seen: list[Status] = []
    try:
        made = on_ray(ray_here.address)(
            recipe, tmp_path / "made", Options(threads=1, tile_bytes=MIB), watch=seen.append
        )
    finally:
        os.kill(int((tmp_path / "stopped.pid").read_text()), signal.SIGKILL)
    assert bytes_of(made.out) == bytes_of(expected.out)
    assert sum(count.workers_lost for count in seen[-1].nodes.values()) == 0


def test_a_worker_that_is_told_to_go_finishes_its_tile_and_loses_nothing(
    ray_here: Session, large: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharding, "MIN_CHUNK_BYTES", MIB)
    recipe = recipe_of("dare_ties", large)
    expected = inline(recipe, tmp_path / "expected", Options(threads=2))
    seen: list[Status] = []

    def tell_one(status: Status) -> None:
        if not seen:
            os.kill(actor_pids(ray_here, "MergeWorker")[0], signal.SIGTERM)
        seen.append(status)

    made = on_ray(ray_here.address)(recipe, tmp_path / "made", Options(threads=1, tile_bytes=MIB), watch=tell_one)
    assert bytes_of(made.out) == bytes_of(expected.out)
    assert sum(count.workers_lost + count.tiles_retried for count in seen[-1].nodes.values()) == 0


def test_a_tensor_too_heavy_for_one_worker_is_measured_by_all(
    ray_here: Session, large: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roster, "MergeWorker", NeverOwnsWorker)
    monkeypatch.setattr(sharding, "MIN_CHUNK_BYTES", MIB)
    monkeypatch.setattr(sharding, "MAX_CHUNK_BYTES", 16 * MIB)
    for method in ("ties", "slerp"):
        recipe = recipe_of(method, large)
        expected = inline(recipe, tmp_path / f"expected {method}", Options(threads=2))
        tight = Options(threads=1, tile_bytes=MIB, memory_bytes=24 * MIB)  # a tenth of the tensor's inputs
        made = on_ray(ray_here.address)(recipe, tmp_path / method, tight)
        assert bytes_of(made.out) == bytes_of(expected.out)


def test_an_error_that_nobody_foresaw_ends_the_job_by_the_tiles_name(
    ray_here: Session, small: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roster, "MergeWorker", UnmountedWorker)
    with pytest.raises(TileFailed, match=r"failed wherever it was tried, last on .*: OSError: \[Errno 5\]") as caught:
        on_ray(ray_here.address)(recipe_of("linear", small), tmp_path / "out", Options(threads=1))
    assert "Input/output error" in caught.value.log


def test_a_worker_that_stops_answering_is_given_up(
    ray_here: Session, small: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roster, "MergeWorker", OnceStoppedWorker)
    monkeypatch.setattr(pace, "PATIENCE_S", 6.0)  # a busy machine may keep a living worker for a few
    monkeypatch.setattr(pace, "SLOWEST", 10**9)
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
    monkeypatch.setattr(roster, "MergeWorker", BlindWorker)
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
        patch.setattr(roster, "MergeWorker", importlib.import_module("only_here").Own)
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

    monkeypatch.setattr(drive, "START_S", 2.0)

    class Guest:
        def there(self) -> bool:
            return True

    guest: Any = ray.remote(Guest).options(num_cpus=1).remote()
    assert ray.get(guest.there.remote())
    try:
        with pytest.raises(
            ClusterError,
            match=r"within 2 s; each asks for 8 processors, the cluster has .* \(8\)",
        ):
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


def test_a_request_that_no_node_fits_is_refused_and_leaves_nothing(
    ray_here: Session, small: Models, tmp_path: Path
) -> None:
    request = Request(cpus=64, labels={"zone": "eu"})
    with pytest.raises(ClusterError, match=r"64 processors and zone=eu fits on no node .*\(8 processors, zone=nothing"):
        merge_on_ray(recipe_of("linear", small), tmp_path / "out", address=ray_here.address, request=request)
    assert list(tmp_path.iterdir()) == []


def test_the_example_of_the_docs_runs(
    ray_here: Session,
    small: Models,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text()
    (text,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    expected = inline(recipe_of("linear", small), tmp_path / "expected", Options(threads=1))
    monkeypatch.chdir(tmp_path)
    Path("recipe.yml").write_text(yaml.safe_dump(recipe_to_dict(recipe_of("linear", small))))
    exec(compile(text, "docs/cluster.md", "exec"), {})
    assert capsys.readouterr().out == f"{expected.weights_digest}\n"
