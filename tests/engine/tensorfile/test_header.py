"""The header codec against the reference implementation, and against damage of every kind."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from engine.errors import PlanError, SourceError
from engine.tensorfile.header import ITEMSIZE, Header, build_header, parse_header, read_header

NUMPY = {
    "BOOL": "?",
    "U8": "u1",
    "I8": "i1",
    "U16": "u2",
    "I16": "i2",
    "F16": "f2",
    "U32": "u4",
    "I32": "i4",
    "F32": "f4",
    "U64": "u8",
    "I64": "i8",
    "F64": "f8",
}

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
Layout = dict[str, tuple[str, tuple[int, ...]]]

names = texts.filter(lambda name: name != "__metadata__")
shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)
layouts = st.dictionaries(names, st.tuples(st.sampled_from(sorted(ITEMSIZE)), shapes), max_size=6)
metadatas = st.dictionaries(texts, texts, max_size=3)


def raw(entries: Any, data_bytes: int = 0) -> bytes:
    """A file with this JSON as its header, and zeros as its data."""
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + bytes(data_bytes)


def parse(data: bytes) -> Header:
    return parse_header(data, file_size=len(data), origin="m.safetensors")


@given(layouts, metadatas)
def test_what_is_built_is_what_is_parsed(layout: Layout, metadata: dict[str, str]) -> None:
    data, header = build_header([(name, *rest) for name, rest in layout.items()], metadata)
    total = sum(math.prod(shape) * ITEMSIZE[dtype] for dtype, shape in layout.values())
    assert parse_header(data, file_size=len(data) + total, origin="m") == header
    assert header.data_start == len(data)
    assert header.data_start % 8 == 0
    assert dict(header.metadata) == metadata
    assert {tensor.name: (tensor.dtype, tensor.shape) for tensor in header.tensors.values()} == layout
    assert all(tensor.nbytes == tensor.elements * ITEMSIZE[tensor.dtype] for tensor in header.tensors.values())


@given(layouts, metadatas)
def test_the_reference_implementation_reads_what_is_built(layout: Layout, metadata: dict[str, str]) -> None:
    ours, header = build_header([(name, *rest) for name, rest in layout.items()], metadata)
    end = max((tensor.end for tensor in header.tensors.values()), default=len(ours))
    found = safetensors.deserialize(ours + bytes(end - len(ours)))
    assert {name: (view["dtype"], tuple(view["shape"])) for name, view in found} == layout


@given(st.dictionaries(names, st.tuples(st.sampled_from(sorted(NUMPY)), shapes), max_size=6), metadatas)
def test_what_the_reference_implementation_writes_is_parsed(layout: Layout, metadata: dict[str, str]) -> None:
    rng = np.random.default_rng(0)
    arrays = {name: rng.integers(0, 2, shape).astype(NUMPY[dtype]) for name, (dtype, shape) in layout.items()}
    data = save(arrays, metadata or None)
    header = parse(data)
    assert dict(header.metadata) == metadata
    assert {tensor.name: (tensor.dtype, tensor.shape) for tensor in header.tensors.values()} == layout
    for name, array in load(data).items():
        tensor = header.tensors[name]
        assert data[tensor.start : tensor.end] == array.tobytes()


REAL = save(
    {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(5, np.int8), "c": np.zeros((0, 2))},
    {"format": "pt"},
)


@settings(max_examples=600)
@given(st.data())
def test_damaged_bytes_are_accepted_exactly_when_the_reference_implementation_accepts_them(data: st.DataObject) -> None:
    damaged = bytearray(REAL)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    file = bytes(damaged[: data.draw(st.integers(len(REAL) - 60, len(REAL)))])
    problem = problem_with(file)
    try:
        reference = safetensors.deserialize(file)
    except safetensors.SafetensorError:
        assert problem is not None
        return
    if problem is None:
        ours = parse(file).tensors.values()
        assert {(tensor.name, file[tensor.start : tensor.end]) for tensor in ours} == {
            (name, bytes(view["data"])) for name, view in reference
        }
    else:  # stricter on purpose
        assert "stands twice" in problem or "not supported" in problem


def problem_with(file: bytes) -> str | None:
    """The message of the SourceError that parsing ends in, checked for its form; any other error fails the test."""
    try:
        parse(file)
    except SourceError as error:
        problem = error.message
    else:
        return None
    assert problem.startswith("m.safetensors: ")
    assert "\n" not in problem
    return problem


@given(st.binary(max_size=200))
def test_arbitrary_bytes_never_crash_the_parser(data: bytes) -> None:
    for candidate in (data, raw(data), raw(b"{" + data)):
        with pytest.raises(SourceError):
            parse_header(candidate, file_size=len(candidate) + 1, origin="m")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "x"]), inner, max_size=3)
    ),
)


@given(st.dictionaries(st.sampled_from(["a", "__metadata__", ""]), json_values))
def test_json_of_another_shape_never_crashes_the_parser(entries: dict[str, Any]) -> None:
    data = raw(entries)
    try:
        header = parse(data)
    except SourceError:
        return
    assert all(tensor.nbytes == 0 for tensor in header.tensors.values())


def entry(**changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24], **changes}


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        (raw({"w": entry()}, 20), ["tensor 'w' ends at byte", "the file has", "truncated: download it again"]),
        (raw({"w": entry()}, 28), ["the tensors end at byte", "something else was appended"]),
        (raw({"w": entry(dtype="F33")}, 24), ["'w'", "'F33'", "did you mean 'F32'?"]),
        (raw({"w": entry(dtype="F4")}, 24), ["'w'", "not supported"]),
        (raw({"w": entry(shape=[2, True, 3])}, 24), ["has shape [2, True, 3]", "integers ≥ 0"]),
        (raw({"w": entry(shape=[-2, -3])}, 24), ["has shape [-2, -3]"]),
        (raw({"w": entry(shape=[2.0, 3])}, 24), ["has shape [2.0, 3]"]),
        (raw({"w": entry(shape=[1] * 65)}, 4), ["has shape", "at most 64"]),
        (raw({"w": entry(shape=[2, 4])}, 24), ["takes 32 bytes, got 24"]),
        (raw({"w": entry(shape=[2**62, 2**62, 0, 8])}, 24), ["takes 0 bytes, got 24"]),
        (raw({"w": entry(data_offsets=[24, 0])}, 24), ["data_offsets [24, 0]"]),
        (raw({"w": entry(data_offsets=[0, 24, 24])}, 24), ["data_offsets"]),
        (raw({"w": entry(data_offsets=[4, 28])}, 28), ["leaves a hole after the header"]),
        (raw({"a": entry(), "b": entry(data_offsets=[20, 44])}, 44), ["'b'", "overlaps 'a'"]),
        (raw({"a": entry(), "b": entry(data_offsets=[28, 52])}, 52), ["'b'", "leaves a hole after 'a'"]),
        (raw({"w": {"dtype": "F32", "shape": [0]}}), ["needs dtype, shape and data_offsets"]),
        (raw({"w": [1]}), ["needs dtype, shape and data_offsets, got [1]"]),
        (raw({"__metadata__": {"n": 1}}), ["'__metadata__' must map names to strings"]),
        (raw({"__metadata__": []}), ["'__metadata__'"]),
        (raw(b'{"w": 1, "w": 2}'), ["'w' stands twice"]),
        (raw(b'{"\\ud800": {"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'), ["surrogate"]),
        (raw(b'{"w": NaN}'), ["NaN is not JSON"]),
        (raw(b'{"w": ' + b"[" * 100_000), ["not valid JSON"]),
        (raw(b'{"w": ' + b"9" * 5000 + b"}"), ["not valid JSON"]),
        (raw(b'{"\xff": 1}'), ["not UTF-8"]),
        (raw(b' {"a": 1}'), ["does not begin with '{'"]),
        (raw([1]), ["does not begin with '{'"]),
        (b"", ["0 bytes", "too few"]),
        ((10**8 + 1).to_bytes(8, "little") + b"{}", ["header of 100_000_001 bytes, the limit is 100_000_000"]),
        ((1000).to_bytes(8, "little") + b"{}", ["header ends at byte 1_008, the file has 10", "truncated"]),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", ["git-lfs pointer", "git lfs pull"]),
    ],
)
def test_a_damaged_header_is_refused_with_what_where_and_what_to_do(data: bytes, parts: list[str]) -> None:
    with pytest.raises(SourceError) as caught:
        parse(data)
    assert caught.value.message.startswith("m.safetensors: ")
    for part in parts:
        assert part.lower() in caught.value.message.lower()


def test_the_message_of_a_truncated_file_is_the_one_in_the_style_guide() -> None:
    name = "model.layers.7.mlp.up_proj.weight"
    data, header = build_header([(name, "U8", (41_943_040 - 120,))], {})
    with pytest.raises(SourceError) as caught:
        parse_header(data, file_size=40_000_000, origin="model-00003.safetensors")
    assert caught.value.message == (
        f"model-00003.safetensors: tensor '{name}' ends at byte {header.tensors[name].end:_}, the file has 40_000_000. "
        "It is truncated: download it again."
    )
    assert caught.value.tensor == name


def test_a_header_that_was_not_read_whole_is_refused() -> None:
    with pytest.raises(SourceError, match="only 20 could be read"):
        parse_header(REAL[:20], file_size=len(REAL), origin="m")


def test_unknown_fields_and_null_metadata_are_let_pass_as_in_the_reference_implementation() -> None:
    assert parse(raw({"w": entry(later="?"), "__metadata__": None}, 24)).tensors["w"].shape == (2, 3)


def test_tensors_come_in_the_order_of_their_bytes() -> None:
    data = raw({"late": entry(data_offsets=[24, 48]), "early": entry()}, 48)
    assert list(parse(data).tensors) == ["early", "late"]


def test_a_file_is_read_by_its_header_alone(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(REAL)
    assert read_header(path) == parse(REAL)
    with pytest.raises(SourceError, match=r"gone\.safetensors: cannot be read: No such file"):
        read_header(tmp_path / "gone.safetensors")


@pytest.mark.parametrize(
    ("tensors", "part"),
    [
        ([("w", "F32", (1,)), ("w", "F32", (1,))], "cannot be written twice"),
        ([("__metadata__", "F32", (1,))], "cannot be written"),
        ([("w", "float32", (1,))], "'float32'"),
        ([("w", "F32", (1, -1))], "must not be negative"),
    ],
)
def test_a_layout_that_cannot_be_written_is_refused(tensors: list[tuple[str, str, tuple[int, ...]]], part: str) -> None:
    with pytest.raises(PlanError, match=part):
        build_header(tensors, {})


def test_forty_five_thousand_tensors_are_laid_out_in_file_order() -> None:
    tensors = [(f"model.layers.{i // 768}.mlp.experts.{i % 768}.w", "BF16", (2, 2)) for i in range(45_000)]
    _, header = build_header(tensors, {"format": "pt"})
    assert list(header.tensors) == [name for name, _, _ in tensors]
    assert header.tensors[tensors[-1][0]].end == header.data_start + 45_000 * 8
