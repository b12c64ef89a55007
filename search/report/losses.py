"""The report's tables of what was saved and what was lost: repeats, early stops, quarantine, failures. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from search.blame import QUARANTINED
from search.effort import Attempt, Effort
from search.report.tables import Table, count_text
from search.results import CandidateRow, Results

SHOWN = 15
CAUSE_LENGTH = 240


@dataclass(frozen=True)
class Savings:
    """Candidates of a kind, and the item evaluations that were not needed for them."""

    what: str
    candidates: int
    items: int


def loss_tables(results: Results) -> list[Table]:
    """All of them; those of which there is nothing to say have no rows."""
    return [savings_table(results), early_table(results), quarantine_table(results), failure_table(results)]


def savings(results: Results) -> list[Savings]:
    """Item evaluations that candidates needed and nobody had to pay for."""
    first: dict[str, int] = {}
    for row in results.candidates:
        first.setdefault(row.recipe_hash, row.number)
    known = [effort for effort in results.efforts if effort.paid < effort.seen]
    repeats: list[Effort] = []
    hits: list[Effort] = []
    for effort in known:
        is_first = first[results.candidate(effort.candidate).recipe_hash] == effort.candidate
        (hits if is_first else repeats).append(effort)
    stopped = [effort for effort in results.efforts if effort.state == "stopped"]
    return [
        _saved("a recipe that an earlier candidate had", repeats, sum(e.seen - e.paid for e in repeats)),
        _saved("scores that were in the store already", hits, sum(e.seen - e.paid for e in hits)),
        _saved("stopped early", stopped, sum(e.needed - e.seen for e in stopped)),
    ]


def _saved(what: str, efforts: Iterable[Effort], items: int) -> Savings:
    return Savings(what, len({effort.candidate for effort in efforts}), items)


def savings_table(results: Results) -> Table:
    """What the campaign did not have to evaluate, by reason."""
    rows = [(s.what, count_text(s.candidates), count_text(s.items)) for s in savings(results) if s.candidates]
    spent = sum(results.items_spent.values())
    saved = sum(entry.items for entry in savings(results))
    note = f"{count_text(saved)} items saved, {count_text(spent)} evaluated." if spent else ""
    return Table("Saved", ("why", "candidates", "items saved"), tuple(rows), note)


def early_table(results: Results) -> Table:
    """Per stage, who was stopped before the end of its window."""
    rows = []
    efforts = {effort.candidate: effort for effort in results.efforts if effort.split == "search"}
    for stage in results.campaign.space.stages:
        mine = [row for row in results.candidates if row.stage == stage.name and row.number in efforts]
        stopped = [efforts[row.number] for row in mine if row.stopped_after is not None]
        if stopped:
            share = sum(effort.seen for effort in stopped) / sum(effort.needed for effort in stopped)
            rows.append((stage.name, count_text(len(mine)), count_text(len(stopped)), f"{100 * share:.0f} %"))
    note = "Whoever is significantly worse than the best on the same items, or cannot reach the better half any more."
    return Table("Stopped early", ("stage", "searched", "stopped", "of their window seen"), tuple(rows), note)


def quarantined(results: Results) -> list[CandidateRow]:
    """Candidates that failed on two evaluators, which others did not."""
    return [row for row in results.candidates if (row.failure or "").startswith(QUARANTINED)]


def quarantine_table(results: Results) -> Table:
    """Who, and what happened on which evaluator."""
    found = quarantined(results)
    rows = [(row.label, _short((row.failure or "").removeprefix(QUARANTINED).strip())) for row in found[:SHOWN]]
    return Table(
        "Quarantined", ("candidate", "what happened"), tuple(rows), _rest(len(found)), prose=("what happened",)
    )


def failures(results: Results) -> list[tuple[str, list[CandidateRow]]]:
    """Cause → the candidates that were lost to it, the most frequent first; without those that are quarantined."""
    by_cause: dict[str, list[CandidateRow]] = defaultdict(list)
    apart = {row.number for row in quarantined(results)}
    for row in results.candidates:
        if row.failure is not None and row.number not in apart:
            by_cause[_short(row.failure)].append(row)
    return sorted(by_cause.items(), key=lambda pair: (-len(pair[1]), pair[0]))


def failure_table(results: Results) -> Table:
    """Why candidates were lost, and in the note what failed in passing and was done again."""
    found = failures(results)
    rows = [(_labels(lost), count_text(len(lost)), cause) for cause, lost in found[:SHOWN]]
    again = _repeated(results.attempts)
    if again and not rows:
        rows = [("none", "0", "every block of items was scored in the end")]
    note = " ".join(filter(None, (_rest(len(found)), again)))
    return Table("Failures", ("which", "candidates", "cause"), tuple(rows), note, prose=("cause",))


def _repeated(attempts: Iterable[Attempt]) -> str:
    """A sentence on attempts that came to nothing: failed, and those of workers that went away or fell silent."""
    counts = Counter(attempt.state for attempt in attempts)
    names = {
        "failed": "failed",
        "expired": "fell silent",
        "returned": "were given back",
        "outage": "met an outage",
        "lost": "ended with their coordinator",
    }
    told = [f"{count_text(counts[state])} {name}" for state, name in names.items() if counts[state]]
    return f"Of all attempts at a block of items, {', '.join(told)}." if told else ""


def _labels(rows: list[CandidateRow]) -> str:
    more = f" and {len(rows) - 3} more" if len(rows) > 3 else ""
    return ", ".join(row.label for row in rows[:3]) + more


def _short(cause: str) -> str:
    """A cause as one line of a table."""
    text = " ".join(cause.split())
    return text if len(text) <= CAUSE_LENGTH else text[: CAUSE_LENGTH - 1].rstrip() + "…"


def _rest(count: int) -> str:
    return f"And {count_text(count - SHOWN)} more." if count > SHOWN else ""
