"""Facts on disk: what one evaluator measured is known to all others of this user on the node, and to later runs.

One SQLite file in the private cache directory (engine.kernels.cache): key → seal, value, when it was last of use. A key
is that of `known_facts` with a digest of all that measures. A seal is the BLAKE3 of key and value: what was torn or
altered is measured anew, and replaced. What is oldest in use makes room.

The file has a rollback journal and no WAL, which needs memory that its processes share: home directories on NFS have
none. Nobody waits for the disk (`synchronous=OFF`): a transaction whose process was killed is taken back by whoever
comes next, and what a power cut tears is found out as anything else. Where the file cannot be used (a full disk, a lock
of seconds, damage), this process says so once and keeps to its memory; a damaged file is removed.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import sqlite3
import time
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from blake3 import blake3

from engine.digest import canonical
from engine.numerics import BLOCK

if TYPE_CHECKING:
    from engine.methods.contract import Array, Method
    from engine.planning.plan import OutputTensor

T = TypeVar("T")
_LOG = logging.getLogger(__name__)
_LOADED_AT = time.time()
_MOST_BYTES = 1 << 30
_BATCH_BYTES = 64 << 20
_DAY_S = 86_400
_WAIT_S = 5.0
_TABLE = """CREATE TABLE IF NOT EXISTS facts
    (key BLOB PRIMARY KEY, seal BLOB NOT NULL, value BLOB NOT NULL, used INTEGER NOT NULL) WITHOUT ROWID"""


def facts_file() -> Path | None:
    """Where facts are kept, whether there are any yet or not; None where no directory is private."""
    from engine.kernels.cache import private_directory

    root = private_directory()
    return None if root is None else root / "facts" / "facts.sqlite"


class KeptFacts:
    """The file as one process sees it: opened when something is first asked of it, closed by `write`. Not thread safe.

    Tensors of fewer than `least_elements` are measured faster than looked up.
    """

    def __init__(self, file: Path | None = None, *, most_bytes: int = _MOST_BYTES, least_elements: int = BLOCK) -> None:
        self._file = file
        self._most_bytes, self._least_elements = most_bytes, least_elements
        self._usable = True
        self._connection: sqlite3.Connection | None = None
        self._new: dict[bytes, bytes] = {}
        self._new_bytes = 0
        self._stale: set[bytes] = set()

    def takes(self, method: Method, tensor: OutputTensor) -> bool:
        """Whether facts of this tensor are kept: users' methods may change without a word."""
        return tensor.elements >= self._least_elements and method.exact and not method.package

    def find(self, key: str) -> dict[str, Array] | None:
        """The facts that were kept under this key, if they are whole."""
        place = self._place(key)
        query = "SELECT seal, value, used FROM facts WHERE key = ?"
        row = None if place is None else self._ask(lambda file: file.execute(query, (place,)).fetchone())
        if place is None or row is None:
            return None
        seal, value, used = row
        if not isinstance(value, bytes) or seal != _seal(place, value):
            return None
        if not isinstance(used, int) or abs(time.time() - used) > _DAY_S:
            self._stale.add(place)
        return _decode(value)

    def add(self, key: str, facts: Mapping[str, Array]) -> None:
        """Keep these, too, with the next `write`."""
        place = self._place(key)
        if place is not None:
            value = self._new[place] = _encode(facts)
            self._new_bytes += len(value)
            if self._new_bytes > _BATCH_BYTES:
                self.write()

    def write(self) -> None:
        """Write what was added, all or nothing, and close the file."""
        if self._new or self._stale:
            self._ask(self._commit)
        self._forget()

    def _commit(self, file: sqlite3.Connection) -> None:
        now = int(time.time())
        file.execute("BEGIN IMMEDIATE")
        _make_room(file, self._new_bytes, self._most_bytes)
        new = ((key, _seal(key, value), value, now) for key, value in sorted(self._new.items()))
        file.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?, ?, ?)", new)
        file.executemany("UPDATE facts SET used = ? WHERE key = ?", ((now, key) for key in sorted(self._stale)))
        file.execute("COMMIT")

    def _place(self, key: str) -> bytes | None:
        """The key in the file; None where there is none to use."""
        if not self._usable:
            return None
        self._file = self._file or facts_file()
        measures = _what_measures()
        self._usable = self._file is not None and measures is not None
        return blake3(f"{measures} {key}".encode()).digest() if self._usable else None

    def _ask(self, act: Callable[[sqlite3.Connection], T]) -> T | None:
        """What `act` finds; None, and nothing more of the file, where it cannot be used."""
        assert self._file is not None
        try:
            if self._connection is None:
                self._connection = _open(self._file)
            return act(self._connection)
        except (OSError, sqlite3.Error) as error:
            self._usable = False
            self._forget()
            if _is_damage(error):
                _remove(self._file)
            _LOG.warning("%s: %s; what is measured is kept in memory alone", self._file, error)
            return None

    def _forget(self) -> None:
        self._new, self._new_bytes, self._stale = {}, 0, set()
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _open(file: Path) -> sqlite3.Connection:
    file.parent.mkdir(mode=0o700, exist_ok=True)
    os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))  # its journal gets this mode, too
    connection = sqlite3.connect(file, timeout=_WAIT_S, isolation_level=None, check_same_thread=False)
    connection.text_factory = bytes  # what was damaged may say that it is text
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute(_TABLE)
    return connection


def _make_room(file: sqlite3.Connection, nbytes: int, most_bytes: int) -> None:
    """Delete a quarter of the facts, those that were of no use for longest, until there is room for so many bytes."""

    def number(query: str) -> int:
        return int(file.execute(query).fetchone()[0])

    page = number("PRAGMA page_size")
    while (number("PRAGMA page_count") - number("PRAGMA freelist_count")) * page + nbytes > most_bytes:
        count = number("SELECT count(*) FROM facts")
        if not count:
            return
        last = number(f"SELECT used FROM facts ORDER BY used LIMIT 1 OFFSET {count // 4}")
        file.execute("DELETE FROM facts WHERE used <= ?", (last,))


def _is_damage(error: Exception) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _remove(file: Path) -> None:
    for path in (file, file.with_name(f"{file.name}-journal")):
        try:
            path.unlink(missing_ok=True)
        except OSError:
            return


@cache
def _what_measures() -> str | None:
    """Digest of the engine's sources, and of the libraries that compute for it; None where that cannot be told.

    It cannot where sources are not there, or were changed since this process began: it measures as they were before.
    """
    root = Path(__file__).parents[1]
    sources = sorted(root.rglob("*.py"))
    hasher = blake3(canonical([platform.machine(), *map(_version, ("numpy", "numba", "llvmlite", "torch"))]).encode())
    try:
        for path in sources:
            hasher.update(f"{path.relative_to(root)}\0".encode())
            hasher.update(blake3(path.read_bytes()).digest())
        changed = any(path.stat().st_mtime > _LOADED_AT for path in sources)
    except OSError:
        return None
    return hasher.hexdigest() if sources and not changed else None


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ""


def _seal(key: bytes, value: bytes) -> bytes:
    return blake3(key + value).digest()


def _encode(facts: Mapping[str, Array]) -> bytes:
    """A line of JSON that says what follows: the numbers of each array."""
    head = [[name, values.dtype.str, list(values.shape)] for name, values in facts.items()]
    return b"\n".join([json.dumps(head).encode(), b"".join(values.tobytes() for values in facts.values())])


def _decode(value: bytes) -> dict[str, Array]:
    head, _, rest = value.partition(b"\n")
    facts: dict[str, Array] = {}
    start = 0
    for name, dtype, shape in json.loads(head):
        # copied: kernels would be compiled anew for an array that may not be written to
        facts[name] = np.frombuffer(rest, dtype, int(np.prod(shape)), start).reshape(shape).copy()
        start += facts[name].nbytes
    return facts
