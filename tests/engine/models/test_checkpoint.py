"""Local sources: what is accepted, what is refused and how, and reading by any number of threads."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from engine.errors import SourceError
from engine.models.checkpoint import Checkpoint, open_checkpoint, open_checkpoints
from engine.recipes.recipe import ModelRef

Arrays = Mapping[str, "np.ndarray[tuple[int, ...], np.dtype[np.generic]]"]
WEIGHTS: Arrays = {
    "model.embed.weight": np.arange(1200, dtype=np.float32).reshape(30, 40),
    "model.layers.0.weight": np.arange(77, dtype=np.float16),
    "model.step": np.array(3, dtype=np.int64),
    "model.empty": np.zeros((0, 4), np.float32),
}


def single(directory: Path, arrays: Arrays = WEIGHTS, *, config: str = "{}") -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    save_file(dict(arrays), directory / "model.safetensors", {"format": "pt"})
    (directory / "config.json").write_text(config)
    return directory


def sharded(directory: Path, arrays: Arrays = WEIGHTS) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    files = {name: f"model-{i % 2}.safetensors" for i, name in enumerate(arrays)}
    for file in set(files.values()):
        save_file({name: array for name, array in arrays.items() if files[name] == file}, directory / file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    (directory / "config.json").write_text("{}")
    return directory


def torch_shards(directory: Path, arrays: Arrays = WEIGHTS, *, shards: int = 2, config: str = "{}") -> Path:
    """The same model as older libraries saved it: pytorch_model.bin, or several with an index."""
    import torch

    directory.mkdir(parents=True, exist_ok=True)
    names = [f"pytorch_model-{n}.bin" for n in range(shards)] if shards > 1 else ["pytorch_model.bin"]
    files = {name: names[i % shards] for i, name in enumerate(arrays)}
    for file in names:
        inside = {name: torch.from_numpy(array.copy()) for name, array in arrays.items() if files[name] == file}
        torch.save(inside, directory / file)
    if shards > 1:
        (directory / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": files}))
    (directory / "config.json").write_text(config)
    return directory


def opened(directory: Path | str, revision: str | None = None) -> Checkpoint:
    return open_checkpoint(ModelRef(str(directory), revision))


@pytest.mark.parametrize("shards", [1, 2])
def test_models_of_torch_save_are_read_like_the_same_in_safetensors(shards: int, tmp_path: Path) -> None:
    source, twin = opened(torch_shards(tmp_path / "bin", shards=shards)), opened(single(tmp_path / "st"))
    assert source.tensors.keys() == twin.tensors.keys()
    for name in twin.tensors:
        assert source.content_digest(name) == twin.content_digest(name)
        assert (source.tensors[name].dtype, source.tensors[name].shape) == (
            twin.tensors[name].dtype,
            twin.tensors[name].shape,
        )
    assert {"size", "mtime_ns", "header"} == source.identity["files"][
        "pytorch_model.bin" if shards == 1 else "pytorch_model-0.bin"
    ].keys()
    single(tmp_path / "bin", {"other": np.ones(2)})
    assert opened(tmp_path / "bin").tensors.keys() == {"other"}, "safetensors goes first"


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_head_that_torch_kept_twice_is_one_tensor(tied: bool, tmp_path: Path) -> None:
    import torch

    embedding = torch.ones(4, 2)
    source = torch_shards(tmp_path / "m", {}, shards=1, config=json.dumps({"tie_word_embeddings": tied}))
    torch.save({"model.embed_tokens.weight": embedding, "lm_head.weight": embedding}, source / "pytorch_model.bin")
    assert ("lm_head.weight" in opened(source).tensors) is not tied


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def content(source: Checkpoint, name: str) -> bytes:
    buffer = bytearray(source.tensors[name].nbytes)
    source.read_into(name, 0, memoryview(buffer))
    return bytes(buffer)


@pytest.mark.parametrize("make", [single, sharded])
def test_every_tensor_has_its_name_dtype_shape_and_bytes(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    source = opened(make(tmp_path))
    assert {(t.name, t.shape, t.elements) for t in source.tensors.values()} == {
        (name, array.shape, array.size) for name, array in WEIGHTS.items()
    }
    assert source.tensors["model.layers.0.weight"].dtype == "F16"
    for name, array in WEIGHTS.items():
        assert content(source, name) == array.tobytes()
        assert source.content_digest(name) == blake3(array.tobytes()).hexdigest()


@given(st.integers(0, 4800), st.integers(0, 4800))
def test_any_byte_range_of_a_tensor_can_be_read(tmp_path_factory: pytest.TempPathFactory, a: int, b: int) -> None:
    start, end = sorted((a, b))
    source = opened(single(tmp_path_factory.getbasetemp() / "ranges"))
    buffer = bytearray(end - start)
    source.read_into("model.embed.weight", start, memoryview(buffer))
    assert buffer == WEIGHTS["model.embed.weight"].tobytes()[start:end]
    source.close()


def test_a_range_outside_the_tensor_is_refused_although_the_file_goes_on(tmp_path: Path) -> None:
    source = opened(single(tmp_path))
    for offset in (-1, 4, 200):
        with pytest.raises(SourceError, match=r"'model\.step' were asked for, it has 8"):
            source.read_into("model.step", offset, memoryview(bytearray(8)))


def test_digests_of_large_tensors_are_streamed(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, 9_000_001, dtype=np.uint8)
    source = opened(single(tmp_path, {"w": array}))
    assert source.content_digest("w") == blake3(array.tobytes()).hexdigest()


def test_threads_read_together_through_one_descriptor_a_file(tmp_path: Path) -> None:
    source = opened(sharded(tmp_path))
    before = open_files()
    barrier = threading.Barrier(8)

    def read(name: str) -> bool:
        barrier.wait()
        return all(content(source, name) == WEIGHTS[name].tobytes() for _ in range(50))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, list(WEIGHTS) * 2))
    assert open_files() == before + 2
    source.close()
    assert open_files() == before
    assert content(source, "model.step") == WEIGHTS["model.step"].tobytes()
    source.close()


def test_reading_moves_no_bytes_through_a_memory_map(tmp_path: Path) -> None:
    source = opened(single(tmp_path))
    content(source, "model.embed.weight")
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()


def test_a_file_that_shrinks_after_opening_is_named_with_the_tensor(tmp_path: Path) -> None:
    directory = single(tmp_path)
    early, late = opened(directory), opened(directory)
    content(early, "model.step")
    os.truncate(directory / "model.safetensors", 1000)
    with pytest.raises(SourceError, match=r"model\.safetensors: tensor 'model\.embed\.weight': bytes .* are needed"):
        content(early, "model.embed.weight")
    with pytest.raises(SourceError, match=r"when its header was read and has 1_000 now"):
        content(late, "model.embed.weight")


def test_identity_is_equal_exactly_while_the_source_is_unchanged(tmp_path: Path) -> None:
    directory = sharded(tmp_path)
    before = opened(directory).identity
    assert opened(directory).identity == before
    assert json.loads(json.dumps(before)) == before
    assert before["files"].keys() == {"model-0.safetensors", "model-1.safetensors"}
    os.utime(directory / "model-1.safetensors", ns=(1, 1))
    touched = opened(directory).identity
    assert touched != before
    (directory / "config.json").write_text('{"a": 1}')
    assert opened(directory).identity["config"] != touched["config"]


def test_a_single_file_of_any_name_and_links_into_a_cache_are_fine(tmp_path: Path) -> None:
    blobs = single(tmp_path / "blobs")
    links = tmp_path / "snapshot"
    links.mkdir()
    (links / "weights.safetensors").symlink_to(blobs / "model.safetensors")
    (links / "config.json").symlink_to(blobs / "config.json")
    assert content(opened(links), "model.step") == WEIGHTS["model.step"].tobytes()


def test_paths_are_relative_to_the_working_directory_and_tilde_is_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    single(tmp_path / "models" / "a")
    single(tmp_path / "b@v2")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("models/a", "./models/a/", "~/models/a", str(tmp_path / "models/a")):
        assert opened(name).tensors.keys() == WEIGHTS.keys()
    assert opened("b", "v2").tensors.keys() == WEIGHTS.keys()


def test_tensors_of_a_shard_that_the_index_does_not_list_are_kept(tmp_path: Path) -> None:
    directory = sharded(tmp_path)
    index = {
        "weight_map": {"model.embed.weight": "model-0.safetensors", "model.layers.0.weight": "model-1.safetensors"}
    }
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    assert opened(directory).tensors.keys() == WEIGHTS.keys()


def no_config(directory: Path) -> None:
    (single(directory) / "config.json").unlink()


def list_as_config(directory: Path) -> None:
    single(directory, config="[]")


def adapter(directory: Path) -> None:
    no_config(directory)
    (directory / "adapter_config.json").write_text("{}")


def bin_that_is_none(directory: Path) -> None:
    (single(directory) / "model.safetensors").rename(directory / "pytorch_model.bin")


def left_over_bin(directory: Path) -> None:
    torch_shards(directory)
    (directory / "pytorch_model.bin").write_bytes(b"")


def bin_index_with_other_files(directory: Path) -> None:
    torch_shards(directory)
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": "a.safetensors"}}))


def only_gguf(directory: Path) -> None:
    (single(directory) / "model.safetensors").rename(directory / "model.q4.gguf")


def no_weights(directory: Path) -> None:
    (single(directory) / "model.safetensors").unlink()


def two_files_no_index(directory: Path) -> None:
    (sharded(directory) / "model.safetensors.index.json").unlink()


def missing_shard(directory: Path) -> None:
    (sharded(directory) / "model-1.safetensors").unlink()


def tensor_not_in_its_shard(directory: Path) -> None:
    sharded(directory)
    save_file({"model.step": WEIGHTS["model.step"]}, directory / "model-0.safetensors")


def tensor_in_another_shard(directory: Path) -> None:
    sharded(directory)
    index = {"weight_map": {name: f"model-{i // 2}.safetensors" for i, name in enumerate(WEIGHTS)}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def tensor_in_two_shards(directory: Path) -> None:
    sharded(directory)
    save_file(dict(WEIGHTS), directory / "model-1.safetensors")


def left_over_single(directory: Path) -> None:
    sharded(directory)
    single(directory)


def truncated(directory: Path) -> None:
    os.truncate(single(directory) / "model.safetensors", 1000)


def empty_file(directory: Path) -> None:
    os.truncate(single(directory) / "model.safetensors", 0)


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (no_config, ["m/config.json: not found", "needs its config.json"]),
        (list_as_config, ["m/config.json: must hold a JSON object, got []"]),
        (adapter, ["is a LoRA adapter, not a model", "Write MODEL+ADAPTER"]),
        (bin_that_is_none, ["pytorch_model.bin: is no archive that torch.save writes", "save it as .safetensors"]),
        (left_over_bin, ["holds pytorch_model.bin and an index that names other files", "remove it"]),
        (bin_index_with_other_files, ["shard 'a.safetensors' is not a .bin file"]),
        (only_gguf, ["holds model.q4.gguf but no .safetensors", "Convert it", "save_pretrained"]),
        (no_weights, ["holds no .safetensors file"]),
        (two_files_no_index, ["holds 2 .safetensors files (model-0.safetensors, model-1", "index.json"]),
        (missing_shard, ["1 of 2 shards are missing (model-1.safetensors)"]),
        (tensor_not_in_its_shard, ["'model.embed.weight' should be in model-0.safetensors, which does not hold it"]),
        (tensor_in_another_shard, ["should be in model-0.safetensors, is in model-1.safetensors"]),
        (tensor_in_two_shards, ["is also in model-0.safetensors", "Shards of two versions are mixed"]),
        (left_over_single, ["holds model.safetensors and an index that names other files", "remove it"]),
        (truncated, ["m/model.safetensors: tensor 'model.", "the file has 1_000. It is truncated"]),
        (empty_file, ["m/model.safetensors: has 0 bytes"]),
    ],
)
def test_a_directory_that_is_no_whole_model_is_refused_in_one_line(
    tmp_path: Path, make: Callable[[Path], None], parts: list[str]
) -> None:
    make(tmp_path / "m")
    with pytest.raises(SourceError) as caught:
        opened(tmp_path / "m")
    assert "\n" not in caught.value.message
    for part in parts:
        assert part in caught.value.message


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("./models/lama", "./models/lama: there is no such directory: did you mean models/llama?"),
        ("models/llama/deeper/x", "there is no such directory, nor models/llama/deeper."),
        ("lama", "there is no such directory, and models on the Hub are called ORG/NAME."),
        ("", "a model without a name"),
        ("../x", "../x: there is no such directory"),
        ("~no-such-user/x", "'~no-such-user/x': is no path"),
        ("./" + 5000 * "a", "aaa...: is no path: File name too long."),
        ("models\\llama", "there is no such directory"),
        ("models/llama/config.json", "is a file, but none of tensors (.safetensors, .bin, .pt, .pth, .ckpt)"),
        ("https://host/model", "local directories, the Hub, s3://, gs:// and az://"),
    ],
)
def test_a_name_that_is_neither_a_directory_nor_a_repository_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, part: str
) -> None:
    single(tmp_path / "models" / "llama")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError) as caught:
        opened(name)
    assert part in caught.value.message
    assert len(caught.value.message) < 250


def test_a_revision_of_a_local_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is a local directory, which has no revisions"):
        opened(single(tmp_path), "main")


def test_each_model_is_opened_once_and_none_stays_open_when_one_fails(tmp_path: Path) -> None:
    a, b = ModelRef(str(single(tmp_path / "a"))), ModelRef(str(single(tmp_path / "b")))
    sources = open_checkpoints([b, a, b])
    assert list(sources) == [b, a]
    assert sources[a].ref == a
    with pytest.raises(SourceError, match="there is no such directory"):
        open_checkpoints([a, ModelRef(str(tmp_path / "c"))])
