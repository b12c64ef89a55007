"""Where the tensors of a file that torch.save wrote lie (.bin, .pt, .pth, .ckpt), so that they are read by ranges.

Such a file is a zip archive without compression: `data.pkl` says names, shapes and storages, every storage is one
record. torch's restricted unpickler (`weights_only=True`) reads the former onto the meta device, so nothing is executed
and no data is read; torch notes the place of every storage, which is checked here against the archive's directory.
"""

from __future__ import annotations

import json
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import SourceError
from engine.tensorfile.header import Header, TensorInfo

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
_CODES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "uint16": "U16",
    "int16": "I16",
    "float16": "F16",
    "bfloat16": "BF16",
    "uint32": "U32",
    "int32": "I32",
    "float32": "F32",
    "uint64": "U64",
    "int64": "I64",
    "float64": "F64",
    "complex64": "C64",
}
"""torch's names of dtypes → safetensors codes."""
_LOCAL_HEADER = struct.Struct("<26x2H")  # of a zip record; at its end the lengths of name and extra field


def read_torch_header(path: Path) -> tuple[Header, bytes]:
    """Every tensor of the file, by name, in the order of their bytes, and bytes that change when any of this does.

    The file holds a mapping of names to tensors, or such a mapping under `state_dict`. SourceError, one line, naming
    file and entry, where it holds anything else, is of torch's old format, compressed or damaged.
    """
    records = _records(path)
    tensors = [_info(path, name, value, records) for name, value in _load(path).items()]
    tensors.sort(key=lambda tensor: (tensor.start, tensor.name))
    listed = json.dumps([[info.name, info.dtype, info.shape, info.start] for info in tensors])
    return Header({info.name: info for info in tensors}, {}, 0), listed.encode()


def _records(path: Path) -> dict[int, int]:
    """End by start of every record of the archive, in bytes of the file."""
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            records = {}
            for record in archive.infolist():
                if record.compress_type != zipfile.ZIP_STORED:
                    raise SourceError(
                        f"{path}: is a compressed archive, torch.save writes none. Save it with torch again."
                    )
                if record.filename.endswith("/byteorder") and archive.read(record) != b"little":
                    raise SourceError(f"{path}: was written on a big-endian machine. Save it on another one.")
                file.seek(record.header_offset)
                name_length, extra_length = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
                start = record.header_offset + _LOCAL_HEADER.size + name_length + extra_length
                records[start] = start + record.file_size
            return records
    except zipfile.BadZipFile as error:
        raise SourceError(
            f"{path}: is no archive that torch.save writes since version 1.6 (older files, and damaged ones, are not "
            "read): load it once with torch and save it as .safetensors."
        ) from error
    except (OSError, struct.error) as error:
        raise SourceError(f"{path}: cannot be read: {error}.") from error


def _load(path: Path) -> Mapping[str, Any]:
    """The mapping of names to tensors on the meta device: shapes and places without data."""
    import torch

    # the name only: nothing here unpickles but torch itself
    refused = torch.serialization.pickle.UnpicklingError  # type: ignore[attr-defined]
    try:
        loaded = torch.load(path, map_location="meta", weights_only=True, mmap=True)
    except (refused, RuntimeError, ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
        raise SourceError(
            f"{path}: holds something else than tensors, or is damaged, and is not loaded, because that could run code "
            f"({_reason(error)}). Save its tensors alone, best as .safetensors."
        ) from error
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping) or not loaded:
        raise SourceError(f"{path}: must hold a mapping of names to tensors, got {type(loaded).__name__}.")
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise SourceError(f"{path}: {name!r} is no tensor but {type(value).__name__}: save the tensors alone.")
    return loaded


def _reason(error: Exception) -> str:
    """Why torch refuses a file, without its advice to turn the restriction off."""
    text = str(error).strip()
    if (asked := re.search(r"GLOBAL ([\w.]+)", text)) is not None:
        return f"it asks for {asked[1]}"
    first = (text.splitlines() or [""])[0]
    return type(error).__name__ if not first or "weights_only" in text else first


def _info(path: Path, name: str, tensor: Tensor, records: Mapping[int, int]) -> TensorInfo:
    dtype = _CODES.get(str(tensor.dtype).removeprefix("torch."))
    if dtype is None or str(tensor.layout) != "torch.strided":
        raise SourceError(f"{path}: tensor {name!r} is {tensor.dtype}, {tensor.layout}: not supported.", tensor=name)
    if not tensor.is_contiguous():
        raise SourceError(
            f"{path}: tensor {name!r} is a view that is not stored row by row: save it with .contiguous().", tensor=name
        )
    record = tensor.untyped_storage()._checkpoint_offset
    start = (record or 0) + int(tensor.storage_offset()) * tensor.itemsize
    end = start + tensor.numel() * tensor.itemsize
    if record is None or end > records.get(record, 0):
        raise SourceError(
            f"{path}: tensor {name!r} lies in no record of the archive: it is damaged, or this torch "
            "does not say where it is. Save it as .safetensors.",
            tensor=name,
        )
    return TensorInfo(name, dtype, tuple(tensor.shape), start, end)
