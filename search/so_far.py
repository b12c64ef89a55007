"""How far a run has come, for who forecasts it or asks for its end: told without its scores, which may be millions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from search.campaign_file import Campaign, parse_campaign
from search.ports import SPLITS, Phase, Split
from search.results import phase_of
from search.store import schema
from search.store.store import Store
from search.store.transaction import Row


@dataclass(frozen=True)
class SoFar:
    """`lost`: whether the winner is, on the holdout or before; `spent`: item evaluations that the campaign paid for;
    `seconds`: of all runs; `held_s`: for which evaluators held its work."""

    campaign: Campaign
    phase: Phase
    lost: bool
    baselines: int
    spent: Mapping[Split, int]
    seconds: float
    held_s: float

    @property
    def items_per_s(self) -> float | None:
        """None where there is no telling yet."""
        paid = sum(self.spent.values())
        return paid / self.seconds if paid and self.seconds else None


def read_so_far(store: Store, row: Row) -> SoFar:
    """Of the campaign that `store` has found, whose row this is."""
    outcomes = {(entry["number"], entry["split"]): entry for entry in store.rows(schema.ASSESSMENTS)}
    winner = next((entry["candidate"] for entry in store.rows(schema.LEDGER) if entry["reason"] == "winner"), None)
    items, paid = store.rows(schema.ITEMS), store.items_paid()
    leases = [lease for lease in store.rows(schema.LEASES) if lease["ended"] is not None]
    return SoFar(
        campaign=parse_campaign(row["config"], origin=f"{store.place} ({row['name']})"),
        phase=phase_of(row, outcomes),
        lost=any(outcomes.get((winner, split), {}).get("cause") for split in SPLITS),
        baselines=len(store.rows(schema.CANDIDATES, origin="baseline")),
        spent={split: sum(paid[item["score_key"]] for item in items if item["split"] == split) for split in SPLITS},
        seconds=row["seconds"],
        held_s=sum(max(0.0, lease["ended"] - lease["taken"]) for lease in leases),
    )
