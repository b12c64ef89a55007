"""What commands print: one seam for people (rich, on stderr where it moves) and for programs (`--json` on stdout)."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from engine.errors import InputError

if TYPE_CHECKING:
    from rich.progress import Progress

    from engine.planning.output_files import ShardSize

_UNITS = {"": 1, "b": 1, "k": 10**3, "kb": 10**3, "m": 10**6, "mb": 10**6, "g": 10**9, "gb": 10**9, "t": 10**12}
_PARAMETERS = {"k": 10**3, "m": 10**6, "b": 10**9}
_UNITS |= {"tb": 10**12, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}


def parse_bytes(text: str, *, option: str) -> int:
    """ "512MiB", "5GB", "1000000" → bytes."""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]*)\s*", text)
    unit = _UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None or float(match[1]) * unit < 1:
        raise InputError(f"{option}: got {text!r}, a size expected, such as 512MiB, 4GiB or 5GB.")
    return int(float(match[1]) * unit)


def parse_shard_size(text: str, *, option: str) -> ShardSize:
    """ "1B", "500M", "100k" → so many parameters, as mergekit documents it (and counts bytes); else bytes."""
    from engine.planning.output_files import ShardSize

    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmb])\s*", text, re.IGNORECASE)
    count = round(float(match[1]) * _PARAMETERS[match[2].lower()]) if match else 0
    return ShardSize(count, "parameters") if count else ShardSize(parse_bytes(text, option=option))


def human_bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} TiB"


def human_seconds(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def print_facts(title: str, facts: Mapping[str, object]) -> None:
    """A two-column list; plain text where stdout is no terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, str(value))
    Console(highlight=False).print(table)


def print_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns under titles; as wide as they need where stdout is no terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*titles, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    Console(highlight=False, width=None if sys.stdout.isatty() else 200).print(table)


def print_note(text: str, *, quiet: bool) -> None:
    """One line on stderr for whoever wants to know."""
    if not quiet:
        sys.stderr.write(f"mergefleet: {text}\n")


def print_log(*, verbose: int, quiet: bool) -> None:
    """What modules log goes to stderr, one line each: warnings unless `quiet`, more with -v and -vv."""
    level = logging.ERROR if quiet else {0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG)
    for name in ("engine", "search", "cluster"):
        logger = logging.getLogger(name)
        logger.handlers = [_OnStderr()]
        logger.setLevel(level)


class _OnStderr(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        kind = "warning: " if record.levelno >= logging.WARNING else ""
        sys.stderr.write(f"mergefleet: {kind}{record.getMessage()}\n")  # looked up late: a progress bar replaces it


@contextmanager
def byte_progress(title: str, *, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A bar with rate and time left on a terminal's stderr; None where nobody looks."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console

    with byte_bar(console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def byte_bar(**more: Any) -> Progress:
    """A bar of bytes with rate and time left."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        **more,
    )
