"""An output directory is there whole or not at all: work happens in OUT.partial and one rename makes it visible.

    OUT.partial/mergefleet.lock    held (flock) by the one process that writes; says who; marks the directory as ours
    OUT.partial/journal            what is finished, under the plan's digest (engine/execution/journal.py)
    OUT.partial/out/               the directory to be

A process may be killed at any point. Before the rename a rerun resumes; between the rename and the removal of
OUT.partial the output is complete, a rerun is refused because OUT exists, and `clean` removes what is left.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType

from engine import failpoints
from engine.errors import Busy, InputError, MergefleetError, OutputExists, PlanError, Refused, after_disk_failure
from engine.execution.journal import Journal, first_record, open_journal, refuse_other_plan

_LOCK = "mergefleet.lock"
_JOURNAL = "journal"
_OUT = "out"
_OLD = "old"
_PARTIAL = ".partial"
_NAME_BYTES = 255  # the longest name of common file systems


class Staging:
    """The one writer of an output; `Staging.open` makes it, `publish` or `close` ends it.

    Attributes:
        out: the absolute path of the output.
        directory: OUT.partial/out, where the files of the output are written.
        journal: what earlier runs of the same plan finished, and where to record what this one does.
    """

    def __init__(self, out: Path, lock_fd: int, journal: Journal, *, replaces: bool) -> None:
        self.out = out
        self.partial = _partial(out)
        self.directory = self.partial / _OUT
        self.journal = journal
        self._lock_fd: int | None = lock_fd
        self._replaces = replaces

    @classmethod
    def open(cls, out: Path, plan_digest: str, describe: Mapping[str, str], *, replaces: bool = False) -> Staging:
        """Begin or resume the output `out` of the plan with this digest.

        With `replaces` what is at OUT now will be moved aside by `publish`, and then removed: the caller has made
        sure that it may be.

        Raises:
            OutputExists: OUT is there already.
            Busy: another process is writing it; its pid is in the message.
            InputsChanged: OUT.partial was begun with another plan; the entries of `describe` that differ are named.
            Refused: OUT.partial is there, but mergefleet did not make it.
            InputError: the parent directory cannot be made or may not be written to.
        """
        out = _absolute(out)
        if not replaces:
            refuse_existing(out)
        partial = _partial(out)
        lock_fd = _make_and_lock(partial)
        try:
            if not replaces and _in_the_way(out):  # published by another process just now, its journal removed
                if not (partial / _JOURNAL).exists():
                    _remove(partial)
                refuse_existing(out)
            failpoints.reach("partial.locked")
            journal = open_journal(partial / _JOURNAL, plan_digest, describe=describe)
            if journal.is_new and (partial / _OUT).exists():  # what lies there belongs to no plan we know
                shutil.rmtree(partial / _OUT)
            (partial / _OUT).mkdir(exist_ok=True)
        except BaseException:
            os.close(lock_fd)
            raise
        return cls(out, lock_fd, journal, replaces=replaces)

    def publish(self) -> Path:
        """Flush every file to disk, rename the directory to OUT, remove the rest; returns OUT.

        Raises OutputExists where something appeared at OUT meanwhile; nothing is lost then.
        """
        if self._lock_fd is None:
            raise MergefleetError(f"{self.partial}: is closed, it cannot be published.")
        _sync_tree(self.directory)
        failpoints.reach("publish.flushed")
        if self._replaces and os.path.lexists(self.out):
            # killed between the two renames, a rerun finds its work done and nothing at OUT
            self.out.rename(self.partial / _OLD)
            failpoints.reach("publish.aside")
        self._refuse_appeared()
        try:
            self.directory.rename(self.out)
        except OSError as error:
            self._refuse_appeared()
            raise MergefleetError(
                f"{self.out}: the finished output cannot be moved there: {error.strerror}. It is kept in "
                f"{self.directory}: run the same command again."
            ) from error
        failpoints.reach("publish.renamed")
        _sync(self.out.parent)
        self.journal.close()
        _remove(self.partial)
        self.close()
        with contextlib.suppress(OSError):  # NFS keeps a removed file until it is closed
            self.partial.rmdir()
        return self.out

    def close(self) -> None:
        """Let go of the lock and keep OUT.partial, so that the same command resumes; may be called twice."""
        self.journal.close()
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def _refuse_appeared(self) -> None:
        if _in_the_way(self.out):
            raise OutputExists(
                f"{self.out}: appeared while its output was made. That is kept in {self.directory}: "
                "remove what appeared and run the same command again.",
                path=str(self.out),
            )

    def __enter__(self) -> Staging:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def refuse_existing(out: Path) -> None:
    """OutputExists (exit 3) where there is anything at OUT, be it a dangling link, but an empty directory."""
    out = _absolute(out)
    if _in_the_way(out):
        if out.is_mount():
            message = "is a mount point, which the last step, a rename, cannot replace. Name a directory in it."
            raise OutputExists(f"{out}: {message}", path=str(out))
        kind = "a directory" if out.is_dir() else "a file" if out.is_file() else "something"
        left_over = _partial(out)
        rest = f" {left_over} is left over: `mergefleet clean {out}` removes it." if left_over.is_dir() else ""
        raise OutputExists(f"{out}: {kind} is there already. Remove it or name another output.{rest}", path=str(out))


def refuse_unwritable(out: Path) -> None:
    """InputError where the directory OUT could not be made: tried beside it, for what may keep one from it (rights,
    quotas, read-only file systems, links) shows no other way."""
    out = _absolute(out)
    there = next(parent for parent in out.parents if os.path.lexists(parent))
    try:
        Path(tempfile.mkdtemp(prefix=".mergefleet-", dir=there)).rmdir()
    except OSError as error:
        raise InputError(
            f"{out}: cannot be made: {there}: {error.strerror}. Name an output that you may write.", path=str(out)
        ) from error


def _in_the_way(out: Path) -> bool:
    """Whether there is something at OUT that the last rename cannot replace: it replaces an empty directory."""
    if out.is_symlink() or not out.is_dir():
        return os.path.lexists(out)
    return out.is_mount() or any(out.iterdir())


def refuse_other(out: Path, plan_digest: str | None, describe: Mapping[str, str]) -> None:
    """What `Staging.open` would raise for what stands beside OUT now, without touching it.

    `plan_digest`: None where it is not known yet; whose plan it is, is not looked at then.

    Raises Busy where a process is writing it, Refused where OUT.partial is not ours, InputsChanged where another plan
    began it.
    """
    partial = _partial(_absolute(out))
    if not os.path.lexists(partial):
        return
    _refuse_foreign(partial)
    _refuse_busy(partial)
    if plan_digest is not None:
        first = first_record(partial / _JOURNAL)
        if first is not None:
            refuse_other_plan(first, plan_digest, describe, place=partial, out=_absolute(out))


def refuse_inside(out: Path, sources: Iterable[Path]) -> None:
    """PlanError where OUT lies in a directory that the merge reads: the next run would see another source."""
    out = _absolute(out).resolve()
    for source in sources:
        if out.is_relative_to(source.resolve()):
            raise PlanError(f"{out}: lies inside the source {source}. Name an output outside of it.", path=str(out))


def require_space(out: Path, bytes_needed: int) -> None:
    """PlanError where the disk of OUT has less than `bytes_needed` free, what OUT.partial already takes included."""
    out = _absolute(out)
    place = out.parent
    while not place.exists():
        place = place.parent
    disk = os.statvfs(place)
    reserved = sum(path.lstat().st_blocks * 512 for path in _partial(out).rglob("*"))
    available = disk.f_bavail * disk.f_frsize + reserved
    if available < bytes_needed:
        raise PlanError(
            f"{out}: needs {bytes_needed:_} bytes, {place} has {available:_} free. Free some or name another disk.",
            needed=bytes_needed,
            got=available,
        )


def clean(out: Path) -> list[Path]:
    """Remove OUT.partial as a dead run left it; returns what was removed: the directory, or nothing.

    Raises Busy while a process is writing it, Refused where it is not ours. OUT itself is never touched.
    """
    partial = _partial(_absolute(out))
    if not os.path.lexists(partial):
        return []
    _refuse_foreign(partial)
    try:
        lock_fd = _lock(partial)
    except FileNotFoundError:  # its writer published just now
        return []
    try:
        _remove(partial)
    finally:
        os.close(lock_fd)
    return [partial]


def _absolute(out: Path) -> Path:
    try:
        out = Path(os.path.abspath(out.expanduser()))  # noqa: PTH100 (resolve() would follow a link at OUT itself)
        out.name.encode()  # it stands in the model card
    except (RuntimeError, ValueError) as error:  # an unknown ~user, bytes that are no UTF-8
        raise InputError(f"{str(out)!r}: is no name for an output directory: {error}.") from error
    if not out.name or "\0" in str(out):
        raise InputError(f"{str(out)!r}: is no name for an output directory.")
    if len(os.fsencode(out.name)) > _NAME_BYTES - len(_PARTIAL):
        raise InputError(f"{out}: has too long a name; name a shorter output.")
    return out


def _partial(out: Path) -> Path:
    return out.with_name(out.name + _PARTIAL)


def _make_and_lock(partial: Path) -> int:
    while True:
        try:
            partial.mkdir(parents=True)
            failpoints.reach("partial.made")
        except FileExistsError:
            _refuse_foreign(partial)
        except OSError as error:
            advice = "Name an output that you may write."
            raise InputError(f"{partial}: cannot be made: {error.strerror}. {advice}", path=str(partial)) from error
        try:
            return _lock(partial)
        except FileNotFoundError:  # whoever held it published and removed the directory in between
            continue


def _refuse_foreign(partial: Path) -> None:
    """Refused unless the directory is ours: it has our lock file, or nothing at all (killed right after mkdir)."""
    try:  # one listing: another process may be making its lock between two looks
        names = {path.name for path in partial.iterdir()}
        is_ours = not partial.is_symlink() and (_LOCK in names or not names)
    except FileNotFoundError:  # removed just now
        return
    except NotADirectoryError:
        is_ours = False
    if not is_ours:
        raise Refused(f"{partial}: is in the way and was not made by mergefleet. Move it away or name another output.")


def _lock(partial: Path) -> int:
    """Lock the directory without waiting; returns the descriptor that holds the lock until it is closed.

    Raises FileNotFoundError where the directory is gone, Busy where another process has the lock.
    """
    path = partial / _LOCK
    while True:
        fd = _open_lock(path)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_same_file(fd, path):
                os.ftruncate(fd, 0)
                os.pwrite(fd, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)
                return fd
        except BlockingIOError as error:
            busy = _busy(partial, fd)
            os.close(fd)
            raise busy from error
        except OSError as error:
            os.close(fd)
            raise MergefleetError(f"{path}: this file system has no locks ({error.strerror}). Use another.") from error
        os.close(fd)  # the file was removed between open and flock: its holder finished


def _refuse_busy(partial: Path) -> None:
    """Busy where another process has the lock; who holds it is not changed, and no lock is made."""
    try:
        fd = os.open(partial / _LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # killed before it made its lock, or not for us to read: a merge would say so
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _busy(partial, fd) from error
    except OSError:  # no locks on this file system
        return
    finally:
        os.close(fd)


def _busy(partial: Path, fd: int) -> Busy:
    holder = _holder(fd)
    return Busy(f"{partial}: process {holder} is writing it. Wait for it or name another output.", holder=holder)


def _open_lock(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be opened: {error.strerror}. Name an output that you may write.") from error


def _is_same_file(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _holder(fd: int) -> str:
    try:
        owner = json.loads(os.pread(fd, 1000, 0))
        return f"{owner['pid']} on {owner['host']}"
    except (ValueError, TypeError, KeyError):  # it has the lock but has not signed yet
        return "with an unknown pid"


def _remove(partial: Path) -> None:
    """Remove our directory, its lock file last, so that it stays recognisable if we are killed meanwhile."""
    for path in sorted(partial.iterdir(), key=lambda path: path.name == _LOCK):
        failpoints.reach("remove.entry")
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    failpoints.reach("remove.empty")
    with contextlib.suppress(OSError):  # another process found the directory without a lock and put its own there
        partial.rmdir()


def _sync_tree(directory: Path) -> None:
    for path in sorted(directory.rglob("*"), reverse=True):
        if not path.is_symlink():
            _sync(path)
    _sync(directory)


def _sync(path: Path) -> None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        message = f"{path}: cannot be flushed to disk: {error.strerror}. {after_disk_failure(error)}"
        raise MergefleetError(message, path=str(path)) from error
