"""The index of a sharded model is downloaded data: it is checked before a file it names is opened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import SourceError
from engine.tensorfile.index import build_index, load_json_object, read_index


def written(directory: Path, text: str | bytes) -> Path:
    path = directory / "model.safetensors.index.json"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_what_is_built_is_what_is_read_and_as_transformers_expects_it(tmp_path: Path) -> None:
    weight_map = {"b": "m-2.safetensors", "a": "m-1.safetensors", "ä": "sub/m-3.safetensors"}
    (tmp_path / "sub").mkdir()
    for file in weight_map.values():
        (tmp_path / file).touch()
    text = build_index(weight_map, 123)
    assert json.loads(text)["metadata"] == {"total_size": 123}
    assert list(json.loads(text)["weight_map"]) == ["a", "b", "ä"]
    assert read_index(written(tmp_path, text)) == weight_map


@pytest.mark.parametrize(
    "file",
    [
        "../x.safetensors",
        "/etc/x.safetensors",
        "a/../../x.safetensors",
        "..\\x.safetensors",
        "C:x.safetensors",
        "x\0.safetensors",
        "..",
        "",
    ],
)
def test_a_shard_outside_the_directory_is_refused(tmp_path: Path, file: str) -> None:
    with pytest.raises(SourceError, match="outside the model's directory: refused"):
        read_index(written(tmp_path, json.dumps({"weight_map": {"w": file}})))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{}", "'weight_map' must map tensor names to shard files, got None"),
        ('{"weight_map": {}}', "'weight_map' must map"),
        ('{"weight_map": ["a"]}', "'weight_map' must map"),
        ('{"weight_map": {"w": 3}}', "tensor 'w' must name a shard file, got 3"),
        ('{"weight_map": {"w": "w.bin"}}', "'w.bin' is not a .safetensors file"),
        ('{"weight_map": {"w": "a.safetensors", "w": "b.safetensors"}}', "'w' stands twice"),
        ("[1]", "must hold a JSON object"),
        ("{", "is not valid JSON"),
        (b"\xff", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
    ],
)
def test_a_malformed_index_is_refused_with_what_and_where(tmp_path: Path, text: str | bytes, part: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(SourceError) as caught:
        read_index(path)
    assert caught.value.message.startswith(str(path))
    assert part in caught.value.message


def test_missing_shards_are_counted_and_named(tmp_path: Path) -> None:
    weight_map = {str(i): f"m-{i}.safetensors" for i in range(6)}
    (tmp_path / "m-0.safetensors").touch()
    with pytest.raises(SourceError, match=r"5 of 6 shards are missing \(m-1\.safetensors, .*\.\.\.\)") as caught:
        read_index(written(tmp_path, build_index(weight_map, 0)))
    assert caught.value.missing == [f"m-{i}.safetensors" for i in range(1, 6)]


def test_a_missing_json_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"gone\.json: cannot be read: No such file"):
        load_json_object(tmp_path / "gone.json")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["weight_map", "w"]), inner, max_size=2)
    ),
)


@given(json_values)
def test_json_of_any_shape_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = written(tmp_path_factory.getbasetemp(), json.dumps(value))
    with pytest.raises(SourceError):
        read_index(path)


def test_half_a_surrogate_pair_is_refused_because_it_could_not_be_written_again(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="surrogates"):
        load_json_object(written(tmp_path, r'{"x": "\ud800"}'))
    assert load_json_object(written(tmp_path, r'{"x": "\ud83d\ude00"}')) == {"x": "\U0001f600"}
