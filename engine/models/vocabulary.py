"""The vocabulary of a model: token → id, read from its tokenizer's files without a tokenizer class.

`tokenizer.json` (https://huggingface.co/docs/tokenizers), or `vocab.json`, `vocab.txt` or a sentencepiece model where
there is none; to all of them come the added tokens of `added_tokens.json` and `tokenizer_config.json`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from blake3 import blake3

from engine.errors import SourceError
from engine.tensorfile.index import load_json_object


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The vocabulary that `file` holds; it is parsed when `ids` is first asked for."""

    file: Path

    @cached_property
    def fingerprint(self) -> str:
        """Equal fingerprints mean equal vocabularies; finding them out takes a hundredth of what parsing takes."""
        return blake3(_content(self.file) + json.dumps(self._added).encode()).hexdigest()

    @cached_property
    def ids(self) -> Mapping[str, int]:
        """Token → id. SourceError where the file is damaged."""
        try:
            ids = dict(_READERS[self.file.name](_content(self.file)))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
            raise SourceError(f"{self.file}: is no vocabulary that can be read ({error}): get it again.") from error
        taken = set(ids.values())
        return ids | {token: number for token, number in self._added.items() if number not in taken}

    @cached_property
    def _added(self) -> dict[str, int]:
        """Added tokens that are kept in files of their own."""
        added: dict[str, int] = {}
        file, settings = (self.file.with_name(name) for name in ("added_tokens.json", "tokenizer_config.json"))
        if file.is_file():
            added |= {token: number for token, number in load_json_object(file).items() if isinstance(number, int)}
        decoder = load_json_object(settings).get("added_tokens_decoder") if settings.is_file() else None
        for number, entry in decoder.items() if isinstance(decoder, dict) else ():
            if number.isdecimal() and isinstance(entry, dict) and isinstance(entry.get("content"), str):
                added[entry["content"]] = int(number)
        return added


@dataclass(frozen=True)
class Difference:
    """How a vocabulary differs from another: tokens with another id there, and tokens that are not there."""

    moved: tuple[str, ...]
    missing: tuple[str, ...]


def find_vocabulary(directory: Path) -> Vocabulary | None:
    """The vocabulary in a model's directory; None where there is no file of a known format."""
    return next((Vocabulary(directory / name) for name in _READERS if (directory / name).is_file()), None)


@lru_cache(maxsize=256)  # a campaign asks for every candidate, of the same few vocabularies
def compare(first: Vocabulary, second: Vocabulary) -> Difference:
    """The tokens of `first`, in order of id, that `second` has at another id, and those it does not have."""
    if first.fingerprint == second.fingerprint:
        return Difference((), ())
    ids, others = first.ids, second.ids
    differing = sorted((token for token, number in ids.items() if others.get(token) != number), key=ids.__getitem__)
    moved = tuple(token for token in differing if token in others)
    return Difference(moved, tuple(token for token in differing if token not in others))


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise SourceError(f"{file}: cannot be read: {error.strerror}.") from error


def _tokenizer_json(data: bytes) -> Iterator[tuple[str, int]]:
    tokenizer = json.loads(data)
    vocabulary = tokenizer["model"]["vocab"]
    if isinstance(vocabulary, dict):
        yield from vocabulary.items()
    else:  # Unigram: [token, score] in order of id
        yield from ((token, number) for number, (token, _) in enumerate(vocabulary))
    yield from ((entry["content"], entry["id"]) for entry in tokenizer.get("added_tokens") or [])


def _vocab_json(data: bytes) -> Iterator[tuple[str, int]]:
    yield from json.loads(data).items()


def _vocab_txt(data: bytes) -> Iterator[tuple[str, int]]:
    yield from ((line.rstrip("\r"), number) for number, line in enumerate(data.decode().removesuffix("\n").split("\n")))


def _sentencepiece(data: bytes) -> Iterator[tuple[str, int]]:
    """Field 1 of ModelProto, repeated: SentencePiece, whose field 1 is the text (sentencepiece_model.proto)."""
    pieces = (value for field, value in _fields(data) if field == 1)
    for number, piece in enumerate(pieces):
        yield next(value for field, value in _fields(piece) if field == 1).decode(), number


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of every field of a protobuf message (https://protobuf.dev/programming-guides/encoding)."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        kind = key & 7
        if kind == 0:
            value, place = _varint(data, place)
            yield key >> 3, value
            continue
        size = {1: 8, 5: 4}.get(kind)
        if kind == 2:
            size, place = _varint(data, place)
        if size is None or place + size > len(data):
            raise ValueError("no sentencepiece model")
        yield key >> 3, data[place : place + size]
        place += size


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64:
        byte = data[place]
        value, place, shift = value | (byte & 127) << shift, place + 1, shift + 7
        if byte < 128:
            return value, place
    raise ValueError("no sentencepiece model")


_READERS: dict[str, Callable[[bytes], Iterator[tuple[str, int]]]] = {
    "tokenizer.json": _tokenizer_json,
    "vocab.json": _vocab_json,
    "vocab.txt": _vocab_txt,
    "tokenizer.model": _sentencepiece,
    "spiece.model": _sentencepiece,
    "sentencepiece.bpe.model": _sentencepiece,
}
"""How each file is read, in the order in which they are looked for."""
