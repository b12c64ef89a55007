"""A place in an object store: ranges, whole small objects, writes; tried again where that can help.

Endpoint and credentials come from the variables that obstore reads (docs/object-stores.md lists them).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import obstore
from obstore import exceptions
from obstore.store import from_url

from engine.errors import MergefleetError, SourceError
from engine.remote.faults import AT_FIRST, LATER, Failure, Patience, endpoint, explain, explain_setting, misset
from engine.remote.url import Url

if TYPE_CHECKING:
    from obstore.store import ObjectStore

Result = TypeVar("Result")
TIMEOUT = timedelta(seconds=120)
"""Of one request: a part of an upload has as long over a slow link; a connection that hangs is noticed then."""
PARALLEL_PARTS = 3
"""Of one upload."""
_OBSTORE_ERRORS = (exceptions.BaseError, OSError, ValueError)


@dataclass(frozen=True)
class Found:
    """An object: its size in bytes and its ETag."""

    size: int
    etag: str | None


class Bucket:
    """One place; thread safe.

    What the user has to put right is an `error`, what passes by itself (after more tries than are made here) an
    `outage`, whose fact `transient` is true.
    """

    def __init__(
        self, url: Url, *, error: type[MergefleetError] = SourceError, outage: type[MergefleetError] = SourceError
    ) -> None:
        self.url = url
        self._error = error
        self._outage = outage

    def list(self) -> dict[str, Found] | None:
        """Every object by its name in this place; None where this account may not list.

        The first thing to ask of a place: whatever keeps it from answering is told within seconds.
        """
        start = f"{self.url.prefix}/"

        def listed() -> dict[str, Found]:
            pages: Iterator[Any] = iter(obstore.list(self._store, self.url.prefix, chunk_size=1000))
            return {
                meta["path"].removeprefix(start): Found(meta["size"], meta["e_tag"])
                for page in pages
                for meta in page
                if meta["path"].startswith(start)  # consoles make an empty object of the prefix itself
            }

        result = self._tried(listed, patience=AT_FIRST)
        if isinstance(result, Failure):
            if result.is_denied and not result.no_credentials and result.code in (None, "AccessDenied"):
                return None
            raise self._error(f"{self.url}: {explain(self.url, result)}", status=result.status)
        return result

    def head(self, name: str) -> Found | None:
        """The object's size and ETag; None where it is not there."""

        def asked() -> Found:
            meta = obstore.head(self._store, self.url.key(name))
            return Found(meta["size"], meta["e_tag"])

        return self._if_there(self._tried(asked), name)

    def get(self, name: str) -> bytes | None:
        """All bytes of a small object; None where it is not there."""
        found = self._tried(lambda: bytes(obstore.get(self._store, self.url.key(name)).bytes()))
        return self._if_there(found, name)

    def read(self, name: str, start: int, end: int, *, etag: str | None) -> memoryview:
        """Bytes [start, end) of the object, whose ETag must still be this one."""
        options: Any = {"range": (start, end)} | ({"if_match": etag} if etag else {})

        def ranged() -> memoryview:
            data = memoryview(obstore.get(self._store, self.url.key(name), options=options).bytes())
            if len(data) != end - start:
                raise exceptions.GenericError(f"got {len(data)} bytes, {end - start} expected")
            return data

        data = self._tried(ranged)
        if isinstance(data, Failure):
            raise self._explained(data, name)
        return data

    def put(self, name: str, data: bytes, *, create: bool = False) -> bool:
        """Write a small object whole; with `create` only where there is none (False: there is one)."""
        mode: Any = "create" if create else "overwrite"
        done = self._tried(lambda: obstore.put(self._store, self.url.key(name), data, mode=mode, use_multipart=False))
        if isinstance(done, Failure):
            if done.is_taken:
                return False
            raise self._explained(done, name)
        return True

    def stream(self, name: str, pieces: Iterator[bytes], *, part_bytes: int) -> None:
        """Write an object of any size from pieces, by multipart upload; where `pieces` raises, it is aborted.

        A part is tried again by obstore; what cannot be helped so is for the caller, who can make the pieces again.
        """
        try:
            obstore.put(
                self._patient_store,
                self.url.key(name),
                pieces,
                use_multipart=True,
                chunk_size=part_bytes,
                max_concurrency=PARALLEL_PARTS,
            )
        except _OBSTORE_ERRORS as error:
            raise self._explained(Failure.of(error), name) from error

    def delete(self, name: str) -> None:
        """Remove an object, if it is there."""
        self._if_there(self._tried(lambda: obstore.delete(self._store, self.url.key(name))), name)

    @cached_property
    def _store(self) -> ObjectStore:
        """Without retries of its own: `_tried` sees to them, and knows what is worth it."""
        return self._open(max_retries=0)

    @cached_property
    def _patient_store(self) -> ObjectStore:
        return self._open(max_retries=8)

    def _open(self, max_retries: int) -> ObjectStore:
        wrong = misset(self.url.scheme)
        if wrong is not None:
            raise self._error(f"{self.url}: {wrong}")
        address = endpoint(self.url.scheme)
        try:
            return from_url(
                f"{self.url.scheme}://{self.url.bucket}",
                client_options={"allow_http": bool(address and address.startswith("http://")), "timeout": TIMEOUT},
                retry_config={"max_retries": max_retries, "retry_timeout": timedelta(minutes=3)},
            )
        except _OBSTORE_ERRORS as error:
            raise self._error(f"{self.url}: {explain_setting(self.url, Failure.of(error))}") from error

    def _tried(self, request: Callable[[], Result], *, patience: Patience = LATER) -> Result | Failure:
        """The request's result, if need be after several tries; or what it failed of in the end."""
        for failures in range(1, patience.tries + 1):
            try:
                return request()
            except _OBSTORE_ERRORS as error:
                failure = Failure.of(error)
            if not failure.is_transient:
                break
            time.sleep(patience.pause_s(failures) if failures < patience.tries else 0.0)
        return failure

    def _if_there(self, result: Result | Failure, name: str) -> Result | None:
        if not isinstance(result, Failure):
            return result
        if result.is_missing:
            return None
        raise self._explained(result, name)

    def _explained(self, failure: Failure, name: str) -> MergefleetError:
        kind = self._outage if failure.is_transient else self._error
        message = f"{self.url}/{name}: {explain(self.url, failure)}"
        if failure.is_transient and self._outage is not self._error:  # an output
            message += " What is finished is kept: the same command resumes."
        return kind(message, status=failure.status, transient=failure.is_transient)
