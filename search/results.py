"""A finished (or paused) campaign, read back for reports and publishing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from search.campaign_file import Campaign
from search.ports import Split, Verdict

Origin = Literal["baseline", "start", "sobol", "cma", "sampler", "mean", "soup"]


@dataclass(frozen=True)
class CandidateRow:
    """One candidate. `label` is short and unique ("ties", "parent letters", "cma 117", "mean of layers").

    params         the sampler's coordinates, name → value; {} for a baseline outside the space
    search_score   mean score on the candidate's own search window (None: not scored there, or failed)
    estimate       shrunk estimate comparable between candidates whatever window they saw
    failure        why it has no score, or None
    """

    number: int
    label: str
    stage: str
    origin: Origin
    params: Mapping[str, float]
    recipe: Mapping[str, Any]
    recipe_hash: str
    weights_digest: str | None
    search_score: float | None
    estimate: float | None
    selection_score: float | None
    holdout_score: float | None
    failure: str | None


@dataclass(frozen=True)
class ItemScore:
    candidate: int
    split: Split
    task: str
    item: str
    score: float


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
    """Everything a report or `publish` needs. `winner` is None before selection is over."""

    campaign: Campaign
    phase: str
    candidates: tuple[CandidateRow, ...]
    item_scores: tuple[ItemScore, ...]
    ledger: tuple[HoldoutAccess, ...]
    winner: int | None
    verdict: Verdict | None
    items_spent: Mapping[Split, int]
    seconds: float

    def candidate(self, number: int) -> CandidateRow:
        return self.candidates[number]
