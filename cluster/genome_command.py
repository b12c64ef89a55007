"""What `mergefleet genome` does: a genome file of mergekit-evolve → a campaign file."""

from __future__ import annotations

import re
from pathlib import Path

from engine.errors import OutputExists
from engine.models.architecture import Layout
from engine.models.checkpoint import open_checkpoint
from engine.recipes.keypath import KeyPath
from engine.recipes.model_ref import parse_model
from search.campaign_file import load_campaign, parse_campaign
from search.genome import convert, first_model, needs_layers, read_genome


def run(genome: Path, campaign: Path | None, *, layers: int | None) -> None:
    """Write the campaign to `campaign`, or print it. OutputExists where a file is there already."""
    if campaign is not None and campaign.exists():
        raise OutputExists(f"{campaign}: is there already; name another file.", path=str(campaign))
    data, origin = read_genome(genome), str(genome)
    if layers is None and needs_layers(data, origin=origin):
        layers = _layers(first_model(data, origin=origin), origin)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", (campaign or genome).stem).lstrip("-._") or "genome"
    converted = convert(data, name=name, layers=layers, origin=origin)
    parse_campaign(converted.data, origin=str(campaign or genome))
    if campaign is None:
        print(converted.text(), end="")
        return
    campaign.write_text(converted.text(), encoding="utf-8")
    load_campaign(campaign)
    print(f"{campaign}: run it with `mergefleet search {campaign}`")


def _layers(model: str, origin: str) -> int:
    ref = parse_model(model, KeyPath(origin).key("genome").key("models"))
    checkpoint = open_checkpoint(ref)
    try:
        return Layout.read(checkpoint.tensors, checkpoint.config, origin=model).layers
    finally:
        checkpoint.close()
