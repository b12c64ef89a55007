"""One contract for every way to run a merge: the same bytes, the same errors, whoever is killed in between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from backends import MIB, Backend, bytes_of, inline, on_ray, recipe_of, run_until_killed
from shared_families import shared_family

from bench.torture import torture_family
from cluster import sharding
from engine import Options, ShardSize
from engine.errors import NotFinite, OutputExists, SourceError

# One of each kind: no facts, sums, counts, masks, rows, two rounds, copies. (All: execution/test_execute.py.)
KINDS = ("task_arithmetic", "slerp", "ties", "dare_ties", "della", "sce", "passthrough")
# tile size and threads take turns over the methods: a backend sees all of them in as few merges as there are methods
WAYS = [(MIB, 1), (7 * MIB, 2), (64 * MIB, 1), (MIB, 2), (7 * MIB, 1), (64 * MIB, 2)]
Models = tuple[Path, ...]


@pytest.fixture(scope="module")
def small() -> Models:
    """Awkward shapes and all dtypes, 10 MB a model."""
    return shared_family("mixed", mixed=True).models


@pytest.fixture(scope="module")
def large() -> Models:
    """The same with a tensor of 40 million elements, 90 MB a model."""
    return shared_family("giant", giant=True).models


@pytest.fixture(params=["inline", pytest.param("ray", marks=pytest.mark.ray)])
def address(request: pytest.FixtureRequest) -> str | None:
    """Where a merge runs: None is in this process."""
    return str(request.getfixturevalue("ray_here").address) if request.param == "ray" else None


@pytest.fixture
def backend(address: str | None) -> Backend:
    return inline if address is None else on_ray(address)


@pytest.fixture
def lone_backend(address: str | None) -> Backend:
    """With one worker: half the processes to start, where their number does not matter."""
    return inline if address is None else on_ray(address, workers=1)


@pytest.mark.parametrize("method", KINDS)
def test_a_method_of_every_kind_makes_the_bytes_of_one_thread(
    method: str, backend: Backend, small: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharding, "MIN_CHUNK_BYTES", MIB)  # so that there is something to share out
    recipe = recipe_of(method, small)
    tile_bytes, threads = WAYS[KINDS.index(method) % len(WAYS)]
    expected = inline(recipe, tmp_path / "expected", Options(threads=1))
    made = backend(recipe, tmp_path / "made", Options(threads=threads, tile_bytes=tile_bytes))
    assert bytes_of(made.out) == bytes_of(expected.out)
    assert made.weights_digest == expected.weights_digest


@pytest.mark.parametrize(("method", "tile_mib", "threads"), [("ties", 1, 1), ("dare_ties", 7, 2), ("slerp", 64, 1)])
def test_a_giant_tensor_makes_no_difference(
    method: str, tile_mib: int, threads: int, backend: Backend, large: Models, tmp_path: Path
) -> None:
    recipe = recipe_of(method, large)
    expected = inline(recipe, tmp_path / "expected", Options(threads=2))
    made = backend(recipe, tmp_path / "made", Options(threads=threads, tile_bytes=tile_mib * MIB))
    assert bytes_of(made.out) == bytes_of(expected.out)


def test_the_torch_definition_makes_the_kernels_bytes(lone_backend: Backend, small: Models, tmp_path: Path) -> None:
    recipe = recipe_of("ties", small)
    expected = inline(recipe, tmp_path / "expected", Options(threads=1))
    made = lone_backend(recipe, tmp_path / "made", Options(threads=1, arithmetic="definition"))
    assert bytes_of(made.out) == bytes_of(expected.out)


def test_output_files_may_be_many(lone_backend: Backend, small: Models, tmp_path: Path) -> None:
    recipe, options = recipe_of("linear", small), Options(threads=1, shard_size=ShardSize(MIB))
    expected = inline(recipe, tmp_path / "expected", options)
    made = lone_backend(recipe, tmp_path / "made", options)
    assert len(list(made.out.glob("*.safetensors"))) > 3
    assert bytes_of(made.out) == bytes_of(expected.out)


def test_a_merge_whose_process_was_killed_resumes_to_the_same_bytes_with_tiles_of_another_size(
    address: str | None, backend: Backend, large: Models, tmp_path: Path
) -> None:
    recipe = recipe_of("task_arithmetic", large)
    expected = inline(recipe, tmp_path / "expected", Options(threads=2))
    run_until_killed(recipe, tmp_path / "made", Options(threads=1, tile_bytes=7 * MIB), address)
    assert not (tmp_path / "made").exists()
    made = backend(recipe, tmp_path / "made", Options(threads=1, tile_bytes=MIB))
    assert 0 < made.resumed_tiles < made.tiles
    assert bytes_of(made.out) == bytes_of(expected.out)


def test_one_backend_finishes_what_the_other_began(
    address: str | None, ray_here: Any, large: Models, tmp_path: Path
) -> None:
    recipe = recipe_of("ties", large)
    options = Options(threads=1, tile_bytes=7 * MIB)
    other = inline if address else on_ray(ray_here.address)
    expected = inline(recipe, tmp_path / "expected", options)
    run_until_killed(recipe, tmp_path / "made", options, address)
    made = other(recipe, tmp_path / "made", options)
    assert made.resumed_tiles > 0
    assert bytes_of(made.out) == bytes_of(expected.out)


def test_nan_in_a_source_is_the_same_error_everywhere(lone_backend: Backend, tmp_path: Path) -> None:
    models = torture_family(tmp_path / "family", giant=False).models
    poison(models[1] / "model.safetensors")
    with pytest.raises(NotFinite) as caught:
        lone_backend(recipe_of("linear", models), tmp_path / "out", Options(threads=1))
    assert type(caught.value) is NotFinite
    assert caught.value.facts == {"tensor": "model.norm.weight", "source": str(models[1]), "count": 1}
    assert not (tmp_path / "out").exists()


def test_allowed_nan_are_counted_alike(lone_backend: Backend, tmp_path: Path) -> None:
    models = torture_family(tmp_path / "family", giant=False).models
    poison(models[1] / "model.safetensors")
    made = lone_backend(recipe_of("linear", models), tmp_path / "out", Options(threads=1, allow_nonfinite=True))
    assert made.nonfinite == {(str(models[1]), "model.norm.weight"): 1}


def test_what_is_in_the_way_is_refused_before_anything_starts(backend: Backend, small: Models, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "theirs").write_text("not ours")
    with pytest.raises(OutputExists):
        backend(recipe_of("linear", small), tmp_path / "out", Options(threads=1))


def test_a_missing_source_leaves_nothing_behind(backend: Backend, small: Models, tmp_path: Path) -> None:
    recipe = recipe_of("linear", (small[0], tmp_path / "nowhere", small[2]))
    with pytest.raises(SourceError):
        backend(recipe, tmp_path / "out", Options(threads=1))
    assert list(tmp_path.iterdir()) == []


def poison(path: Path) -> None:
    """Make the first element of model.norm.weight a bfloat16 NaN."""
    from engine.tensorfile.header import read_header

    with path.open("r+b") as file:
        file.seek(read_header(path).tensors["model.norm.weight"].start)
        file.write(b"\xc0\x7f")
