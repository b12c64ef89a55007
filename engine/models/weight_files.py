"""The files that make up a model in a directory, and what is said where they do not."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from engine.errors import SourceError
from engine.tensorfile.index import INDEX_NAME, read_index

SINGLE_NAME = "model.safetensors"
TORCH_INDEX_NAME = "pytorch_model.bin.index.json"
TORCH_NAME = "pytorch_model.bin"
_OTHER_FORMATS = (".bin", ".gguf", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx")


def find_shards(directory: Path) -> tuple[list[str], Mapping[str, str]]:
    """The files that make up the model, and the index's weight map (empty without an index).

    Those of safetensors where there are any, else those of torch.save.
    """
    there = [path.name for path in directory.iterdir()]
    return choose_shards(there, directory, exists=lambda name: (directory / name).is_file(), origin=str(directory))


def choose_shards(
    there: Collection[str], directory: Path, *, exists: Callable[[str], bool], origin: str
) -> tuple[list[str], Mapping[str, str]]:
    """The same for the files `there` at `origin`, of which only the small ones need to be in `directory`."""
    names = sorted(name for name in there if name.endswith(".safetensors"))
    for index, single in ((INDEX_NAME, SINGLE_NAME), (TORCH_INDEX_NAME, TORCH_NAME)):
        if index in there:
            weight_map = read_index(directory / index, exists=exists)
            files = sorted(set(weight_map.values()))
            if single in there and single not in files:
                raise SourceError(
                    f"{origin}: holds {single} and an index that names other files. One of the two is a left-over: "
                    "remove it."
                )
            return files, weight_map
        if single in there:
            return [single], {}
        if len(names) == 1:
            return names, {}
        if names:
            raise no_index(origin, names)
    raise no_weights(origin, sorted(there))


def no_index(origin: str, names: list[str]) -> SourceError:
    found = f"{len(names)} .safetensors files ({', '.join(names[:3])}, ...)"
    return SourceError(f"{origin}: holds {found} but no {INDEX_NAME}, which says how they belong together: get it too.")


def no_weights(origin: str, names: Iterable[str]) -> SourceError:
    others = [name for name in names if name.endswith(_OTHER_FORMATS)]
    if others:
        return SourceError(
            f"{origin}: holds {others[0]} but no .safetensors file and no {TORCH_NAME}, and other formats are not "
            "supported. Convert it: AutoModelForCausalLM.from_pretrained(OLD, dtype='auto').save_pretrained(NEW)."
        )
    return SourceError(f"{origin}: holds no .safetensors file. Name the directory with the model's weights.")


def check_weight_map(weight_map: Mapping[str, str], places: Mapping[str, str], *, index: str) -> None:
    """SourceError where a tensor's shard (`places`) is not the one that the index says."""
    # Tensors that the index does not list are kept: transformers loads whole shards, and nothing is dropped silently.
    for name, file in weight_map.items():
        if name not in places:
            raise SourceError(
                f"{index}: tensor {name!r} should be in {file}, which does not hold it. "
                "Index and shards are of two versions: download the model again.",
                tensor=name,
            )
        if places[name] != file:
            raise SourceError(
                f"{index}: tensor {name!r} should be in {file}, is in {places[name]}. "
                "Index and shards are of two versions: download the model again.",
                tensor=name,
            )
