"""The winner as a model directory: merged again from its recipe, and published only if the bits are those scored."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engine.card import ScoreTable
from engine.errors import CampaignError, OutputExists
from engine.made import PROVENANCE
from engine.merging import merge
from engine.options import Options
from engine.recipe_reader import parse_recipe
from search.campaign_file import Campaign, campaign_to_dict
from search.resident import ResidentEvaluator
from search.results import CandidateRow, Results
from search.run import RunDirectory

_ELSEWHERE = "Remove it, or name another place in publish.to and continue with --resume."


def target_of(campaign: Campaign, directory: RunDirectory) -> Path:
    """Where the winner goes: the campaign's publish.to, else `published` in the run."""
    return Path(campaign.publish.to) if campaign.publish.to else directory.root / "published"


def refuse_target(campaign: Campaign, directory: RunDirectory) -> None:
    """Refuse, before anything is scored, a place that is taken (OutputExists) or no directory (CampaignError)."""
    to = campaign.publish.to or ""
    if "://" in to or to.startswith("hub:"):
        raise CampaignError(
            f"{campaign.origin}: publish.to: got {to!r}; only directories are supported yet. Name one, and upload it."
        )
    out = target_of(campaign, directory)
    if not out.exists():
        return
    facts = _provenance(out)
    if facts.get("campaign", {}).get("name") != campaign.name:
        raise OutputExists(f"{out}: is there already and is no model of campaign {campaign.name!r}. {_ELSEWHERE}")


def publish_winner(results: Results, directory: RunDirectory, *, to: Path | None = None) -> Path:
    """Merge the winner's recipe into `to` (default: `target_of` the stored campaign).

    A directory that holds these very weights already is left as it is, so that a resumed run ends well.

    Raises CampaignError where there is no winner, OutputDamaged where the bits differ from those that were scored,
    OutputExists where something else is in the way.
    """
    winner = winner_of(results)
    out = to or target_of(results.campaign, directory)
    if _holds(out, winner):
        return out
    recipe = parse_recipe(dict(winner.recipe), origin=f"winner of {results.campaign.name}")
    options = Options(
        content_digests=True,
        scores=score_table(results),
        extra={"campaign": campaign_facts(results, winner)},
        expected_weights=winner.weights_digest,
    )
    published = merge(recipe, out, options=options).out
    assert isinstance(published, Path)  # as `out` is
    return published


def winner_of(results: Results) -> CandidateRow:
    """The candidate that a significant verdict names. CampaignError otherwise: there is nothing to publish."""
    verdict = results.verdict
    if verdict is None:
        raise CampaignError(f"campaign {results.campaign.name!r} has no verdict yet: continue it with --resume")
    if not verdict.significant:
        raise CampaignError(f"campaign {results.campaign.name!r}: {verdict.sentence}: there is nothing to publish")
    return results.candidate(verdict.winner)


def score_table(results: Results) -> ScoreTable:
    """Holdout scores of the winner and of all it was compared with, for the card."""
    verdict = results.verdict
    assert verdict is not None
    low, high = verdict.interval
    rows = [(f"**{verdict.label}**", f"{verdict.score:.3f} ({low:.3f} to {high:.3f})", "", "")]
    for c in sorted(verdict.comparisons, key=lambda comparison: -comparison.score):
        interval = f"{c.interval[0]:+.3f} to {c.interval[1]:+.3f}"
        rows.append((c.label, f"{c.score:.3f}", f"{c.difference:+.3f} ({interval})", f"{c.lower:+.3f}"))
    columns = ("model", "holdout score", "winner − model (95 % interval)", "one-sided 95 % bound")
    caption = (
        f"{verdict.holdout_items} sealed holdout items, scored once; paired bootstrap ({verdict.resamples} resamples), "
        "stratified by task. The winner beats a model where the bound is above 0."
    )
    return ScoreTable(columns, rows, caption)


def campaign_facts(results: Results, winner: CandidateRow) -> dict[str, Any]:
    """What provenance.json says of the campaign: how the winner was found and judged."""
    assert results.verdict is not None
    return {
        "name": results.campaign.name,
        "config": campaign_to_dict(results.campaign),
        "evaluation_key": results.eval_key,
        "candidate": winner.number,
        "label": winner.label,
        "recipe_hash": winner.recipe_hash,
        "candidates": len(results.candidates),
        "items_spent": dict(results.items_spent),
        "verdict": asdict(results.verdict),
    }


def rescored_equal(results: Results, directory: Path, evaluator: ResidentEvaluator) -> bool:
    """Whether the model on disk gives exactly the winner's holdout scores, item by item, loaded as its users load it.

    Holds on the machine that scored it: same dtype, threads, blocks and instruction set (docs/bits.md).
    """
    from search.pools import make_pools

    winner = winner_of(results)
    pools = make_pools(results.campaign, evaluator.inventory())
    blocks = pools.blocks(pools.all("holdout"))
    again = evaluator.rescore(directory, blocks)
    first = {
        score.item: score.score
        for score in results.item_scores
        if score.candidate == winner.number and score.split == "holdout"
    }
    return again == first


def _holds(out: Path, winner: CandidateRow) -> bool:
    """Whether `out` is a published model with the winner's weights. OutputExists where it is anything else."""
    if not out.exists():
        return False
    if _provenance(out).get("weights") == winner.weights_digest:
        return True
    raise OutputExists(f"{out}: is there already and holds another model. {_ELSEWHERE}")


def _provenance(out: Path) -> dict[str, Any]:
    """What provenance.json of a published model says; {} where there is none that can be read."""
    try:
        facts = json.loads((out / PROVENANCE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}
