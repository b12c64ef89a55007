"""How the command ends when it does not end well: one line, one exit code, and with --json one object."""

from __future__ import annotations

import errno
import sys
from dataclasses import dataclass
from typing import Any, NoReturn

import typer

from engine.errors import MergefleetError

_UsageError: Any = typer.BadParameter.__bases__[0]  # the command line's own errors; typer does not export their class
_DISK_FAILED = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})  # the machine's fault, not the input's


@dataclass(frozen=True)
class Ending:
    """What is said of an error: its class for programs, one line for people, and the exit code."""

    error: str
    message: str
    exit_code: int


def ending_of(error: BaseException) -> Ending | None:
    """How to end after `error`; None for one that nobody foresaw, whose traceback is worth more than a line."""
    if isinstance(error, MergefleetError):
        return Ending(type(error).__name__, error.message, error.exit_code)
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):  # inside a command, typer makes the second of the first
        return Ending("Interrupted", str(error) or "interrupted; run the same command again to resume.", 130)
    if _is_bad_value(error):
        return Ending("UsageError", f"{max(error.param.opts, key=len)}: {error.message.rstrip('.')}.", 2)  # type: ignore[attr-defined]
    if isinstance(error, _UsageError):
        return Ending("UsageError", error.format_message(), 2)
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        code = 1 if error.errno in _DISK_FAILED else 2
        return Ending(type(error).__name__, f"{place}{error.strerror or error}.", code)
    if type(error).__module__ == "sqlalchemy.exc":
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        return Ending(type(error).__name__, f"the campaign's store cannot be used: {reason}.", 2)
    return None


def _is_bad_value(error: BaseException) -> bool:
    """Whether an option was given a value that it cannot have (not: a missing or an unknown option)."""
    return type(error) is typer.BadParameter and error.param is not None


def end(error: BaseException) -> NoReturn:
    """Say what happened and exit; what nobody foresaw is raised again."""
    from cluster import output

    ending = ending_of(error)
    if ending is None:
        raise error
    if "--json" in sys.argv:
        output.print_json(vars(ending))
    if isinstance(error, _UsageError) and not _is_bad_value(error):
        error.show()  # with the command's usage
    else:
        sys.stderr.write(f"mergefleet: {ending.message}\n")
    sys.exit(ending.exit_code)
