"""Items that are in the user's list are refused, near copies are counted."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.errors import CampaignError
from search.evaluators.contamination import check_items, word_runs
from search.evaluators.contract import normalised, text_digest, text_of
from search.ports import SPLITS, Item

LONG = "a farmer counts the sheep on the hill and finds that three of them are missing since noon"


class Made:
    """A scorer of one item a split, which says what it is told."""

    def __init__(self, **texts: str) -> None:
        self.said = {split: texts.get(split, f"{split} only") for split in SPLITS}

    def items(self) -> dict[str, tuple[Item, ...]]:
        return {split: (Item(f"{split}/0", "t", split, text=text_digest(self.said[split])),) for split in SPLITS}

    def texts(self) -> dict[str, str]:
        return {f"{split}/0": text for split, text in self.said.items()}


def check(scorer: Made, listed: Path | None = None) -> tuple[str, ...]:
    campaign: Any = SimpleNamespace(origin="c.yml", contamination=None if listed is None else str(listed))
    return check_items(campaign, scorer)  # type: ignore[arg-type]


def test_a_text_and_its_copy_in_other_case_and_spaces_have_one_digest_which_a_shell_can_make_too() -> None:
    assert text_digest("  What is\n2+2? ") == text_digest("what IS 2+2?") == sha256(b"what is 2+2?").hexdigest()
    assert text_digest("what is 2-2?") != text_digest("what is 2+2?")
    assert normalised("ﬁve") == "five"


def test_a_row_says_all_of_its_values_but_its_id() -> None:
    assert text_of({"question": "2+2", "id": 7, "choices": ["3", 4], "answer": None}) == "3\n4\n2+2"


def test_thirteen_words_in_a_row_make_a_near_copy_and_twelve_do_not() -> None:
    words = LONG.split()
    assert word_runs(" ".join(words[:12])) == frozenset()
    assert word_runs(" ".join(words[:13])) & word_runs("Yesterday, " + LONG.upper())
    assert not word_runs(" ".join(words[:12]) + " and more of other words besides") & word_runs(LONG)


def test_near_copies_between_splits_are_counted_by_split() -> None:
    notes = check(Made(search=LONG, holdout=f"{LONG}; how many?"))
    assert notes == ("1 of 1 holdout items share 13 words in a row with search items (the first: holdout/0)",)
    assert check(Made()) == ()


@pytest.mark.parametrize("how", ["text", "digest", "DIGEST", "row"])
@pytest.mark.parametrize("split", ["selection", "holdout"])
def test_an_item_of_selection_or_holdout_that_the_list_holds_is_refused(how: str, split: str, tmp_path: Path) -> None:
    line = {
        "text": "HOW many?",
        "digest": text_digest("how many?"),
        "DIGEST": text_digest("how many?").upper(),
        "row": json.dumps({"id": 1, "q": "How  many?"}),
    }
    (tmp_path / "known").write_text(f"\ufeff{line[how]}\n\nsomething else\n", encoding="utf-8")
    with pytest.raises(CampaignError, match=rf"c.yml: contamination: 1 items are in the list: {split}/0 \({split}\)"):
        check(Made(**{split: "How many?"}), tmp_path / "known")


def test_a_row_of_the_list_goes_on_behind_a_line_separator_of_unicode(tmp_path: Path) -> None:
    (tmp_path / "known").write_text(json.dumps({"q": "one\u2028two\x85three"}, ensure_ascii=False), encoding="utf-8")
    with pytest.raises(CampaignError, match="1 items are in the list: holdout/0"):
        check(Made(holdout="one\u2028two\x85three"), tmp_path / "known")


def test_search_items_in_the_list_and_near_ones_are_told(tmp_path: Path) -> None:
    (tmp_path / "known").write_text(f"How many?\nIt was said that {LONG}\n")
    assert check(Made(search="how many?", holdout=LONG), tmp_path / "known") == (
        "1 of 1 search items are in the list of known texts",
        "1 of 1 holdout items share 13 words in a row with the known texts",
    )


def test_a_list_in_which_nothing_is_found_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "known").write_text("a question\nand another\n")
    assert check(Made(), tmp_path / "known") == ("none of the items is among the 2 known texts",)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot read"),
        (b"\n", "lists nothing"),
        (b"\xff\xfe", "cannot read"),
        (b'a text\n\n{"q": "\\ud83d"}\n', "known, line 3 holds half a surrogate pair"),
    ],
)
def test_a_list_of_no_use_is_refused_by_name(content: bytes | None, says: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "known").write_bytes(content)
    with pytest.raises(CampaignError, match=f"contamination: .*{says}|contamination: {says}"):
        check(Made(), tmp_path / "known")
