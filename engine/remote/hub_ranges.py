"""A repository on the Hugging Face Hub read by ranges, without a download: `--stream`.

The small files come into the Hub's cache, at one commit, as for a download. Weight files are asked for range by range
at the address where the Hub says that they lie, mostly another host's, signed for an hour or so; that host is never
sent the token.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from engine.errors import SourceError
from engine.models import hub
from engine.models.weight_files import check_weight_map, choose_shards
from engine.recipes.model_ref import ModelRef
from engine.remote.ahead import RangeFile, RangeStore
from engine.tensorfile.index import INDEX_NAME
from engine.tensorfile.reader import read_exactly

Result = TypeVar("Result")
_TIMEOUT_S = 60.0
_SHORT_TRIES = 4
_EXPIRED = (401, 403, 410)
_AT_ONCE = 16


class HubRanges:
    """Files of one repository at one commit, by ranges: see engine.remote.ahead.Ranges.

    What an earlier download left in the cache, in `directory`, is read from there.
    """

    def __init__(self, ref: ModelRef, commit: str, directory: Path) -> None:
        self._ref = ref
        self._commit = commit
        self._directory = directory
        self._lock = threading.Lock()
        self._places: dict[str, str] = {}
        self._files: dict[str, RangeFile] = {}

    def file(self, name: str) -> RangeFile:
        """Size and ETag of a file; where it lies is remembered."""
        found = self._asked(lambda: self._metadata(name))
        if found.size is None:
            raise SourceError(f"{self._ref}: {name} has no size that the Hub would tell: leave --stream out.")
        self._places[name] = found.location
        self._files[name] = RangeFile(name, found.size, found.etag)
        return self._files[name]

    def cached(self, file: RangeFile) -> Path | None:
        """Where the whole file lies in the cache of this machine, if it does."""
        path = self._directory / file.name
        return path if path.is_file() and path.stat().st_size == file.size else None

    def read(self, file: RangeFile, start: int, end: int) -> memoryview:
        cached = self.cached(file)
        if cached is not None:
            data = memoryview(bytearray(end - start))
            with cached.open("rb", buffering=0) as opened:
                read_exactly(opened.fileno(), start, data, origin=cached)
            return data
        for _ in range(_SHORT_TRIES):
            place = self._places[file.name]
            answer = self._asked(partial(_get, place, start, end))
            if answer.status_code in _EXPIRED and self._renewed(file.name, place):
                continue
            if answer.status_code == 206 and len(answer.content) == end - start:
                return memoryview(answer.content)
            if answer.status_code != 206:
                break
        host = urlsplit(place).netloc
        raise SourceError(
            f"{self._ref}: {file.name}: {host} answers {answer.status_code} with {len(answer.content):_} bytes, 206 "
            f"with {end - start:_} expected. Try again later, or leave --stream out."
        )

    def stamp(self, name: str) -> tuple[int, str | None]:
        """What it was: under a commit nothing changes."""
        return self._files[name].size, self._files[name].etag

    def __str__(self) -> str:
        return str(self._ref)

    def _metadata(self, name: str) -> Any:
        import huggingface_hub

        url = huggingface_hub.hf_hub_url(self._ref.path, name, revision=self._commit)
        return huggingface_hub.get_hf_file_metadata(url, timeout=_TIMEOUT_S, retry_on_errors=True)

    def _renewed(self, name: str, place: str) -> bool:
        """Ask again where a file lies, because that place is refused; False where that gives nothing new."""
        with self._lock:
            if self._places[name] == place:  # no other thread was faster
                self.file(name)
            return self._places[name] != place

    def _asked(self, request: Callable[[], Result]) -> Result:
        try:
            return request()
        except hub.hub_errors() as error:
            raise hub.explain(self._ref, error) from error


def open_hub_model(ref: ModelRef) -> tuple[Path, RangeStore, str]:
    """The directory with the small files, the tensors, and the commit. SourceError, one line, where that cannot be."""
    directory = hub.download_small(ref)
    commit = directory.name
    there = [name for name in hub.list_repository(ref, commit) if "/" not in name]
    shards, weight_map = choose_shards(there, directory, exists=there.__contains__, origin=str(ref))
    if not all(name.endswith(".safetensors") for name in shards):
        raise SourceError(
            f"{ref}: {shards[0]} is no .safetensors file: only those can be streamed. Leave --stream out."
        )
    ranges = HubRanges(ref, commit, directory)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        store = RangeStore(ranges, list(pool.map(ranges.file, shards)))
    places = {tensor.name: tensor.file.name for tensor in store.tensors.values()}
    check_weight_map(weight_map, places, index=str(directory / INDEX_NAME))
    return directory, store, commit


def _get(place: str, start: int, end: int) -> Any:
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers, http_backoff  # type: ignore[attr-defined]

    headers = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
    if _origin(place) == _origin(constants.ENDPOINT):  # no other host may see the token
        headers |= build_hf_headers(library_name="mergefleet")
    return http_backoff("GET", place, headers=headers, timeout=_TIMEOUT_S)


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc
