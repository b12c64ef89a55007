"""s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX: places in object stores, as they are written."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from engine.errors import InputError

_SCHEMES = ("s3", "gs", "az")
_LIKE_A_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # https://host/x, and s3:/bucket/x
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}")


@dataclass(frozen=True)
class Url:
    """A directory in an object store, as far as such a store has any: all keys that begin with PREFIX/."""

    scheme: str
    bucket: str
    prefix: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.prefix}"

    @property
    def name(self) -> str:
        """The last part, as a directory's name is."""
        return PurePosixPath(self.prefix).name

    def key(self, name: str) -> str:
        """The key of the object called `name` in it."""
        return f"{self.prefix}/{name}"


def is_url(place: object) -> bool:
    """Whether this is text that names a place in an object store."""
    return isinstance(place, str) and place.partition("://")[0] in _SCHEMES and "://" in place


def without_secrets(text: str) -> str:
    """Text that a message may repeat: of a URL in which a password or a signature may stand only the scheme."""
    scheme, mark, rest = text.partition("://")
    authority = rest.partition("/")[0]
    return f"{scheme}://..." if mark and (set(rest) & set("@?#") or ":" in authority) else text


def parse_url(text: str) -> Url:
    """InputError where it is no place that a model or an output could have; the message never holds a secret."""
    scheme, _, rest = text.partition("://")
    if without_secrets(text) != text:
        raise InputError(
            f"{scheme}://: a place is {scheme}://BUCKET/PREFIX, without '@', '?' and '#'. Credentials come from the "
            "environment (docs/object-stores.md)."
        )
    bucket, _, prefix = rest.partition("/")
    parts = prefix.rstrip("/").split("/")
    if not _BUCKET.fullmatch(bucket):
        raise InputError(f"{text}: has no bucket: a place is {scheme}://BUCKET/PREFIX.")
    if any(part in ("", ".", "..") for part in parts) or not prefix.isprintable():
        raise InputError(f"{text}: a place is {scheme}://BUCKET/PREFIX, and PREFIX has no empty parts, '.' or '..'.")
    return Url(scheme, bucket, "/".join(parts))


def parse_place(text: str | Path) -> Path | Url:
    """Where an output goes: a path, or a place in an object store. InputError for URLs of other kinds."""
    if is_url(text):
        return parse_url(str(text))
    if _LIKE_A_URL.match(str(text)):
        shown = without_secrets(str(text))
        near = shown.partition(":")[0].lower()
        hint = f" Write {near}:// in lower case." if f"{near}:/" != shown[: len(near) + 2] and near in _SCHEMES else ""
        raise InputError(
            f"{shown}: is no place for an output: name a directory, or s3://, gs:// or az://BUCKET/PREFIX.{hint}"
        )
    return Path(text)
