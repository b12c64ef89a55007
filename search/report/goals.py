"""The report's tables of several objectives and of constraints: the front with its uncertainty, the bounds. Pure."""

from __future__ import annotations

import math

from search.ports import Verdict
from search.report.tables import Table, signed_text


def goal_tables(verdict: Verdict | None) -> list[Table]:
    """The front and the bounds, where the campaign has such and was judged."""
    if verdict is None:
        return []
    return [table for table in (front_table(verdict), bounds_table(verdict)) if table.rows]


def front_table(verdict: Verdict) -> Table:
    """Every model of the front on the holdout, the winner first."""
    rows = []
    for member in verdict.front:
        cells = [
            f"{_number(value)} ({_number(low)} … {_number(high)})"
            for value, (low, high) in zip(member.values, member.intervals, strict=True)
        ]
        kept = [", ".join(member.broken) or "none"] if verdict.bounds else []
        rows.append((member.label, *cells, f"{100 * member.chance:.0f} %", *kept))
    note = (
        "Values on the holdout with 95 % intervals (joint bootstrap over items). The chance: the share of resamples "
        "in which no other member is as good in everything and better in something. The first row is the one chosen."
    )
    columns = ("model", *verdict.objectives, "chance", *(["constraints broken"] if verdict.bounds else []))
    return Table("Front", columns, tuple(rows), note)


def bounds_table(verdict: Verdict) -> Table:
    """Every constraint on the winner, the least of them first."""
    rows = [
        (
            bound.title,
            bound.reference or "–",
            "–" if bound.value is None else _number(bound.value),
            "–" if bound.margin is None else signed_text(bound.margin),
            "–" if bound.interval is None else " … ".join(map(signed_text, bound.interval)),
            "unknown" if bound.margin is None else "yes" if bound.kept else "no",
        )
        for bound in sorted(verdict.bounds, key=lambda bound: -math.inf if bound.margin is None else bound.margin)
    ]
    note = "The margin is what is left to the bound on the holdout; a winner has to keep every constraint."
    columns = ("constraint", "compared with", "value", "margin", "95 % interval", "kept")
    return Table("Constraints", columns, tuple(rows), note)


def _number(value: float) -> str:
    """Three decimals for scores, three digits and more for what is counted."""
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}".replace(",", "\u202f")
