"""Tables and picture of search traces: medians over seeds, with 95 % intervals by bootstrap over seeds. Pure but for
the writing into docs/.

Legend: R runs (seeds), B resamples.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench import report
from bench.search_best import FILE

if TYPE_CHECKING:
    from bench.search import Trace

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE = DOCS / "search-quality.md"
PICTURE = DOCS / "search-quality.png"
RESAMPLES = 2000
MARKS = (1_000, 2_000, 5_000, 10_000, 20_000, 30_000, 60_000, 130_000, 400_000)
SHARES = (0.90, 0.95)
NAMES = {"ours": "mergefleet", "peer": "mergekit-evolve's", "peer-limit-20": "the same, `limit: 20`"}
Floats = NDArray[np.float64]


def comparison(traces: Sequence[Trace]) -> str:
    """Per family: scores at equal item evaluations, and what 90 and 95 % of the best known gain take."""
    parts = []
    for family in dict.fromkeys(trace.family for trace in traces):
        mine = [trace for trace in traces if trace.family == family]
        parts += [score_table(family, mine), target_table(family, mine)]
    return "\n\n".join(parts)


def score_table(family: str, traces: Sequence[Trace]) -> str:
    """Median holdout score after so many item evaluations."""
    ends = {name: max(trace.spent[-1] for trace in traces if trace.algorithm == name) for name in _algorithms(traces)}
    marks = [mark for mark in MARKS if mark <= 1.2 * max(ends.values())]
    rows = [f"| {family}, holdout score after | " + " | ".join(f"{mark // 1000}k" for mark in marks) + " |"]
    rows.append("|---" * (len(marks) + 1) + "|")
    for name in _algorithms(traces):
        cells = []
        for mark in marks:
            values = [trace.at(mark) for trace in traces if trace.algorithm == name]
            known = [value for value in values if value is not None]
            shown = len(known) == len(values) and mark <= 1.2 * ends[name]
            cells.append(_interval(known, lambda value: f"{value:.3f}".lstrip("0")) if shown else "–")
        rows.append(f"| {NAMES.get(name, name)} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def target_table(family: str, traces: Sequence[Trace]) -> str:
    """Item evaluations until the chosen recipe is as good as a share of the best known gain, and their ratio."""
    best = json.loads(FILE.read_text())[family]
    start, gain = best["best_parent"], best["score"] - best["best_parent"]
    rows = [f"| {family}, item evaluations to reach | " + " | ".join(_algorithms_named(traces)) + " | ratio |"]
    rows.append("|---" * (len(_algorithms(traces)) + 2) + "|")
    by_name = {name: [trace for trace in traces if trace.algorithm == name] for name in _algorithms(traces)}
    ends = {name: max(trace.spent[-1] for trace in mine) for name, mine in by_name.items()}
    for share in SHARES:
        target = start + share * gain
        first = {name: [trace.reaches(target) or math.inf for trace in mine] for name, mine in by_name.items()}
        held = {n: [trace.holds(target, end=ends[n]) or math.inf for trace in mine] for n, mine in by_name.items()}
        for title, needed in ((f"{share:.0%} of the gain ({target:.3f})", first), (f"{share:.0%}, held", held)):
            cells = [_evaluations(values, end=ends[name]) for name, values in needed.items()]
            rows.append(f"| {title} | " + " | ".join(cells) + f" | {_ratio(needed, ends)} |")
    return "\n".join(rows)


def _evaluations(values: Sequence[float], *, end: int) -> str:
    reached = sum(map(math.isfinite, values))
    text = _interval(values, lambda value: f"{value / 1000:.1f}k" if math.isfinite(value) else f"> {end // 1000}k")
    return text if reached == len(values) else f"{text}; {reached} of {len(values)} runs"


def _ratio(needed: Mapping[str, Sequence[float]], ends: Mapping[str, int]) -> str:
    """How many times as many item evaluations the peer takes, median by median."""
    if "ours" not in needed or "peer" not in needed:
        return "–"
    mine, theirs = np.array(needed["ours"]), np.array(needed["peer"])
    if not math.isfinite(np.median(mine)):
        return "–"
    censored = not math.isfinite(np.median(theirs))
    theirs = np.where(np.isfinite(theirs), theirs, ends["peer"])
    mine = np.where(np.isfinite(mine), mine, 10.0 * ends["ours"])
    generator = np.random.default_rng(0)
    drawn_B = np.median(_resampled(theirs, generator), axis=1) / np.median(_resampled(mine, generator), axis=1)
    low, high = np.percentile(drawn_B, [2.5, 97.5])
    sign = "> " if censored else ""
    return f"{sign}{np.median(theirs) / np.median(mine):.1f} ({low:.1f} to {high:.1f})"


def _interval(values: Sequence[float], shown: Callable[[float], str]) -> str:
    """Median (low to high)."""
    drawn_B = np.median(_resampled(np.array(values), np.random.default_rng(0)), axis=1)
    low, high = np.sort(drawn_B)[[int(0.025 * RESAMPLES), int(0.975 * RESAMPLES)]]
    return f"{shown(float(np.median(values)))} ({shown(float(low))} to {shown(float(high))})"


def _resampled(values_R: Floats, generator: np.random.Generator) -> Floats:
    return values_R[generator.integers(len(values_R), size=(RESAMPLES, len(values_R)))]


def _algorithms(traces: Sequence[Trace]) -> list[str]:
    return list(dict.fromkeys(trace.algorithm for trace in traces))


def _algorithms_named(traces: Sequence[Trace]) -> list[str]:
    return [NAMES.get(name, name) for name in _algorithms(traces)]


def ladder(found: Mapping[str, tuple[Floats, Floats]]) -> str:
    """Layer-wise minus global weights: paired over holdout items, bootstrap over items."""
    rows = ["| family | layer-wise | global | difference, 95 % interval |", "|---|---|---|---|"]
    for family, (layered_I, global_I) in found.items():
        difference_I = layered_I - global_I
        drawn_B = _resampled(difference_I, np.random.default_rng(0)).mean(axis=1)
        low, high = np.percentile(drawn_B, [2.5, 97.5])
        rows.append(
            f"| {family} | {layered_I.mean():.3f} | {global_I.mean():.3f} | "
            f"{difference_I.mean():+.3f} ({low:+.3f} to {high:+.3f}) |"
        )
    return "\n".join(rows)


def write_into(name: str, text: str) -> None:
    """Put a table between its marks in docs/search-quality.md."""
    report.write_into(PAGE, text, between=(f"<!-- {name} -->", f"<!-- /{name} -->"))


def picture(traces: Sequence[Trace], path: Path = PICTURE) -> None:
    """Median holdout score against item evaluations, with the quartiles of the seeds, one panel per family."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    families = list(dict.fromkeys(trace.family for trace in traces))
    figure, panels = pyplot.subplots(1, len(families), figsize=(5.2 * len(families), 3.6), squeeze=False)
    best = json.loads(FILE.read_text())
    for panel, family in zip(panels[0], families, strict=True):
        for name in _algorithms(traces):
            _curve(panel, [trace for trace in traces if (trace.family, trace.algorithm) == (family, name)], name)
        for share in SHARES:
            facts = best[family]
            target = facts["best_parent"] + share * (facts["score"] - facts["best_parent"])
            panel.axhline(target, color="0.6", linewidth=0.8, linestyle=":")
            panel.annotate(f"{share:.0%} of the gain", (350, target), fontsize=7, color="0.4", va="bottom")
        panel.set(xscale="log", title=family, xlabel="item evaluations", ylabel="holdout score")
        panel.grid(alpha=0.25)
    panels[0][0].legend(fontsize=8, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def _curve(panel: Any, traces: Sequence[Trace], name: str) -> None:
    start, end = max(trace.spent[0] for trace in traces), max(trace.spent[-1] for trace in traces)
    marks = np.geomspace(start, end, 80)
    scores_RM = np.array([[trace.at(int(mark)) for mark in marks] for trace in traces], dtype=float)
    low, middle, high = np.percentile(scores_RM, [25, 50, 75], axis=0)
    (line,) = panel.plot(marks, middle, label=NAMES.get(name, name).replace("`", ""))
    panel.fill_between(marks, low, high, color=line.get_color(), alpha=0.2)
