"""docs/architectures.md says of every architecture what is measured here and now."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import architecture_matrix
import pytest
import torch
from architectures import ARCHITECTURES, Architecture

PAGE = architecture_matrix.PAGE.read_text()
RENEW = "run: python tests/support/architecture_matrix.py"


@pytest.fixture(autouse=True)
def threads_are_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    "architecture",
    [pytest.param(row, id=row.name, marks=() if row.core else pytest.mark.slow) for row in ARCHITECTURES],
)
def test_the_row_on_the_page_is_what_is_measured(architecture: Architecture, tmp_path: Path) -> None:
    assert architecture_matrix.measure(architecture, tmp_path) in architecture_matrix.rows(PAGE), RENEW


def test_the_page_has_one_row_for_every_architecture_and_the_promised_ones_work_throughout() -> None:
    cells = [row.strip("| ").split(" | ") for row in architecture_matrix.rows(PAGE)]
    assert [row[0] for row in cells] == [architecture.name for architecture in ARCHITECTURES], RENEW
    assert not [row for row in cells for cell in row if cell.startswith("no")]
