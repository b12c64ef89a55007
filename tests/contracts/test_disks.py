"""Disks that fill up or turn read-only in the midst of a merge: a line that says so, nothing lost, the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from backends import MIB, Backend, bytes_of, inline, on_ray, recipe_of
from disks import Disk, small_disk
from shared_families import shared_family

from engine import Options, Recipe, ShardSize
from engine.errors import MergefleetError

OPTIONS = Options(threads=1, tile_bytes=MIB, shard_size=ShardSize(2 * MIB))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with small_disk(tmp_path, mib=40) as mounted:
        yield mounted


@pytest.fixture(params=["inline", pytest.param("ray", marks=pytest.mark.ray)])
def backend(request: pytest.FixtureRequest) -> Backend:
    return inline if request.param == "inline" else on_ray(request.getfixturevalue("ray_here").address, workers=1)


def after(tiles_bytes: int, act: Callable[[], None]) -> Callable[[int, int], None]:
    """Progress that calls `act` once so many bytes are written."""
    left = [act]

    def progress(done: int, total: int) -> None:
        if done >= tiles_bytes and left:
            left.pop()()

    return progress


def check_resumed(backend: Backend, recipe: Recipe, out: Path, *, like: Path) -> None:
    """The same command goes on where the last one ended, to the bytes of an undisturbed merge, made at `like`."""
    made = backend(recipe, out, OPTIONS)
    assert made.resumed_tiles > 0
    assert bytes_of(made.out) == bytes_of(inline(recipe, like, OPTIONS).out)


def test_a_disk_that_fills_up_ends_the_merge_and_room_on_it_resumes_it(
    backend: Backend, disk: Disk, tmp_path: Path
) -> None:
    recipe = recipe_of("ties", shared_family("mixed", mixed=True).models)
    out = disk.place / "OUT"
    with pytest.raises(MergefleetError, match=r"No space left on device\. Free some space and run"):
        backend(recipe, out, OPTIONS, after(1, disk.fill))
    assert not out.exists()
    disk.make_room()
    check_resumed(backend, recipe, out, like=tmp_path / "expected")
    assert {path.name for path in disk.place.iterdir()} == {"OUT", "lost+found"}


def test_a_disk_that_turns_read_only_ends_the_merge_and_its_repair_resumes_it(
    backend: Backend, disk: Disk, tmp_path: Path
) -> None:
    recipe = recipe_of("linear", shared_family("mixed", mixed=True).models)
    out = disk.place / "OUT"
    with pytest.raises(MergefleetError, match=f"{disk.place}.*Read-only file system"):
        backend(recipe, out, OPTIONS, after(2 * MIB, disk.turn_read_only))
    with pytest.raises(MergefleetError, match=f"{disk.place}.*Read-only file system"):
        backend(recipe, out, OPTIONS)
    disk.repair()
    check_resumed(backend, recipe, out, like=tmp_path / "expected")
