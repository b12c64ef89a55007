"""Where models lie and outputs go when merges are disturbed: directories, or a bucket behind a faulty proxy.

What a merge has left is looked at here without the code that wrote it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import obstore
from audits import Place, journalled
from backends import bytes_of
from faulty_proxy import Fault, Proxy, at_random, running_proxy
from filelock import FileLock
from obstore.store import from_url
from s3_server import CREDENTIALS, make_bucket, running_s3, upload
from shared_families import FAMILIES

from bench.families import Shape, make_family
from engine import ShardSize
from engine.digest import BLOCK_DIGEST_BYTES
from engine.remote.layout import MANIFEST, PARTIAL

_INJECTED = (Fault.ERROR, Fault.SLOW_DOWN, Fault.RESET, Fault.CUT, Fault.LOST, Fault.SLOW)
_FAULT_SHARE = 0.02
"""Of all requests, for each kind of fault."""
_LARGE = Shape(hidden=768, layers=8, mlp=2048, heads=12, kv_heads=4, vocab=8000)
_SMALL = Shape(hidden=512, layers=4, mlp=1408, heads=8, kv_heads=4, vocab=4000)  # moto reads an object for every range


class Target(Protocol):
    """One output that is to be made."""

    out: str

    def exists(self) -> bool:
        """Whether it is there, whole."""

    def finished(self) -> set[Place]:
        """The tiles that are journalled."""

    def digest(self) -> str:
        """Of its weight files, as `bytes_of` takes it."""

    def rest(self) -> list[str]:
        """What there is besides OUT."""


class Directory:
    """OUT in a directory of its own."""

    def __init__(self, place: Path) -> None:
        place.mkdir()
        self._place = place
        self.out = str(place / "OUT")

    def exists(self) -> bool:
        return (self._place / "OUT").exists()

    def finished(self) -> set[Place]:
        return journalled(self._place / "OUT.partial" / "journal")

    def digest(self) -> str:
        return bytes_of(self._place / "OUT")

    def rest(self) -> list[str]:
        return sorted(path.name for path in self._place.iterdir() if path.name != "OUT")


class Prefix:
    """OUT under a prefix of a bucket; `endpoint` is the server itself, without the proxy."""

    def __init__(self, url: str, endpoint: str) -> None:
        self.out = url
        self._endpoint = endpoint
        self._store = from_url(url, endpoint=endpoint, client_options={"allow_http": True})
        self._records: dict[str, set[Place]] = {}

    def exists(self) -> bool:
        return MANIFEST in self._names()

    def finished(self) -> set[Place]:
        """A file is journalled whole; a tile of it may begin at any of its blocks, so every block is listed."""
        for name in self._names(f"{PARTIAL}/done"):
            if name not in self._records:
                blocks = json.loads(self._read(name))["blocks"]
                self._records[name] = {
                    (tensor, first)
                    for tensor, joined in blocks.items()
                    for first in range(max(1, len(base64.b64decode(joined)) // BLOCK_DIGEST_BYTES))
                }
        return set().union(*self._records.values())

    def digest(self) -> str:
        digest = hashlib.sha256()
        for name in sorted(self._names()):
            if name.endswith(".safetensors"):
                digest.update(name.encode() + self._read(name))
        return digest.hexdigest()

    def rest(self) -> list[str]:
        bucket, _, prefix = self.out.removeprefix("s3://").partition("/")
        listing = urllib.request.urlopen(f"{self._endpoint}/{bucket}?uploads").read().decode()
        uploads = [f"upload of {key}" for key in re.findall("<Key>(.*?)</Key>", listing) if key.startswith(prefix)]
        return uploads + sorted(self._names(PARTIAL))

    def _names(self, under: str | None = None) -> list[str]:
        return [meta["path"] for page in obstore.list(self._store, under) for meta in page]

    def _read(self, name: str) -> bytes:
        return bytes(obstore.get(self._store, name).bytes())


@dataclass(frozen=True)
class Storage:
    """Base and two fine-tunes as recipes name them, their copies on this disk, and the place of outputs."""

    name: str
    models: tuple[str, ...]
    copies: tuple[Path, ...]
    shard_size: ShardSize
    place: str
    endpoint: str = ""
    proxy: Proxy | None = None

    @property
    def broken_writes(self) -> int:
        """How often the proxy has spoiled a write so far: a file whose upload breaks is made again."""
        if self.proxy is None:
            return 0
        with self.proxy.lock:
            return sum(fault is not None and request.method in ("PUT", "POST") for request, fault in self.proxy.log)

    def target(self, number: int) -> Target:
        """The output of that number."""
        if self.endpoint:
            return Prefix(f"{self.place}/run{number}", self.endpoint)
        return Directory(Path(self.place) / f"run{number}")


@contextmanager
def on_disk(place: Path, seed: int) -> Iterator[Storage]:
    """Models of 60 million parameters in directories; no tensor so large that a kill would always meet it."""
    models = _family("kills", _LARGE)
    yield Storage("disk", tuple(map(str, models)), models, ShardSize(), str(place))


@contextmanager
def in_a_bucket(place: Path, seed: int) -> Iterator[Storage]:
    """Models and outputs on a real S3 server behind a proxy that injects faults; the environment leads to it."""
    models = _family("kills-small", _SMALL)
    with (
        running_s3() as endpoint,
        running_proxy(endpoint, at_random(seed, dict.fromkeys(_INJECTED, _FAULT_SHARE))) as proxy,
    ):
        make_bucket(endpoint, "kills")
        os.environ.update(CREDENTIALS | {"AWS_ENDPOINT_URL": endpoint})
        urls = tuple(upload(model, f"s3://kills/{model.name}") for model in models)
        os.environ["AWS_ENDPOINT_URL"] = proxy.url
        yield Storage("bucket", urls, models, ShardSize(4 << 20), "s3://kills", endpoint, proxy)


STORAGES = {"disk": on_disk, "bucket": in_a_bucket}


def _family(name: str, shape: Shape) -> tuple[Path, ...]:
    FAMILIES.mkdir(exist_ok=True)
    with FileLock(FAMILIES / f"{name}.lock"):
        return make_family(FAMILIES / name, shape).models
