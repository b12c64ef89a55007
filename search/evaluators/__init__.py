"""Scorers, and `open_scorer`, which makes the one a campaign asks for."""

from __future__ import annotations

from search.campaign_file import Campaign
from search.evaluators.contract import Scorer, Suite
from search.evaluators.python import PythonScorer, is_python


def open_scorer(campaign: Campaign) -> Suite:
    """All tasks of a campaign as one scorer. Raises CampaignError for whatever it names that does not exist.

    A task whose metric is `package.module:function` is scored by that function, every other one by lm-eval (imported
    only then: it takes seconds).
    """
    entries, origin = campaign.tasks, campaign.origin
    scorers: list[Scorer] = []
    if own := [entry for entry in entries if is_python(entry)]:
        scorers.append(PythonScorer(own, include_path=campaign.include_path, origin=origin))
    if others := [entry for entry in entries if not is_python(entry)]:
        from search.evaluators.lm_eval import LmEvalScorer

        scorers.append(
            LmEvalScorer(
                others,
                include_path=campaign.include_path,
                batch_size=campaign.evaluator.batch_size,
                origin=origin,
            )
        )
    return Suite(scorers)
