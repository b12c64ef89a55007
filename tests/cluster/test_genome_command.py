"""mergefleet genome: prints or writes a campaign that loads, counts the models' layers itself, overwrites nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tiny_models import LAYER, write_model

from cluster import genome_command
from engine.errors import OutputExists
from search.campaign_file import load_campaign


@pytest.fixture
def genome(tmp_path: Path) -> Path:
    """A genome file over two models of four layers, a number for every two of them."""
    arrays = {LAYER.format(number): np.zeros((4, 4), np.float32) for number in range(4)}
    models = [str(write_model(tmp_path / name, arrays, num_hidden_layers=4)) for name in ("base", "a", "b")]
    data: dict[str, Any] = {
        "genome": {"base_model": models[0], "models": models[1:], "merge_method": "ties", "layer_granularity": 2},
        "tasks": ["some_task"],
    }
    path = tmp_path / "genome.yml"
    path.write_text(yaml.safe_dump(data))
    return path


def test_it_writes_a_campaign_once(genome: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "evolved.yml"
    genome_command.run(genome, out, layers=None)
    assert "mergefleet search" in capsys.readouterr().out
    campaign = load_campaign(out)
    assert campaign.name == "evolved"
    assert [(stage.by, stage.blocks) for stage in campaign.space.stages] == [("global", 0), ("layer_block", 2)]
    with pytest.raises(OutputExists, match=r"evolved\.yml: is there already"):
        genome_command.run(genome, out, layers=None)


def test_without_a_second_name_it_prints_it(genome: Path, capsys: pytest.CaptureFixture[str]) -> None:
    genome_command.run(genome, None, layers=8)
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["space"]["stages"][1]["blocks"] == 4
    assert printed.startswith("# Made from a genome file")
