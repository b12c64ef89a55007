"""The merge worker as the plain class it is: what it refuses, and that writing twice is writing once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from backends import MIB, bytes_of, recipe_of

from bench.torture import torture_family
from cluster import actors
from cluster.actors import MergeTask, MergeWorker
from engine import Executed, Options, Recipe, merge, recipe_to_dict
from engine.errors import ClusterError, PlanError
from engine.outputs.job import Job

MODELS = 3


@pytest.fixture
def models(tmp_path: Path) -> tuple[Path, ...]:
    return torture_family(tmp_path / "family", mixed=True, giant=False).models


@pytest.fixture
def recipe(models: tuple[Path, ...]) -> Recipe:
    return recipe_of("ties", models)


@pytest.fixture
def job(recipe: Recipe, tmp_path: Path) -> Iterator[Job]:
    with Job.prepare(recipe, tmp_path / "out", Options(threads=1, tile_bytes=MIB)) as job:
        (job.staging.partial / "probe").write_text("this very directory")
        yield job


@pytest.fixture
def task(job: Job) -> MergeTask:
    return MergeTask(
        recipe=recipe_to_dict(job.recipe),
        origin="recipe.yml",
        directory=str(Path.cwd()),
        staging=job.staging.partial,
        probe="this very directory",
        plan_digest=job.plan.digest,
        describe=job.plan.describe,
        options=job.options,
        threads=2,
        on_node=1,
        far=True,
    )


def whole_tensors(job: Job) -> list[tuple[int, ...]]:
    """All tiles of every tensor, as one unit each."""
    tensors = range(len(job.plan.tensors))
    return [tuple(tile.number for tile in job.plan.tiles if tile.tensor == index) for index in tensors]


@pytest.fixture(autouse=True)
def working_directory_stays() -> Iterator[None]:
    before = Path.cwd()
    yield
    os.chdir(before)


def test_tiles_made_by_workers_add_up_to_the_bytes_of_one_process(
    job: Job, task: MergeTask, recipe: Recipe, tmp_path: Path
) -> None:
    expected = merge(recipe, tmp_path / "expected", options=Options(threads=1))
    blocks: dict[int, list[bytes]] = {}
    for index in range(len(job.plan.tensors)):
        worker = MergeWorker(task)  # a new one for each tensor: nothing is carried over
        worker.prepare()
        made = worker.run(1, [tuple(tile.number for tile in job.plan.tiles if tile.tensor == index)], {})
        blocks |= made.blocks
    published = job.publish(Executed(blocks, {}))
    assert bytes_of(published.out) == bytes_of(expected.out)
    assert published.weights_digest == expected.weights_digest


def test_a_worker_that_was_given_up_and_writes_on_changes_nothing(job: Job, task: MergeTask) -> None:
    everything = whole_tensors(job)
    worker, late = MergeWorker(task), MergeWorker(task)
    worker.prepare()
    late.prepare()
    first = worker.run(1, everything, {})
    before = bytes_of(job.staging.directory)
    second = late.run(2, everything[::2], first.facts)
    assert bytes_of(job.staging.directory) == before
    assert second.blocks == {number: first.blocks[number] for unit in everything[::2] for number in unit}


def test_facts_that_are_given_are_not_measured_again(job: Job, task: MergeTask) -> None:
    worker = MergeWorker(task)
    worker.prepare()
    first = worker.run(1, whole_tensors(job), {})
    assert first.facts
    assert worker.run(2, whole_tensors(job), first.facts).facts == {}


def test_a_node_that_does_not_see_the_output_is_named_with_the_path(
    task: MergeTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actors, "PROBE_WAIT_S", 0.3)
    elsewhere = tmp_path / "elsewhere" / "out.partial"
    with pytest.raises(ClusterError) as caught:
        MergeWorker(replace(task, staging=elsewhere)).prepare()
    assert str(elsewhere / "probe") in caught.value.message
    assert os.uname().nodename in caught.value.message
    assert not elsewhere.exists()


def test_another_directory_of_the_same_name_is_not_taken_for_the_drivers(
    task: MergeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actors, "PROBE_WAIT_S", 0.0)
    with pytest.raises(ClusterError, match="file system that all nodes share"):
        MergeWorker(replace(task, probe="another run's")).prepare()


def test_a_source_that_differs_on_the_node_is_named(task: MergeTask, models: tuple[Path, ...]) -> None:
    os.utime(models[1] / "model.safetensors", (1, 1))
    with pytest.raises(ClusterError, match="does not see what the driver sees") as caught:
        MergeWorker(task).prepare()
    assert len(caught.value.changed) == 1
    assert str(models[1]) in caught.value.changed[0]
    assert str(models[1]) in caught.value.message


def test_a_worker_whose_bits_would_be_others_is_refused_by_name(
    models: tuple[Path, ...], task: MergeTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inexact = recipe_of("arcee_fusion", models)
    with Job.prepare(inexact, tmp_path / "fused", Options(threads=1)) as job:
        (job.staging.partial / "probe").write_text(task.probe)
        here = replace(
            task,
            recipe=recipe_to_dict(inexact),
            staging=job.staging.partial,
            plan_digest=job.plan.digest,
            describe=job.plan.describe,
            options=job.options,
        )
        MergeWorker(here).prepare()
        monkeypatch.setattr("engine.planning.planner.fingerprint", lambda device: "torch 9.0, abacus")
        with pytest.raises(ClusterError, match=r"arithmetic is torch 9\.0, abacus here, torch .* there") as caught:
            MergeWorker(here).prepare()
        assert caught.value.changed == ["arithmetic"]
        assert os.uname().nodename in caught.value.message


def test_too_little_memory_is_said_with_what_is_needed(task: MergeTask) -> None:
    with pytest.raises(PlanError, match=r"2 threads of a worker need [0-9_]+ bytes.*--memory \d+MiB"):
        MergeWorker(replace(task, options=replace(task.options, memory_bytes=MIB))).prepare()


def test_a_file_that_the_driver_did_not_make_is_not_made_by_a_worker(job: Job, task: MergeTask) -> None:
    file = job.staging.directory / job.plan.files[0].name
    file.rename(file.with_suffix(".away"))
    with pytest.raises(ClusterError, match="reserved by the driver"):
        MergeWorker(task).prepare()
    assert not file.exists()


def test_relative_paths_start_where_the_driver_stands(
    tmp_path: Path, models: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = recipe_of("linear", tuple(model.relative_to(tmp_path) for model in models))
    with Job.prepare(recipe, Path("out"), Options(threads=1)) as job:
        (job.staging.partial / "probe").write_text("x")
        task = MergeTask(
            recipe_to_dict(recipe),
            "r",
            str(tmp_path),
            job.staging.partial,
            "x",
            job.plan.digest,
            {},
            Options(),
            1,
            1,
            False,
        )
        monkeypatch.chdir("/")
        assert MergeWorker(task).prepare().pid == os.getpid()
        assert Path.cwd() == tmp_path
