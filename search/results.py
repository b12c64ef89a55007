"""A finished, paused or running campaign, read back from its store for reports and publishing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from engine.errors import CampaignError
from search import collector
from search.campaign import Origin
from search.campaign_file import Campaign, parse_campaign
from search.effort import Attempt, Effort, attempts_of, efforts_of
from search.judging.rivals import superseded
from search.judging.scores import WindowScore, estimates, window_numbers
from search.judging.verdicts import verdict_from_dict
from search.matrix import Matrix, tell
from search.pools import window_items
from search.ports import SPLITS, Phase, Split, Verdict
from search.store import schema
from search.store.store import Store
from search.store.transaction import Row
from search.visits import Visit, visit_of


@dataclass(frozen=True)
class CandidateRow:
    """One candidate. `label` is short and unique ("ties", "parent letters", "layers 117", "mean of layers").

    stage          name of the stage whose axes `params` are; "" for baselines
    params         the sampler's coordinates, name → value; {} for a baseline
    search_score   mean score on the candidate's own search window (None: not scored there, or failed)
    values         one per objective of the campaign, in its units; () where it names none
    violation      how far out of the constraints' bounds, on the search window; 0: feasible
    stopped_after  items of that window after which it was stopped, its score being the mean of these (None: it was not)
    estimate       shrunk estimate, comparable between candidates whatever window they saw
    order          when its search score came in, counted over all events (None: it has none)
    failure        why it has no score, or None
    """

    number: int
    label: str
    stage: str
    origin: Origin
    cohort: int | None
    params: Mapping[str, float]
    recipe: Mapping[str, Any]
    recipe_hash: str
    weights_digest: str | None
    search_score: float | None
    estimate: float | None
    selection_score: float | None
    holdout_score: float | None
    order: int | None
    failure: str | None
    stopped_after: int | None = None
    values: tuple[float, ...] = ()
    violation: float = 0.0


class Window(NamedTuple):
    """Of a cohort: where it starts, its size as it was asked for, and how many items it has."""

    start: int
    size: int
    items: int


Windows = Sequence[Window]
"""Of every cohort, in order."""


@dataclass(frozen=True)
class HoldoutAccess:
    """One entry of the holdout ledger: who was scored on the sealed items, why, when, by which epoch."""

    candidate: int
    reason: str
    items: int
    epoch: int
    at: float


@dataclass(frozen=True)
class Results:
    """Everything a report or `publish` needs. `winner` is None before the holdout opens.

    `items_spent` counts the item evaluations that this campaign paid for, by split; `seconds` is the time that all runs
    took.
    """

    campaign: Campaign
    phase: Phase
    layers: int
    candidates: tuple[CandidateRow, ...]
    item_scores: Matrix
    ledger: tuple[HoldoutAccess, ...]
    winner: int | None
    verdict: Verdict | None
    items_spent: Mapping[Split, int]
    seconds: float
    eval_key: str
    item_measures: Matrix = field(default_factory=Matrix.of)
    items_digest: str = ""
    efforts: tuple[Effort, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    visits: tuple[Visit, ...] = ()

    def candidate(self, number: int) -> CandidateRow:
        """The candidate of this number."""
        return self.candidates[number]


def read_results(url: str, *, name: str) -> Results:
    """Read campaign `name` from the store at `url` (see `store.store_url`). CampaignError where it is not there."""
    store = Store(url)
    try:
        found = store.find(name)
        if found is None:
            raise CampaignError(f"{store.place}: holds no run of campaign {name!r}", name=name)
        return results_of(store, found)
    finally:
        store.close()


@collector.paused()
def results_of(store: Store, row: Row) -> Results:
    """The results of the campaign that `store` has found, whose row this is."""
    campaign = parse_campaign(row["config"], origin=f"{store.place} ({row['name']})")
    items = store.rows(schema.ITEMS)
    outcomes = {(entry["number"], entry["split"]): entry for entry in store.rows(schema.ASSESSMENTS)}
    counts: dict[str, Counter[str]] = {
        split: Counter(item["task"] for item in items if item["split"] == split) for split in SPLITS
    }
    pool = [*counts["search"].values()]
    cohorts = store.rows(schema.COHORTS)
    windows = [Window(row["start"], row["size"], window_items(row["size"], pool)) for row in cohorts]
    leases = store.rows(schema.LEASES)
    candidates = _candidates(store, campaign, outcomes, windows=windows, leases=leases)
    recipes = [candidate.recipe_hash for candidate in candidates]
    told = tell(
        store.shared_scores(sorted(set(recipes))), campaign=row["id"], items=items, recipes=recipes, met=outcomes
    )
    sizes = {
        (number, split): windows[candidates[number].cohort or 0].items if split == "search" else counts[split].total()
        for number, split in outcomes
    }
    ledger = tuple(HoldoutAccess(**{k: v for k, v in e.items() if k != "campaign"}) for e in store.rows(schema.LEDGER))
    return Results(
        campaign=campaign,
        phase=phase_of(row, outcomes),
        layers=row["layers"],
        candidates=candidates,
        item_scores=told.scores,
        ledger=ledger,
        winner=next((entry.candidate for entry in ledger if entry.reason == "winner"), None),
        verdict=None if row["verdict"] is None else verdict_from_dict(row["verdict"]),
        items_spent=told.spent,
        seconds=row["seconds"],
        eval_key=row["eval_key"],
        item_measures=told.measures,
        items_digest=row["items_digest"],
        efforts=efforts_of(outcomes, sizes=sizes, leases=leases, paid=told.paid),
        attempts=attempts_of(leases),
        visits=tuple(map(visit_of, store.rows(schema.VISITS))),
    )


def _candidates(
    store: Store,
    campaign: Campaign,
    outcomes: Mapping[tuple[int, str], Row],
    *,
    windows: Windows,
    leases: Sequence[Row],
) -> tuple[CandidateRow, ...]:
    rows = store.rows(schema.CANDIDATES)
    names = [stage.name for stage in campaign.space.stages]
    estimated = _estimated(rows, outcomes, windows)
    digests = _digests(store, {row["number"]: row["recipe_hash"] for row in rows}, leases)
    found = []
    for row in rows:
        by_split = {split: outcomes.get((row["number"], split), {}) for split in SPLITS}
        causes = [entry["cause"] for entry in by_split.values() if entry.get("cause")]
        found.append(
            CandidateRow(
                number=row["number"],
                label=row["label"] or f"candidate {row['number']}",
                stage="" if row["stage"] < 0 else names[row["stage"]],
                origin=row["origin"],
                cohort=row["cohort"],
                params=row["params"],
                recipe=row["recipe"],
                recipe_hash=row["recipe_hash"],
                weights_digest=digests.get(row["recipe_hash"]),
                search_score=by_split["search"].get("score"),
                estimate=estimated.get(row["number"]),
                selection_score=by_split["selection"].get("score"),
                holdout_score=by_split["holdout"].get("score"),
                order=by_split["search"].get("finished"),
                failure=causes[0] if causes else None,
                stopped_after=by_split["search"].get("items"),
                values=tuple(by_split["search"].get("objectives") or ()),
                violation=by_split["search"].get("violation") or 0.0,
            )
        )
    return tuple(found)


def _digests(store: Store, recipes: Mapping[int, str], leases: Sequence[Row]) -> dict[str, str]:
    """Recipe hash → digest of the weights that were scored: by this campaign's leases, else by another campaign's."""
    known = {recipes[row["candidate"]]: row["weights_digest"] for row in leases if row["weights_digest"] is not None}
    return known | store.weights_digests(sorted(set(recipes.values()) - set(known)))


def _estimated(rows: Sequence[Row], outcomes: Mapping[tuple[int, str], Row], windows: Windows) -> dict[int, float]:
    """Candidate → estimate; none for a result of which a larger window tells more, as the campaign has it (live.py)."""
    scored = list(_windows(rows, outcomes, windows))
    known = {row["number"]: (row["recipe_hash"], row["cohort"]) for row in rows}
    gone = superseded((entry.number, known[entry.number][0], windows[known[entry.number][1]][:2]) for entry in scored)
    return {number: value for number, value in estimates(scored).items() if number not in gone}


def _windows(rows: Sequence[Row], outcomes: Mapping[tuple[int, str], Row], windows: Windows) -> Iterator[WindowScore]:
    alike = window_numbers([window[:2] for window in windows])
    for row in rows:
        outcome = outcomes.get((row["number"], "search"))
        if outcome is not None and outcome["score"] is not None:
            stopped = outcome["state"] == "stopped"
            yield WindowScore(
                row["number"],
                row["stage"],
                alike[row["cohort"]],
                windows[row["cohort"]].items,
                outcome["score"],
                stopped=stopped,
            )


def phase_of(row: Row, outcomes: Mapping[tuple[int, str], Row]) -> Phase:
    """Where a campaign is, by its row and its assessments."""
    if row["verdict"] is not None:
        return "done"
    reached = {split for _, split in outcomes}
    return "holdout" if "holdout" in reached else "selection" if "selection" in reached else "search"
