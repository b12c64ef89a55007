"""A model in an object store: small files are fetched into a private directory, weights are read by ranges."""

from __future__ import annotations

import atexit
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from blake3 import blake3

from engine.errors import InputError, SourceError
from engine.models.places import WEIGHT_FILES
from engine.models.tokenizer import MODEL_FILES, TOKENIZER_FILES
from engine.models.weight_files import SINGLE_NAME, check_weight_map, choose_shards
from engine.recipes.model_ref import ModelRef
from engine.remote.ahead import RangeFile, RangeStore
from engine.remote.bucket import Bucket, Found
from engine.remote.layout import BEGUN, MANIFEST
from engine.remote.url import parse_url
from engine.tensorfile.index import INDEX_NAME, load_json_object

SMALL_FILES = ("*.json", "*.jinja", "*.txt", "*.py", "*.model", "additional_chat_templates/*.jinja")
_PROBED = (
    "config.json",
    BEGUN,
    MANIFEST,
    INDEX_NAME,
    SINGLE_NAME,
    *TOKENIZER_FILES,
    *MODEL_FILES,
    "chat_template.jinja",
)
"""What is looked for where an account may read but not list."""
_SMALL_BYTES = 100_000_000
_COPIED_BYTES = 8 << 20
_AT_ONCE = 16


@dataclass(frozen=True)
class RemoteModel:
    """A model's small files, in `directory` for as long as `store` lives, and its tensors."""

    directory: Path
    store: RangeStore
    files: dict[str, Any]


class BucketRanges:
    """Files of one place in an object store, by ranges: see engine.remote.ahead.Ranges."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def cached(self, file: RangeFile) -> None:
        """Nothing of a bucket is kept on this machine."""

    def read(self, file: RangeFile, start: int, end: int) -> memoryview:
        return self._bucket.read(file.name, start, end, etag=file.etag)

    def stamp(self, name: str) -> tuple[int, str | None]:
        found = self._bucket.head(name)
        return (found.size, found.etag) if found else (-1, None)

    def __str__(self) -> str:
        return str(self._bucket.url)


def open_bucket_model(ref: ModelRef) -> RemoteModel:
    """The model at an s3://, gs:// or az:// place. SourceError, one line, where there is none that can be read."""
    with _named(ref):
        return _open(ref)


def _open(ref: ModelRef) -> RemoteModel:
    bucket = _bucket_of(ref)
    directory = private_directory()
    listed = bucket.list()
    there = listed if listed is not None else _heads(bucket, _PROBED)
    if not there and bucket.url.name.endswith(WEIGHT_FILES):
        raise SourceError(f"{bucket.url}: names a file: name the folder that holds it and config.json.")
    if not there:
        raise SourceError(f"{bucket.url}: there is nothing under this prefix: name the place that holds config.json.")
    if BEGUN in there and MANIFEST not in there:
        raise SourceError(f"{bucket.url}: is an output that is not finished: run the merge that makes it again.")
    _fetch_small(bucket, there, directory)
    with at_its_place(directory, bucket.url):
        if listed is None and (directory / INDEX_NAME).is_file():
            there |= _heads(bucket, _named_in(directory / INDEX_NAME))
        top = [name for name in there if "/" not in name]
        shards, weight_map = choose_shards(top, directory, exists=there.__contains__, origin=str(bucket.url))
    if not all(name.endswith(".safetensors") for name in shards):
        raise SourceError(f"{ref}: {shards[0]} is no .safetensors file; only those are read from object stores.")
    files = [RangeFile(name, there[name].size, there[name].etag) for name in shards]
    store = RangeStore(BucketRanges(bucket), files)
    weakref.finalize(store, shutil.rmtree, directory, ignore_errors=True)
    places = {tensor.name: tensor.file.name for tensor in store.tensors.values()}
    check_weight_map(weight_map, places, index=f"{bucket.url}/{INDEX_NAME}")
    return RemoteModel(directory, store, store.files)


def fetch_adapter(ref: ModelRef, weights: Iterable[str]) -> tuple[Path, dict[str, Any]]:
    """A copy of an adapter, which is small, in a directory of this process; and what tells this state of it."""
    with _named(ref):
        bucket = _bucket_of(ref)
        there = bucket.list()
    there = there if there is not None else _heads(bucket, (*_PROBED, "adapter_config.json", *weights))
    directory = private_directory()
    _fetch_small(bucket, there, directory)
    files = {name: there[name] for name in weights if name in there}
    for name, found in files.items():
        with (directory / name).open("wb") as file:
            for start in range(0, found.size, _COPIED_BYTES):
                file.write(bucket.read(name, start, min(start + _COPIED_BYTES, found.size), etag=found.etag))
    config = there.get("adapter_config.json", Found(0, None))
    stamps = {name: [found.size, found.etag] for name, found in files.items()}
    return directory, {"kind": "bucket", "url": ref.path.rstrip("/"), "config": config.etag, "weights": stamps}


def identity_of(ref: ModelRef, model: RemoteModel) -> dict[str, Any]:
    """What tells this state of the source from every other one: ETags and sizes, and digests of what was read."""
    config = model.directory / "config.json"
    digest = blake3(config.read_bytes()).hexdigest() if config.is_file() else None
    return {"kind": "bucket", "url": ref.path.rstrip("/"), "config": digest, "files": model.files}


@contextmanager
def _named(ref: ModelRef) -> Iterator[None]:
    """Errors carry the model's name, by which whoever read a recipe finds the key that names it."""
    try:
        yield
    except InputError as error:
        raise SourceError(error.message, **{**error.facts, "missing": ref.path}) from error


@contextmanager
def at_its_place(directory: Path, place: object) -> Iterator[None]:
    """Errors about the copies in `directory` name the place that they were fetched from."""
    try:
        yield
    except SourceError as error:
        raise SourceError(error.message.replace(str(directory), str(place)), **error.facts) from error


def private_directory() -> Path:
    """A new directory that only this user can look into, and that goes with the process."""
    directory = Path(tempfile.mkdtemp(prefix="mergefleet-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory


def _bucket_of(ref: ModelRef) -> Bucket:
    url = parse_url(ref.path)
    if ref.revision is not None:
        raise SourceError(f"{url}: a place in an object store has no revisions. Drop {ref.revision!r}.")
    return Bucket(url)


def _fetch_small(bucket: Bucket, there: Mapping[str, Found], directory: Path) -> None:
    names = [name for name, found in there.items() if is_small(name) and found.size <= _SMALL_BYTES]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for name, data in zip(names, pool.map(bucket.get, names), strict=True):
            if data is not None:
                (directory / name).parent.mkdir(exist_ok=True)
                (directory / name).write_bytes(data)


def is_small(name: str) -> bool:
    """Whether it is one of the files beside the weights that a merge looks at."""
    return any(fnmatch(name, pattern) and name.count("/") == pattern.count("/") for pattern in SMALL_FILES)


def _heads(bucket: Bucket, names: Iterable[str]) -> dict[str, Found]:
    """Those of the objects that are there."""
    wanted = list(names)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = dict(zip(wanted, pool.map(bucket.head, wanted), strict=True))
    return {name: there for name, there in found.items() if there is not None}


def _named_in(index: Path) -> list[str]:
    """The shards of an index; what is wrong with it is for `read_index` to say."""
    weight_map = load_json_object(index).get("weight_map")
    return sorted(set(map(str, weight_map.values()))) if isinstance(weight_map, dict) else []
