"""docs/evaluators.md: every example is tasks that a campaign may have, and the page names every key."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from simulated import campaign_data

from search.campaign_file import parse_campaign
from search.evaluators.entries import EvaluatorEntry, JudgeEntry, SplitEntry, TaskEntry

PAGE = (Path(__file__).parents[3] / "docs" / "evaluators.md").read_text()
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_is_tasks_of_a_campaign(example: str) -> None:
    campaign = parse_campaign(campaign_data(**yaml.safe_load(example)), origin="docs/evaluators.md")
    assert campaign.tasks


@pytest.mark.parametrize("part", [TaskEntry, SplitEntry, JudgeEntry, EvaluatorEntry])
def test_the_page_names_every_key(part: type) -> None:
    code = set(re.findall(r"[a-z_]+", " ".join(re.findall(r"`([^`]*)`", PAGE))))
    assert set(part.model_fields) <= code
