"""An append-only journal that survives kill -9: one record a line, `<length> <crc32 hex> <json>` and a newline.

The first record holds the plan's digest and a description of what went into the plan, so that a run to be resumed
with other inputs is refused and told which of them changed. A kill in the middle of an append leaves a torn last
line, which opening cuts off. A damaged line further up makes everything behind it worthless: it is cut off too and
counted in `Journal.dropped`, and that work is simply done again.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from engine import failpoints
from engine.errors import InputsChanged, MergefleetError, after_disk_failure

FORMAT = 1
_SHOWN = 4  # differences in a message


class Journal:
    """An open journal; make one with `open_journal`.

    Attributes:
        path: the file.
        records: the records found at opening, in order, without the first one that describes the plan.
        dropped: lines lost to damage at opening (a torn last line does not count).
        is_new: True where nothing valid was found, so that nothing on disk belongs to this plan.
    """

    def __init__(self, path: Path, fd: int, *, records: list[dict[str, Any]], dropped: int, is_new: bool) -> None:
        self.path = path
        self.records = records
        self.dropped = dropped
        self.is_new = is_new
        self._fd: int | None = fd
        self._lock = threading.Lock()

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one JSON-able record with a single write() call; thread safe, and whole after any kill from here on.

        Raises MergefleetError where the disk refuses; the journal is then as it was before.
        """
        line = _encode(record)
        with self._lock:
            if self._fd is None:
                raise MergefleetError(f"{self.path}: the journal is closed.")
            failpoints.reach("journal.append")
            end = os.lseek(self._fd, 0, os.SEEK_END)
            try:
                written = os.write(self._fd, line)
            except OSError as error:
                raise _failure(self.path, error) from error
            if written != len(line):  # a full disk took a part; what is left would ruin every later record
                os.ftruncate(self._fd, end)
                raise _failure(self.path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
            failpoints.reach("journal.appended")

    def close(self) -> None:
        """Flush to the disk itself and close; may be called twice."""
        with self._lock:
            if self._fd is not None:
                with contextlib.suppress(OSError):  # on a disk that failed: what is lost there is made again
                    os.fsync(self._fd)
                os.close(self._fd)
                self._fd = None

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def open_journal(path: Path, plan_digest: str, *, describe: Mapping[str, str] | None = None) -> Journal:
    """Open the journal of a plan, or begin one.

    Args:
        path: the file; its directory must exist, and its caller must hold the lock of that directory.
        plan_digest: the plan's digest; records made under another one are not used.
        describe: what went into the plan, flat (`{"seed": "0", "source org/a": "commit 12ab...", ...}`), kept to
            explain a later difference.

    Raises InputsChanged saying which entries of `describe` differ, and MergefleetError where the disk refuses.
    """
    description = dict(describe or {})
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            failpoints.reach("journal.made")
            records, valid_bytes, dropped = _decode(path.read_bytes())
            if records:
                out = str(path.parent).removesuffix(".partial")
                refuse_other_plan(records[0], plan_digest, description, place=path.parent, out=out)
            os.ftruncate(fd, valid_bytes)
            journal = Journal(path, fd, records=records[1:], dropped=dropped, is_new=not records)
            if not records:
                journal.append({"mergefleet": FORMAT, "plan": plan_digest, "describe": description})
        except BaseException:
            os.close(fd)
            raise
    except OSError as error:
        raise _failure(path, error) from error
    return journal


def first_record(path: Path) -> dict[str, Any] | None:
    """The record that says whose a journal is; None where there is none, or none that can be read."""
    try:
        with path.open("rb") as file:
            return _decode_line(file.readline().removesuffix(b"\n"))
    except OSError:
        return None


def _encode(record: Mapping[str, Any]) -> bytes:
    # ASCII only: a path may hold bytes that are no UTF-8, which Python keeps as lone surrogates.
    text = json.dumps(record, separators=(",", ":"), allow_nan=False).encode("ascii")
    return b"%d %08x %b\n" % (len(text), zlib.crc32(text), text)


def _decode(data: bytes) -> tuple[list[dict[str, Any]], int, int]:
    """The valid records from the beginning on, the bytes they take, and how many whole lines lie behind them."""
    records: list[dict[str, Any]] = []
    position = 0
    while (end := data.find(b"\n", position)) >= 0:
        record = _decode_line(data[position:end])
        if record is None:
            return records, position, data.count(b"\n", position)
        records.append(record)
        position = end + 1
    return records, position, 0


def _decode_line(line: bytes) -> dict[str, Any] | None:
    # JSON text holds no raw newline, so a line is a record; its length is checked to catch two torn lines in one.
    head, _, text = line.partition(b" ")
    crc, _, text = text.partition(b" ")
    if head != b"%d" % len(text) or crc != b"%08x" % zlib.crc32(text):
        return None
    try:
        record = json.loads(text)
    except ValueError:  # a right checksum over text that no version of us wrote
        return None
    return record if isinstance(record, dict) else None


def refuse_other_plan(
    first: Mapping[str, Any], plan_digest: str, describe: Mapping[str, str], *, place: object, out: object
) -> None:
    """InputsChanged where what lies in `place`, begun for `out` with the record `first`, belongs to another plan."""
    advice = (
        f"Restore it (size and time count, as `cp -p` keeps them) to resume, or `mergefleet clean {out}` to begin anew."
    )
    if first.get("mergefleet") != FORMAT:
        raise InputsChanged(f"{place}: was written by another version of mergefleet. {advice}")
    if first.get("plan") == plan_digest:
        return
    before = first.get("describe")
    before = before if isinstance(before, dict) else {}
    changed = {
        key: (before.get(key), describe.get(key))
        for key in sorted(before.keys() | describe.keys())
        if before.get(key) != describe.get(key)
    }
    said = [f"{key}: {_show(old)} → {_show(new)}" for key, (old, new) in changed.items()]
    listing = "; ".join(said[:_SHOWN]) + (f"; and {len(said) - _SHOWN} more" if len(said) > _SHOWN else "")
    what = listing or "the plan is another one for the same recipe and sources, as another version makes it"
    raise InputsChanged(f"{place}: was begun with other inputs ({what}). {advice}", changed=changed)


def _show(value: object) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _failure(path: Path, error: OSError) -> MergefleetError:
    advice = after_disk_failure(error)
    return MergefleetError(f"{path}: the journal cannot be written: {error.strerror}. {advice}", path=str(path))
