"""A campaign that begins as another one: its rows up to a candidate, under a new name (`mergefleet search --fork`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from engine.errors import CampaignError, InputsChanged, OutputExists
from search.campaign_file import Campaign, campaign_to_dict
from search.store import schema
from search.store.blocks import NOBODY
from search.store.changes import changes, named
from search.store.store import CampaignFacts, Store, stored_config
from search.store.transaction import Row, Transaction

MAY_DIFFER = ("sampler", "sampler_options", "budget", "selection", "comparators", "publish", "trackers", "store")
"""Keys in which a fork may differ from its origin, besides the name: what is copied does not depend on them."""
_TABLES = (schema.ITEMS, schema.VISITS, schema.CANDIDATES, schema.COHORTS, schema.ASSESSMENTS, schema.LEASES)


def fork(
    old: Store,
    campaign: Campaign,
    new: Store,
    *,
    at: int | None,
    now: float,
    begin: Callable[[], None] = lambda: None,
) -> int:
    """Make `campaign`, which has another name than the one in `old`, of that one's candidates 0 to `at`.

    `old` has found its campaign; `new` is the store of the new one, maybe the same database. `begin` is called when
    nothing stands against it and nothing is made yet: it raises, too, or makes what has to be there before the rows.
    Returns how many candidates the fork begins with. Raises CampaignError (the holdout was opened, no such candidate),
    InputsChanged (the file differs in more than MAY_DIFFER), OutputExists (the name is taken).
    """
    row = old.rows(schema.CAMPAIGNS, id=old.campaign)[0]
    _refuse_opened(old, row)
    facts = CampaignFacts(
        campaign.name, stored_config(campaign), row["eval_key"], row["items_digest"], row["layers"], row["elites"]
    )
    _refuse_others(row, facts, origin=campaign.origin)
    half_made = _refuse_taken(new, campaign.name)
    rows = _copied(old, at=at)
    scores = old.shared_scores(sorted({entry["recipe_hash"] for entry in rows[schema.CANDIDATES.name]}))
    begin()
    if campaign.store is None:
        new.make_folder()

    def copy(transaction: Transaction) -> None:
        for table in _TABLES:
            transaction.add(table, rows[table.name])
        if new.place != old.place:
            transaction.add_scores(scores, campaign=NOBODY)

    # in the transaction that makes the campaign: one without its rows would be resumed as a search from nothing
    new.take_over(facts, now=now, afresh=half_made, begin=copy)
    return len(rows[schema.CANDIDATES.name])


def _refuse_opened(old: Store, row: Row) -> None:
    if old.holdout_opened():
        raise CampaignError(
            f"campaign {row['name']!r} has opened its holdout: a fork would be chosen by who knows the result, and "
            "judged on the same items. Start a campaign whose holdout has other items."
        )


def _refuse_others(row: Row, facts: CampaignFacts, *, origin: str) -> None:
    """InputsChanged where the file differs from the run in what its rows depend on."""
    changed = changes(row, facts, free=frozenset({"name", *MAY_DIFFER}))
    if changed:
        raise InputsChanged(
            f"{origin}: --fork: a fork may differ from its origin in {', '.join(MAY_DIFFER)} only; campaign "
            f"{row['name']!r} has others: {named(changed)}. Restore them, or start {facts.name!r} without --fork.",
            changed=changed,
        )


def _refuse_taken(new: Store, name: str) -> bool:
    """OutputExists where there is such a campaign; True where there is one that never came to a candidate."""
    if new.find(name) is None:
        return False
    if new.rows(schema.CANDIDATES) or new.scored():
        raise OutputExists(f"{new.place}: holds a campaign {name!r} already. Give the fork another name.")
    return True


def write_campaign(campaign: Campaign, path: Path) -> None:
    """The fork's own campaign file, by which it is resumed; readable by its owner only, for the URL of the store."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(campaign_to_dict(campaign), sort_keys=False))


def _copied(old: Store, *, at: int | None) -> dict[str, list[Row]]:
    """The rows that the fork begins with: the search up to candidate `at`, without selection and events."""
    searched = {row["number"]: row for row in old.rows(schema.ASSESSMENTS, split="search")}
    last = next(number for number in range(len(searched) + 1) if number not in searched) - 1
    if at is not None and not 0 <= at <= last:
        raise CampaignError(f"--at: got {at}, a candidate of the search expected, 0 to {last}", got=at)
    kept = range((last if at is None else at) + 1)
    candidates = [row for row in old.rows(schema.CANDIDATES) if row["number"] in kept]
    cohorts = {row["cohort"] for row in candidates}
    leases = [row for row in old.rows(schema.LEASES, split="search", state="done") if row["candidate"] in kept]
    return {
        schema.ITEMS.name: old.rows(schema.ITEMS),
        schema.VISITS.name: old.rows(schema.VISITS),  # to the same sealed items
        schema.CANDIDATES.name: candidates,
        schema.COHORTS.name: [row for row in old.rows(schema.COHORTS) if row["number"] in cohorts],
        schema.ASSESSMENTS.name: [searched[number] for number in kept],
        # they tell which weights were scored; their names are free again for the fork's own
        schema.LEASES.name: _renamed(leases, prefix=f"{old.campaign}/"),
    }


def _renamed(leases: Sequence[Row], *, prefix: str) -> list[Row]:
    return [{**row, "lease": f"{prefix}{row['lease']}", "taken": 0.0, "ended": 0.0} for row in leases]
