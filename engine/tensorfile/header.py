"""The header of a safetensors file: bytes ↔ dataclasses, every number checked, no file touched but in read_header.

Format (https://github.com/huggingface/safetensors, README "Format"): 8 bytes little-endian length N, N bytes of
JSON {name: {dtype, shape, data_offsets: [begin, end)}}, then the data, which the tensors cover without hole or overlap.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from engine.errors import PlanError, SourceError, did_you_mean

ITEMSIZE: dict[str, int] = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "F8_E4M3FNUZ": 1,
    "F8_E5M2FNUZ": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
    "C64": 8,
}
"""Bytes per element by dtype code. The format's sub-byte codes (F4, F6_E2M3, F6_E3M2) are not supported."""

MAX_HEADER_BYTES = 100_000_000  # the limit of the reference implementation; 45k tensors take 6 MB
_LENGTH_BYTES = 8
_ALIGNMENT = 8
_FIELDS = frozenset({"dtype", "shape", "data_offsets"})
_MAX_COUNT = 2**63 - 1
_MAX_DIMENSIONS = 64  # torch's own limit; keeps the product of a hostile shape small


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a file; `start` and `end` are byte offsets from the beginning of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def nbytes(self) -> int:
        return self.end - self.start

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Header:
    """All tensors of a file in the order of their bytes, its free-form metadata, and where the data begins."""

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    data_start: int


def parse_header(data: bytes, *, file_size: int, origin: str) -> Header:
    """Parse and check the first bytes of a safetensors file.

    Args:
        data: the file's beginning, at least the 8 length bytes and the JSON text (more does no harm).
        file_size: size of the whole file in bytes; the tensors must end exactly there.
        origin: the file's name for messages.

    Raises:
        SourceError: anything at all is wrong; the message names the file and, where there is one, the tensor.
    """
    length = header_length(data, file_size=file_size, origin=origin)
    data_start = _LENGTH_BYTES + length
    if len(data) < data_start:
        raise SourceError(f"{origin}: the header takes {data_start:_} bytes, only {len(data):_} could be read.")
    entries = _load_json(data[_LENGTH_BYTES:data_start], origin)
    metadata = _check_metadata(entries.pop("__metadata__", None), origin)
    tensors = [_check_tensor(name, entry, data_start, origin) for name, entry in entries.items()]
    tensors.sort(key=lambda tensor: (tensor.start, tensor.end))
    _check_cover(tensors, data_start, file_size, origin)
    return Header({tensor.name: tensor for tensor in tensors}, metadata, data_start)


def header_length(data: bytes, *, file_size: int, origin: str) -> int:
    """Length of the JSON text from a file's first 8 bytes, checked against `file_size`; SourceError if impossible."""
    if data.startswith(b"version "):
        raise SourceError(f"{origin}: is a git-lfs pointer, not the data. Run `git lfs pull` in its repository.")
    if len(data) < _LENGTH_BYTES:
        raise SourceError(f"{origin}: has {file_size:_} bytes, too few for a safetensors file. Download it again.")
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    if length > MAX_HEADER_BYTES:
        raise SourceError(
            f"{origin}: claims a header of {length:_} bytes, the limit is {MAX_HEADER_BYTES:_}. "
            "It is not a safetensors file, or damaged: download it again."
        )
    if length + _LENGTH_BYTES > file_size:
        raise SourceError(
            f"{origin}: the header ends at byte {length + _LENGTH_BYTES:_}, the file has {file_size:_}. "
            "It is truncated: download it again."
        )
    return length


def read_header_bytes(path: Path) -> tuple[bytes, int]:
    """A file's length bytes and JSON text, unparsed, and the file's size; SourceError where they cannot be read."""
    try:
        with path.open("rb") as file:
            file_size = os.fstat(file.fileno()).st_size
            start = file.read(_LENGTH_BYTES)
            length = header_length(start, file_size=file_size, origin=str(path))
            return start + file.read(length), file_size
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}.") from error


def read_header(path: Path) -> Header:
    """The checked header of a safetensors file; SourceError on anything wrong."""
    data, file_size = read_header_bytes(path)
    return parse_header(data, file_size=file_size, origin=str(path))


def build_header(
    tensors: Sequence[tuple[str, str, tuple[int, ...]]], metadata: Mapping[str, str]
) -> tuple[bytes, Header]:
    """Lay out `(name, dtype, shape)` tensors in the given order, without holes.

    Returns the file's first bytes, padded with spaces to a multiple of 8, and the same as a Header. Readers want
    tensors aligned to their element size: since holes are not allowed, give wide dtypes first.

    Raises PlanError on an unknown dtype, a negative dimension or a name given twice.
    """
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for name, dtype, shape in tensors:
        if name in entries or name == "__metadata__":
            raise PlanError(f"tensor {name!r} cannot be written twice in one file.")
        if dtype not in ITEMSIZE:
            raise PlanError(f"tensor {name!r} has dtype {dtype!r}: {did_you_mean(dtype, ITEMSIZE)}")
        if any(size < 0 for size in shape):
            raise PlanError(f"tensor {name!r} has shape {list(shape)}: dimensions must not be negative.")
        end = position + math.prod(shape) * ITEMSIZE[dtype]
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    data = len(text).to_bytes(_LENGTH_BYTES, "little") + text
    return data, parse_header(data, file_size=len(data) + position, origin="the header to be written")


def _load_json(text: bytes, origin: str) -> dict[str, Any]:
    if not text.startswith(b"{"):  # the format says so; json would also take leading white space
        raise SourceError(f"{origin}: the header does not begin with '{{'. It is damaged: download it again.")
    try:
        entries = json.loads(text.decode(), object_pairs_hook=_refuse_duplicates, parse_constant=_refuse_constant)
    except SourceError as error:
        raise SourceError(f"{origin}: {error.message}", **error.facts) from None
    except UnicodeDecodeError as error:
        raise SourceError(f"{origin}: the header is not UTF-8 at byte {8 + error.start:_}: it is damaged.") from error
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{origin}: the header is not valid JSON ({error}): it is damaged.") from error
    assert isinstance(entries, dict)  # it begins with '{'
    return entries


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise SourceError(f"{twice!r} stands twice in one object of the header: it is damaged.", name=twice)
    return entries


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _check_metadata(metadata: object, origin: str) -> dict[str, str]:
    if metadata is None:
        return {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise SourceError(f"{origin}: '__metadata__' must map names to strings, got {_short(metadata)}.")
    return metadata


def _check_tensor(name: str, entry: object, data_start: int, origin: str) -> TensorInfo:
    if type(entry) is not dict or not entry.keys() >= _FIELDS:
        raise _malformed(origin, name, f"needs dtype, shape and data_offsets, got {_short(entry)}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if type(dtype) is not str or dtype not in ITEMSIZE:
        advice = did_you_mean(str(dtype), ITEMSIZE)
        raise SourceError(f"{origin}: tensor {name!r} has dtype {_short(dtype)}, which is not supported: {advice}")
    if not _are_counts(shape):
        raise _malformed(origin, name, f"has shape {_short(shape)}, a list of at most 64 integers ≥ 0 is needed")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _malformed(origin, name, f"has data_offsets {_short(offsets)}, [begin, end] with begin ≤ end is needed")
    if not name.isascii() and any(0xD800 <= ord(char) <= 0xDFFF for char in name):
        raise _malformed(origin, name, "has half a surrogate pair in its name, which is not Unicode text")
    begin, end = offsets
    expected = math.prod(shape) * ITEMSIZE[dtype]
    if end - begin != expected:
        raise _malformed(
            origin, name, f"of shape {_short(shape)} and dtype {dtype} takes {expected:_} bytes, got {end - begin:_}"
        )
    # sources and plans have the same names: one string serves all of them
    return TensorInfo(sys.intern(name), sys.intern(dtype), tuple(shape), data_start + begin, data_start + end)


def _are_counts(numbers: object) -> bool:
    # type() rather than isinstance(): JSON's true is an int in Python.
    if type(numbers) is not list or len(numbers) > _MAX_DIMENSIONS:
        return False
    for number in numbers:  # noqa: SIM110 (all() over a generator takes three times as long; 45k tensors ask twice)
        if type(number) is not int or not 0 <= number <= _MAX_COUNT:
            return False
    return True


def _check_cover(tensors: Iterable[TensorInfo], data_start: int, file_size: int, origin: str) -> None:
    position, previous = data_start, "the header"
    for tensor in tensors:
        if tensor.end > file_size:
            raise SourceError(
                f"{origin}: tensor {tensor.name!r} ends at byte {tensor.end:_}, the file has {file_size:_}. "
                "It is truncated: download it again.",
                tensor=tensor.name,
            )
        if tensor.start != position:
            relation = "overlaps" if tensor.start < position else "leaves a hole after"
            found = f"begins at byte {tensor.start:_} and {relation} {previous}, which ends at {position:_}"
            raise _malformed(origin, tensor.name, found)
        position, previous = tensor.end, repr(tensor.name)
    if position != file_size:
        raise SourceError(
            f"{origin}: the tensors end at byte {position:_}, the file has {file_size:_}. "
            "Something else was appended, or the header is damaged: download it again."
        )


def _malformed(origin: str, name: str, found: str) -> SourceError:
    return SourceError(f"{origin}: tensor {name!r} {found}. The file is damaged or not safetensors.", tensor=name)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
