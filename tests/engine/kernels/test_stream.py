"""Rows that a kernel reads itself, piece by piece, while it combines them: the bits of rows in memory, or NaN."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from method_blocks import call_of, measured, rows_of

from engine.execution.arithmetic import KernelArithmetic
from engine.kernels import files, finite
from engine.methods import METHODS
from engine.methods.contract import Call
from engine.numerics import BLOCK

DRAWS = [np.random.default_rng(seed) for seed in range(8)]  # ties by count, for one, are not streamed
STREAMED = [name for name, method in METHODS.items() if any(method.streams(call_of(method, 2, (9,), d)) for d in DRAWS)]
SIZES = [1, files.PIECE - 1, files.PIECE, files.PIECE + 1, 2 * files.PIECE + 12_345]


def in_files(directory: Path, rows: np.ndarray, elements: int, *, lead: int = 24) -> np.ndarray:
    """Every row in a file of its own, at offsets that differ; int64[N, 2] of descriptors and offsets."""
    places = []
    for j, row in enumerate(rows):
        path = directory / f"row{j}"
        path.write_bytes(b"\0" * (lead + j) + row[:elements].tobytes())
        places.append((os.open(path, os.O_RDONLY), lead + j))
    return np.array(places, np.int64)


def close(places: np.ndarray) -> None:
    for fd in places[:, 0].tolist():
        os.close(fd)


def test_the_methods_of_one_pass_are_streamed() -> None:
    delta = {"task_arithmetic", "ties", "dare_linear", "dare_ties"}
    assert delta | {"linear", "slerp", "nuslerp", "multislerp", "karcher", "model_stock"} <= set(STREAMED)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("name", STREAMED)
def test_a_stream_gives_the_bits_of_rows_in_memory(name: str, dtype: str, tmp_path: Path) -> None:
    method = METHODS[name]
    inputs = 2 if method.models[1] else 3
    for seed, elements in enumerate(SIZES):
        rows = rows_of(dtype, inputs, elements, seed)
        call = call_of(method, inputs, (elements,), np.random.default_rng(seed))
        if not method.streams(call) or not sum(call.sources.get("weight", (1.0,))):
            continue
        kernel, facts = KernelArithmetic(method), dict[str, Any]()
        with np.errstate(all="ignore"):
            for stage in method.stages(call):
                partial = measured(kernel, stage, call, rows, facts) if stage.measure else None
                facts[stage.name] = stage.finish(call, partial, facts)
        wanted, got = np.zeros((2, elements), rows.dtype)
        kernel.merge(call, rows, (0, elements), facts=facts, out=wanted)
        places = in_files(tmp_path, rows, elements)
        stream = files.Stream(places, 0, np.empty((inputs, files.PIECE), rows.dtype))
        kernel.merge(call, stream, (0, elements), facts=facts, out=got)
        close(places)
        if finite.count_nonfinite_rows(rows, elements) or finite.count_nonfinite(wanted):
            assert finite.count_nonfinite(got)
        else:
            np.testing.assert_array_equal(got.view(np.uint8), wanted.view(np.uint8))


@pytest.mark.parametrize(
    ("name", "inputs", "based"),
    [
        *[("slerp", 2, True), ("nuslerp", 2, False), ("nuslerp", 3, True), ("multislerp", 5, True)],
        *[("karcher", 2, False), ("karcher", 3, False), ("model_stock", 3, True), ("model_stock", 5, True)],
    ],
)
def test_blocks_measured_while_they_are_read_give_what_blocks_in_memory_do(
    name: str, inputs: int, based: bool, tmp_path: Path
) -> None:
    method = METHODS[name]
    elements = 2 * BLOCK + 999
    blocks = [rows_of("BF16", inputs, min(BLOCK, elements - start), start) for start in range(0, elements, BLOCK)]
    call = call_of(method, inputs, (elements,), np.random.default_rng(0), based=based)
    whole = {"nuslerp_flatten": 1.0, "nuslerp_row_wise": 0.0, "filter_wise": 0.0}
    call = Call(**{**call.__dict__, "options": {**call.options, **whole}, "scope": "element"})
    [stage] = [stage for stage in method.stages(call) if stage.measure]
    assert stage.stream is not None
    kernel = KernelArithmetic(method)
    wanted, got = np.zeros((2, 3, *stage.shape(call)))
    for number, rows in enumerate(blocks):
        at = number, min(BLOCK, elements - number * BLOCK)
        kernel.measure(stage, call, rows, at, facts={}, out=wanted[number])
    places = in_files(tmp_path, np.concatenate(blocks, axis=1), elements)
    stream = files.Stream(places, 0, np.empty((inputs, BLOCK), np.uint16))
    assert stage.stream(call, stream, elements, got)
    np.testing.assert_array_equal(got, wanted)
    assert not stage.stream(call, stream._replace(skip=2), elements, got)  # reaches beyond the end of the files
    close(places)


@pytest.mark.parametrize("bad", ["short file", "closed file", "NaN", "Inf"])
def test_a_block_that_cannot_be_read_is_nan_and_one_that_is_not_finite_shows_it(bad: str, tmp_path: Path) -> None:
    elements = files.PIECE + 100
    rows = np.zeros((2, elements), np.float32)
    if bad in ("NaN", "Inf"):
        rows[1, -1] = np.float32(bad.lower())
    places = in_files(tmp_path, rows, elements)
    if bad == "short file":
        os.truncate(tmp_path / "row1", elements * 4)
    method = METHODS["linear"]
    call = call_of(method, 2, (elements,), np.random.default_rng(0))
    if bad == "closed file":
        places = np.array([places[0], (1 << 20, 0)], np.int64)
    out = np.zeros(elements, np.float32)
    stream = files.Stream(places, 0, np.empty((2, files.PIECE), np.float32))
    facts = {"coefficients": np.array([0.5, 0.5])}
    KernelArithmetic(method).merge(call, stream, (0, elements), facts=facts, out=out)
    assert np.isnan(out).all() if "file" in bad else not np.isfinite(out[-1])
    assert not files.read_rows(places, 0, np.empty((2, elements), np.float32), elements)


def test_what_is_written_is_read_again_and_a_refused_write_is_told(tmp_path: Path) -> None:
    values = np.arange(100_000, dtype=np.float32)  # several steps of one write
    path = tmp_path / "file"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    assert files.write(fd, 12, values)
    assert path.read_bytes() == b"\0" * 12 + values.tobytes()
    back = np.empty((1, 100_000), np.float32)
    assert files.read_rows(np.array([(fd, 0)], np.int64), 12, back, 100_000)
    np.testing.assert_array_equal(back[0], values)
    os.close(fd)
    read_only = os.open(path, os.O_RDONLY)
    assert not files.write(read_only, 0, values)
    os.close(read_only)
