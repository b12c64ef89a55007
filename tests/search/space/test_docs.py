"""docs/space.md: every example is a space that loads, its stages contain each other, and it names every key."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from simulated import campaign_data
from spaces import TENSORS, bound

from search.baselines import AUTO
from search.campaign_file import campaign_to_dict, parse_campaign
from search.space import check_tensors
from search.space.entry import LayersEntry, SpaceEntry, StageEntry

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "space.md").read_text(encoding="utf-8")
EXAMPLES = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)]


@pytest.mark.parametrize("example", EXAMPLES, ids=[str(number) for number in range(len(EXAMPLES))])
def test_every_example_is_a_space(example: dict[str, Any]) -> None:
    space = bound(example["space"], sources=tuple(example.get("sources", ("m/a", "m/b"))))
    check_tensors(space, TENSORS)
    point = space.stages[0].start()
    for stage in range(len(space.stages)):
        assert space.violation(stage, point) == 0
        assert space.recipe(stage, point)["merge_method"] == space.methods[0].name
        point = space.lift(stage, point) if stage + 1 < len(space.stages) else point


@pytest.mark.parametrize("example", EXAMPLES, ids=[str(number) for number in range(len(EXAMPLES))])
def test_every_example_survives_the_trip_through_the_store(example: dict[str, Any]) -> None:
    data = campaign_data(sources=example.get("sources", ["m/a", "m/b"]), space=example["space"])
    campaign = parse_campaign(data, origin="c.yml")
    stored = json.loads(json.dumps(campaign_to_dict(campaign)))
    assert parse_campaign(stored, origin="c.yml") == campaign


def test_the_page_names_every_key() -> None:
    keys = [name for entry in (SpaceEntry, StageEntry, LayersEntry) for name in entry.model_fields]
    assert [name for name in keys if f"`{name}`" not in PAGE and f"`{name}[]`" not in PAGE] == []
    assert [name for name in AUTO if name.split("_")[0] not in PAGE] == []
