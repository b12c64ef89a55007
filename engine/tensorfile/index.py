"""`model.safetensors.index.json` (or `pytorch_model.bin.index.json`): which shard file holds which tensor."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from engine.errors import SourceError

INDEX_NAME = "model.safetensors.index.json"
_MAX_JSON_BYTES = 100_000_000
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_index(path: Path, *, exists: Callable[[str], bool] | None = None) -> Mapping[str, str]:
    """Tensor name → shard file name, relative to the index and inside its directory.

    `exists`: whether a shard of this name is there; default: beside the index.

    Raises SourceError where the index is malformed, names a file outside its directory (an index is downloaded
    data: `../../etc/passwd` must not be opened), a file of another format, or one that is not there.
    """
    data = load_json_object(path)
    weight_map = data.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise SourceError(f"{path}: 'weight_map' must map tensor names to shard files, got {_short(weight_map)}.")
    for name, file in weight_map.items():
        if not isinstance(file, str):
            raise SourceError(f"{path}: tensor {name!r} must name a shard file, got {_short(file)}.")
    files = sorted(set(weight_map.values()))
    for file in files:
        _check_file_name(file, path)
    missing = [file for file in files if not (exists or _beside(path))(file)]
    if missing:
        raise SourceError(
            f"{path}: {len(missing)} of {len(files)} shards are missing ({_some(missing)}). "
            "The download is incomplete: finish it.",
            missing=missing,
        )
    return weight_map


def build_index(weight_map: Mapping[str, str], total_size: int) -> str:
    """The JSON text of an index: shard file by tensor name, and the bytes of all tensors together."""
    index = {"metadata": {"total_size": total_size}, "weight_map": dict(sorted(weight_map.items()))}
    return json.dumps(index, ensure_ascii=False, indent=2) + "\n"


def load_json_object(path: Path) -> dict[str, Any]:
    """A small JSON file that must hold an object; SourceError naming the file where it does not."""
    try:
        if (size := path.stat().st_size) > _MAX_JSON_BYTES:
            raise SourceError(f"{path}: has {size:_} bytes, the limit is {_MAX_JSON_BYTES:_}: not what it should be.")
        text = path.read_bytes().decode()
        data = json.loads(text, object_pairs_hook=_refuse_duplicates)
        if _SURROGATE.search(text):  # half a pair is no text: it could not be written again
            json.dumps(data, ensure_ascii=False).encode()
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise SourceError(f"{path}: is not valid JSON ({error}). Repair it or download it again.") from error
    if not isinstance(data, dict):
        raise SourceError(f"{path}: must hold a JSON object, got {_short(data)}.")
    return data


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"{twice!r} stands twice in one object")
    return data


def _check_file_name(file: str, index: Path) -> None:
    parts = PurePosixPath(file).parts
    inside = parts and not file.startswith("/") and ".." not in parts and not any(char in file for char in "\\:\0")
    if not inside:
        raise SourceError(f"{index}: shard {file!r} lies outside the model's directory: refused.", file=file)
    expected = ".bin" if index.name.endswith(".bin.index.json") else ".safetensors"
    if not file.endswith(expected):
        raise SourceError(f"{index}: shard {file!r} is not a {expected} file: only those are read.", file=file)


def _beside(index: Path) -> Callable[[str], bool]:
    return lambda file: (index.parent / file).is_file()


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
