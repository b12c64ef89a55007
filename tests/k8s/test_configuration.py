"""The example recipe and campaign in the ConfigMap are ones that mergefleet reads."""

from __future__ import annotations

from pathlib import Path

from engine import load_recipe
from search.campaign_file import load_campaign

BASE = Path(__file__).resolve().parents[2] / "k8s" / "base"


def test_the_example_recipe_is_read() -> None:
    recipe = load_recipe(BASE / "recipe.yml")
    assert recipe.method == "ties"


def test_the_example_campaign_is_read_and_keeps_everything_on_the_shared_volume() -> None:
    campaign = load_campaign(BASE / "campaign.yml")
    assert campaign.source_names == ("Qwen2.5-1.5B-Instruct", "Qwen2.5-Coder-1.5B")
    assert str(campaign.include_path).startswith("/out/")
    assert str(campaign.publish.to).startswith("/out/")
