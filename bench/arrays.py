"""Storage dtypes as numpy, and the safetensors layout in a few lines, independent of the engine's.

bfloat16 has no numpy dtype: its 16 bits travel as uint16, and `decode` and `encode` convert.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

NUMPY_OF: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "BOOL": np.dtype("?"),
}


def to_bf16(values: Array) -> Array:
    """float32 → the 16 bits of bfloat16, rounded to nearest, ties to even; finite values only."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    return ((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)).astype(np.uint16)


def from_bf16(bits: Array) -> Array:
    """The 16 bits of bfloat16 → float32, exactly."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def encode(values: Array, dtype: str) -> Array:
    """Values → an array whose bytes are their storage as `dtype` (a safetensors code)."""
    return to_bf16(values) if dtype == "BF16" else np.asarray(values).astype(NUMPY_OF[dtype])


def decode(stored: Array, dtype: str) -> Array:
    """Inverse of `encode`: float32 for BF16, else the numpy dtype itself."""
    return from_bf16(stored) if dtype == "BF16" else stored


def header(tensors: Sequence[tuple[str, str, tuple[int, ...]]]) -> tuple[bytes, dict[str, int]]:
    """(name, dtype, shape) in file order → the bytes before the data, and where each tensor starts in the file."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end, starts = 0, {}
    for name, dtype, shape in tensors:
        starts[name], end = end, end + int(np.prod(shape, dtype=np.int64)) * NUMPY_OF[dtype].itemsize
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [starts[name], end]}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    data_start = 8 + len(text)
    return len(text).to_bytes(8, "little") + text, {name: data_start + start for name, start in starts.items()}


def write_file(path: Path, tensors: Mapping[str, tuple[str, Array]]) -> None:
    """Write {name: (dtype, stored array)} as one safetensors file, in the given order."""
    head, starts = header([(name, dtype, stored.shape) for name, (dtype, stored) in tensors.items()])
    with path.open("wb") as file:
        file.write(head)
        for name, (_, stored) in tensors.items():
            assert file.tell() == starts[name]
            file.write(np.ascontiguousarray(stored).tobytes())


def read_file(path: Path) -> Iterator[tuple[str, str, Array]]:
    """(name, dtype, stored array), mapped read-only from one safetensors file, in the order of the header."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entries = json.loads(file.read(length))
    for name, entry in entries.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        dtype, shape = entry["dtype"], tuple(entry["shape"])
        if begin == end:
            yield name, dtype, np.zeros(shape, NUMPY_OF[dtype])
            continue
        yield name, dtype, np.memmap(path, NUMPY_OF[dtype], "r", 8 + length + begin, shape)


def read_model(directory: Path) -> dict[str, tuple[str, Array]]:
    """Every tensor of a model directory (one file or sharded) as {name: (dtype, stored array)}."""
    tensors: dict[str, tuple[str, Array]] = {}
    for path in sorted(directory.glob("*.safetensors")):
        for name, dtype, stored in read_file(path):
            assert name not in tensors, f"{name} is in two files of {directory}"
            tensors[name] = (dtype, stored)
    return tensors


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a model directory, in name order."""
    return sorted(directory.glob("*.safetensors"))


def model_bytes(directory: Path) -> int:
    """Bytes of all safetensors files of a model directory."""
    return sum(path.stat().st_size for path in weight_files(directory))
