"""The report for a terminal of 80 columns: history as a line of bars, tables without columns that do not fit. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import replace

from search.report.tables import Table, score_text
from search.results import Results

_BARS = "▁▂▃▄▅▆▇█"
_FIRST_TO_GO = ("sign-flip p", "items won : lost", "lower bound")
_INDENT = "    "
BARS = 50


def history_line(results: Results) -> str:
    """The best estimate so far over the candidates, as bars; "" before there are two."""
    best: list[float] = []
    for row in results.candidates:
        if row.estimate is not None:
            best.append(max(row.estimate, best[-1]) if best else row.estimate)
    if len(best) < 2:
        return ""
    return f"best estimate {score_text(best[0])} {bars(best)} {score_text(best[-1])}"


def bars(values: Sequence[float], width: int = BARS) -> str:
    """One bar for each of at most `width` stretches of values: its last one.

    >>> bars([0.0, 0.5, 1.0])
    '▁▅█'
    """
    count = min(width, len(values))
    shown = [values[(place + 1) * len(values) // count - 1] for place in range(count)]
    low, reach = min(shown), (max(shown) - min(shown)) or 1.0
    return "".join(_BARS[min(7, int(8 * (value - low) / reach))] for value in shown)


def aligned(table: Table, width: int) -> list[str]:
    """Its lines, columns under each other; what does not fit goes, the least telling first. Prose that does not fit
    beside its row stands below it."""
    for name in _FIRST_TO_GO:
        if _width(table) <= width:
            break
        table = _without(table, name)
    if _width(table) <= width or not table.prose:
        return _lines(table)
    whole, bare = _lines(table), table
    for name in table.prose:
        bare = _without(bare, name)
    head, *lines = _lines(bare)
    below = [[row[table.columns.index(name)] for name in table.prose] for row in table.rows]
    made = []
    for line, beside, texts in zip(lines, whole[1:], below, strict=True):
        made += [beside] if len(beside) <= width else [line, *_wrapped(texts, width)]
    return [whole[0] if set(whole) & set(made) else head, *made]


def _wrapped(texts: Sequence[str], width: int) -> list[str]:
    return [
        line for text in texts for line in textwrap.wrap(text, width, initial_indent=_INDENT, subsequent_indent=_INDENT)
    ]


def _width(table: Table) -> int:
    return max(map(len, _lines(table)))


def _without(table: Table, name: str) -> Table:
    kept = [place for place, column in enumerate(table.columns) if column != name]
    rows = tuple(tuple(row[place] for place in kept) for row in table.rows)
    return replace(table, columns=tuple(table.columns[place] for place in kept), rows=rows)


def _lines(table: Table) -> list[str]:
    cells = [table.columns, *table.rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(table.columns))]
    return [
        "  ".join(
            cell.ljust(size) if column == 0 or table.columns[column] in table.prose else cell.rjust(size)
            for column, (cell, size) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
