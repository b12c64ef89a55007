"""The driver's loop without Ray: whoever dies, leaves, hangs or fails, the bytes are those of one process."""

from __future__ import annotations

import os
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
from backends import MIB, bytes_of, inline, recipe_of
from shared_families import shared_family
from simulated_roster import BrokenWorker, Chances, SimulatedRoster

from cluster import drive, pace, sharding
from cluster.drive import Drive
from cluster.merge_job import _task
from cluster.merge_status import NodeCount, Status, Tally
from engine import Options
from engine.errors import ClusterError, SourceError, TileFailed, WorkerLost
from engine.outputs.job import Job
from engine.planning.plan import Tile

Models = tuple[Path, ...]
Record = Callable[[Tile, list[bytes]], None]


@pytest.fixture(scope="module")
def models() -> Models:
    return shared_family("mixed", mixed=True).models


@pytest.fixture(autouse=True)
def no_time_passes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A tick after every answer, and many small chunks."""
    monkeypatch.setattr(drive, "POLL_S", 0.0)
    monkeypatch.setattr(sharding, "MIN_CHUNK_BYTES", MIB // 4)
    before = Path.cwd()
    yield
    os.chdir(before)


@contextmanager
def simulated(
    method: str, models: Models, out: Path, chances: Chances, *, seed: int = 0, nodes: int = 3, threads: int = 2
) -> Iterator[tuple[Job, Drive, SimulatedRoster, list[Status]]]:
    """A job, its driver, and workers that live in this process."""
    with Job.prepare(recipe_of(method, models), out, Options(threads=1, tile_bytes=MIB)) as job:
        (job.staging.partial / "probe").write_text("probe")
        roster = SimulatedRoster(
            partial(_task, job, probe="probe", here="n0"), nodes, threads, chances, random.Random(seed)
        )
        seen: list[Status] = []
        tally = Tally(job.plan, job.done, defaultdict(NodeCount), seen.append)
        yield job, Drive(job, roster, tally, None), roster, seen


def test_one_two_and_four_workers_make_the_tensors_of_one_process(models: Models, tmp_path: Path) -> None:
    expected = inline(recipe_of("dare_ties", models), tmp_path / "expected", Options(threads=1))
    for workers in (1, 2, 4):
        out = tmp_path / str(workers)
        with simulated("dare_ties", models, out, Chances(), nodes=workers) as (job, driver, _, seen):
            made = job.publish(driver.go())
        assert sum(count.tiles_done > 0 for count in seen[-1].nodes.values()) == workers
        assert made.weights_digest == expected.weights_digest
        assert bytes_of(made.out) == bytes_of(expected.out)


@pytest.mark.parametrize(
    ("method", "seed"), [("ties", 1), ("ties", 2), ("slerp", 3), ("dare_ties", 4), ("sce", 5), ("linear", 6)]
)
def test_whoever_dies_leaves_and_is_too_slow_the_bytes_are_those_of_one_process(
    method: str, seed: int, models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "OVERDUE_S", 0.0)  # many chunks are given out twice
    monkeypatch.setattr(drive, "MAX_LOSSES", 10**6)
    expected = inline(recipe_of(method, models), tmp_path / "expected", Options(threads=1))
    journalled: Counter[int] = Counter()
    deaths, made = 0, None
    for run in range(10):  # chance may blame a tile; the next run goes on from the journal
        chances = Chances(die=0.1, leave=0.1)
        with simulated(method, models, tmp_path / "out", chances, seed=seed + 100 * run) as (job, driver, roster, _):
            record = job.record

            def recorded(tile: Tile, blocks: list[bytes], record: Record = record) -> None:
                journalled.update([tile.number] * bool(tile.count))  # an empty tensor's tile is nothing to keep
                record(tile, blocks)

            monkeypatch.setattr(job, "record", recorded)
            with suppress(TileFailed):
                made = job.publish(driver.go())
        deaths += roster.deaths
        if made is not None:
            break
    assert deaths
    assert made is not None
    assert bytes_of(made.out) == bytes_of(expected.out)
    assert set(journalled.values()) == {1}
    assert len(journalled) == made.tiles - 1


def test_a_tile_that_kills_every_worker_ends_the_job_by_name_and_keeps_the_rest(models: Models, tmp_path: Path) -> None:
    with simulated("linear", models, tmp_path / "out", Chances(deadly=frozenset({7}))) as (job, driver, roster, _):
        tensor = job.plan.tensors[job.plan.tiles[7].tensor]
        with pytest.raises(TileFailed) as caught:
            driver.go()
        assert f"tensor '{tensor.name}', tile 7 (blocks " in caught.value.message
        assert "last words" in caught.value.message
        nodes = [node for tile, node in roster.tried if tile == 7]
        assert len(set(nodes)) == 3  # it was tried everywhere before anywhere again
        assert len(nodes) <= 4
        assert driver.made
        assert 7 not in driver.made
        kept = set(driver.made)
    with Job.prepare(recipe_of("linear", models), tmp_path / "out", Options(threads=1, tile_bytes=MIB)) as again:
        assert set(again.done) == kept


def test_on_one_node_two_workers_are_enough(models: Models, tmp_path: Path) -> None:
    chances = Chances(deadly=frozenset({3}))
    with (
        simulated("linear", models, tmp_path / "out", chances, nodes=1, threads=1) as (_, driver, roster, _),
        pytest.raises(TileFailed, match="tile 3 "),
    ):
        driver.go()
    assert roster.deaths <= 3


def test_an_error_that_nobody_foresaw_is_tried_on_another_node_and_then_said(models: Models, tmp_path: Path) -> None:
    chances = Chances(broken=frozenset({5}))
    with (
        simulated("linear", models, tmp_path / "out", chances) as (_, driver, roster, seen),
        pytest.raises(TileFailed, match=r"tile 5 .*OSError: \[Errno 5\]"),
    ):
        driver.go()
    assert not roster.deaths
    assert 5 not in driver.made
    assert sum(count.tiles_retried for count in seen[-1].nodes.values()) >= 1


def test_a_source_that_two_nodes_cannot_read_is_that_very_error(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(self: BrokenWorker, tiles: object, facts: object) -> None:
        raise SourceError("m.safetensors: tensor 'x' cannot be read.")

    monkeypatch.setattr(BrokenWorker, "make", unreadable)
    with (
        simulated("linear", models, tmp_path / "out", Chances()) as (_, driver, _, _),
        pytest.raises(SourceError, match="tensor 'x' cannot be read"),
    ):
        driver.go()


def test_workers_that_die_before_they_are_ready_end_the_job(models: Models, tmp_path: Path) -> None:
    with (
        simulated("linear", models, tmp_path / "out", Chances(die=1.0)) as (_, driver, roster, _),
        pytest.raises(WorkerLost, match="times in a row, last on node"),
    ):
        driver.go()
    assert roster.deaths <= 3 + drive.MAX_LOSSES + 1


def test_what_nodes_have_done_adds_up(models: Models, tmp_path: Path) -> None:
    with simulated("ties", models, tmp_path / "out", Chances()) as (job, driver, _, seen):
        driver.go()
        last = seen[-1]
        assert last.done == last.total == job.plan.total_size
        assert sum(count.bytes_written for count in last.nodes.values()) == job.plan.total_size
        assert sum(count.tiles_done for count in last.nodes.values()) == len(job.plan.tiles)
        read = sum(count.bytes_read for count in last.nodes.values())
        assert job.plan.bytes_read <= read <= 6 * job.plan.bytes_read
        assert [status.done for status in seen] == sorted(status.done for status in seen)


def test_a_node_that_joins_later_and_cannot_do_it_is_left_out(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = inline(recipe_of("linear", models), tmp_path / "expected", Options(threads=1))
    with simulated("linear", models, tmp_path / "out", Chances(), nodes=1) as (job, driver, roster, seen):
        here = job.record
        prepare = BrokenWorker.prepare

        def refused(self: BrokenWorker) -> object:
            if driver.made:
                raise ClusterError("node late: arithmetic is torch 9.0, abacus here, torch 2.13.0, AVX512 there.")
            return prepare(self)

        def record(tile: Tile, blocks: list[bytes]) -> None:
            here(tile, blocks)
            roster.nodes_there = 2

        monkeypatch.setattr(BrokenWorker, "prepare", refused)
        monkeypatch.setattr(job, "record", record)
        made = job.publish(driver.go())
    assert bytes_of(made.out) == bytes_of(expected.out)
    assert list(seen[-1].nodes) == ["node0"]
    assert any("torch 9.0, abacus" in text and "goes on without" in text for text in caplog.messages)


def test_a_node_that_cannot_do_it_at_the_start_ends_the_job_before_any_work(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: BrokenWorker) -> None:
        raise ClusterError("node n: /mnt/out.partial/probe is not the driver's.")

    monkeypatch.setattr(BrokenWorker, "prepare", refused)
    with (
        simulated("linear", models, tmp_path / "out", Chances()) as (_, driver, _, _),
        pytest.raises(ClusterError, match="is not the driver's"),
    ):
        driver.go()
    assert not driver.made
