"""The coordinator's actor: what it needs to start again lies in a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from simulated import make_inventory

from cluster.coordinator import keep_inventory, kept_inventory
from search.ports import Inventory


@pytest.mark.parametrize(
    "inventory", [make_inventory(), replace(make_inventory(), notes=("near copies: é",), measures=("tokens",))]
)
def test_an_inventory_comes_back_from_its_file_as_it_was(inventory: Inventory, tmp_path: Path) -> None:
    keep_inventory(tmp_path / "inventory.json", inventory)
    assert kept_inventory(tmp_path / "inventory.json") == inventory
