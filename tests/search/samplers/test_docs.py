"""docs/samplers.md: every example is a campaign that loads, and the page names every sampler, option and key."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from simulated import make_campaign

from search.judging.objectives import KINDS, ConstraintEntry, ObjectiveEntry
from search.samplers import NAMES, TABLE

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "samplers.md").read_text(encoding="utf-8")
EXAMPLES = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)]


@pytest.mark.parametrize("example", EXAMPLES, ids=[str(number) for number in range(len(EXAMPLES))])
def test_every_example_is_a_part_of_a_campaign(example: dict[str, Any]) -> None:
    campaign = make_campaign(**example)
    assert all(getattr(campaign, key) for key in example)


def test_the_page_names_every_sampler_option_and_key() -> None:
    options = {name for row in TABLE.values() if row.options for name in row.options.model_fields}
    keys = {*ObjectiveEntry.model_fields, *ConstraintEntry.model_fields} - {"name"}
    missing = [name for name in {*NAMES, *options, *keys, *KINDS} if f"`{name}`" not in PAGE and name not in PAGE]
    assert missing == []
