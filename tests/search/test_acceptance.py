"""The table of docs/search.md that says which test shows what names tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TABLE = (ROOT / "docs" / "search.md").read_text().partition("## Which test shows what")[2].partition("\n## ")[0]
NAMED = re.findall(r"`(tests/\S+\.py) -k (\w+)`", TABLE)


def test_every_acceptance_test_has_a_row() -> None:
    assert re.findall(r"^\| T(\d+) \|", TABLE, re.MULTILINE) == [str(number) for number in range(1, 16)]
    assert TABLE.count("tests/") == len(NAMED)


@pytest.mark.parametrize(("file", "word"), NAMED)
def test_what_the_table_names_is_there(file: str, word: str) -> None:
    assert re.search(rf"^def test_\w*{word}", (ROOT / file).read_text(), re.MULTILINE)
