"""The files that make up a model in a directory, and what is said where they do not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from engine.errors import SourceError
from engine.tensorfile.index import INDEX_NAME, read_index
from engine.tensorfile.store import StoredTensor

SINGLE_NAME = "model.safetensors"
TORCH_INDEX_NAME = "pytorch_model.bin.index.json"
TORCH_NAME = "pytorch_model.bin"
_OTHER_FORMATS = (".bin", ".gguf", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx")


def find_shards(directory: Path) -> tuple[list[str], Mapping[str, str]]:
    """The files that make up the model, and the index's weight map (empty without an index).

    Those of safetensors where there are any, else those of torch.save.
    """
    names = sorted(path.name for path in directory.glob("*.safetensors"))
    for index, single in ((INDEX_NAME, SINGLE_NAME), (TORCH_INDEX_NAME, TORCH_NAME)):
        if (directory / index).is_file():
            return _indexed(directory, index, single)
        if (directory / single).is_file():
            return [single], {}
        if len(names) == 1:
            return names, {}
        if names:
            raise no_index(str(directory), names)
    raise no_weights(str(directory), sorted(path.name for path in directory.iterdir()))


def _indexed(directory: Path, index: str, single: str) -> tuple[list[str], Mapping[str, str]]:
    weight_map = read_index(directory / index)
    files = sorted(set(weight_map.values()))
    if (directory / single).is_file() and single not in files:
        raise SourceError(
            f"{directory}: holds {single} and an index that names other files. One of the two is a left-over: "
            "remove it."
        )
    return files, weight_map


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


def check_weight_map(weight_map: Mapping[str, str], tensors: Mapping[str, StoredTensor], directory: Path) -> None:
    # Tensors that the index does not list are kept: transformers loads whole shards, and nothing is dropped silently.
    for name, file in weight_map.items():
        if name not in tensors:
            raise SourceError(
                f"{directory / INDEX_NAME}: tensor {name!r} should be in {file}, which does not hold it. "
                "Index and shards are of two versions: download the model again.",
                tensor=name,
            )
        if tensors[name].file != directory / file:
            raise SourceError(
                f"{directory / INDEX_NAME}: tensor {name!r} should be in {file}, is in {tensors[name].file.name}. "
                "Index and shards are of two versions: download the model again.",
                tensor=name,
            )
