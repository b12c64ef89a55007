"""Synthetic families: reproducible, loadable by safetensors, and shaped like what they stand for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from bench.arrays import decode, from_bf16, read_model, to_bf16
from bench.families import SHAPES, make_family, tensor_shapes
from bench.torture import GIANT, torture_family, torture_tensors


def test_a_family_is_the_same_when_it_is_made_again(tmp_path: Path) -> None:
    first = make_family(tmp_path / "first", SHAPES["tiny"], seed=5)
    again = make_family(tmp_path / "again", SHAPES["tiny"], seed=5)
    other = make_family(tmp_path / "other", SHAPES["tiny"], seed=6)
    contents = [[(model / "model.safetensors").read_bytes() for model in made.models] for made in (first, again, other)]
    assert contents[0] == contents[1]
    assert len({*contents[0], *contents[2]}) == 6


def test_a_family_that_is_there_is_not_made_again(tmp_path: Path) -> None:
    made = make_family(tmp_path, SHAPES["tiny"])
    before = (made.base / "model.safetensors").stat().st_mtime_ns
    make_family(tmp_path, SHAPES["tiny"])
    assert (made.base / "model.safetensors").stat().st_mtime_ns == before
    make_family(tmp_path, SHAPES["tiny"], seed=1)
    assert (made.base / "model.safetensors").stat().st_mtime_ns != before


def test_shards_hold_the_tensors_of_the_single_file(tmp_path: Path) -> None:
    single = make_family(tmp_path / "single", SHAPES["tiny"], dtype="F32")
    sharded = make_family(tmp_path / "sharded", SHAPES["tiny"], dtype="F32", shards=3)
    expected = load_file(single.base / "model.safetensors")
    assert expected.keys() == tensor_shapes(SHAPES["tiny"]).keys()
    found = {
        name: values
        for path in sorted(sharded.base.glob("model-*-of-00003.safetensors"))
        for name, values in load_file(path).items()
    }
    assert all(np.array_equal(found[name], values) for name, values in expected.items())


def test_fine_tunes_differ_from_the_base_in_most_elements_and_by_little(tmp_path: Path) -> None:
    family = make_family(tmp_path, SHAPES["tiny"])
    base, tune = (read_model(model) for model in family.models[:2])
    name = "model.layers.0.mlp.up_proj.weight"
    delta = decode(tune[name][1], "BF16") - decode(base[name][1], "BF16")
    assert 0.5 < np.mean(delta != 0) < 0.9
    assert 1e-4 < delta.std() < 1e-3


def test_bfloat16_is_rounded_to_nearest_and_ties_to_even() -> None:
    values = np.array([1.0, 1.00390625, 1.01171875, -1.00390625, 3.3895314e38, 1e-40], np.float32)
    assert from_bf16(to_bf16(values)).tolist() == [1.0, 1.0, 1.015625, -1.0, 3.3895313892515355e38, 2.0**-133]


def test_the_torture_family_has_what_breaks_tiling(tmp_path: Path) -> None:
    shapes = {name: shape for name, (_, shape) in torture_tensors(mixed=True).items()}
    sizes = {int(np.prod(shape)) for shape in shapes.values()}
    assert {0, 1, 1 << 18, (1 << 18) + 1} <= sizes
    assert int(np.prod(GIANT)) >= 40_000_000
    assert GIANT[1] % (1 << 18)
    family = torture_family(tmp_path, mixed=True, giant=False)
    dtypes = {dtype for dtype, _ in read_model(family.tunes[1]).values()}
    assert dtypes == {"BF16", "F16", "F32", "I64", "BOOL"}
