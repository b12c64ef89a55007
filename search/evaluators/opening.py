"""`open_scorer`: the scorer of a campaign, with its items checked against each other and against the user's list."""

from __future__ import annotations

from search.campaign_file import Campaign
from search.evaluators.contamination import check_items
from search.evaluators.contract import Places, Scorer, Suite
from search.evaluators.entries import Kind, TaskEntry
from search.judging.forwards import FORWARDS


def open_scorer(campaign: Campaign) -> Suite:
    """All tasks of a campaign as one scorer. Raises CampaignError for whatever it names that does not exist.

    lm-eval is imported only where a task needs it: that takes seconds.
    """
    places = places_of(campaign)
    scorers: list[Scorer] = []
    for kind in ("python", "text", "judge", "lm_eval"):
        entries = [entry for entry in campaign.tasks if entry.kind == kind]
        if entries:
            scorers.append(_scorer(kind, entries, places, campaign))
    suite = Suite(scorers)
    return suite.with_notes(check_items(campaign, suite))


def places_of(campaign: Campaign) -> Places:
    """Where a campaign's tasks look for their items and functions."""
    return Places(
        campaign.include_path,
        seed=campaign.seed,
        origin=campaign.origin,
        allow_public=campaign.allow_public_test_sets,
        homes=campaign.homes,
    )


def refuse_missing_functions(campaign: Campaign) -> None:
    """CampaignError where a function that a task names cannot be imported here."""
    entries = [entry for entry in campaign.tasks if entry.kind == "python"]
    if entries:
        from search.evaluators.python import load_function

        for entry in entries:
            load_function(entry, places_of(campaign))


def _scorer(kind: Kind, entries: list[TaskEntry], places: Places, campaign: Campaign) -> Scorer:
    batch_size = campaign.evaluator.batch_size
    if kind == "python":
        from search.evaluators.python import PythonScorer

        about = {entry.of for entry in campaign.objectives} | {entry.of for entry in campaign.constraints}
        return PythonScorer(entries, places, counts_forwards=f"measure:{FORWARDS}" in about)
    if kind == "text":
        from search.evaluators.perplexity import TextScorer

        return TextScorer(entries, places, batch_size=batch_size)
    from search.evaluators.lm_eval import LmEvalScorer

    scorer = LmEvalScorer(entries, places, batch_size=batch_size)
    if campaign.evaluator.engine == "hf":  # vLLM knows others
        scorer.refuse_unknown_arguments()
    if kind == "judge":
        from search.evaluators.judge import JudgeScorer

        return JudgeScorer(entries, scorer, origin=campaign.origin)
    return scorer
