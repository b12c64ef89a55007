"""Does the user's list hold items of the campaign, and are there near copies between splits?

Two texts are identical if they are equal after `contract.normalised` (Unicode form, case, white space). Identical items
in two splits are refused in pools.py, those of selection and holdout that the list holds are refused here. Texts are
near if they share a run of 13 words, as in appendix C of the GPT-3 paper (arXiv:2005.14165). Near copies can be
innocent (one passage, two questions), so they are told and not refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.errors import CampaignError
from search.campaign_file import Campaign
from search.evaluators.contract import Scorer, normalised, text_digest, text_of
from search.ports import SPLITS, Item, Split

RUN_WORDS = 13
SEALED: tuple[Split, ...] = ("selection", "holdout")
_DIGEST = re.compile(r"[0-9a-f]{64}", re.IGNORECASE)


@dataclass(frozen=True)
class KnownTexts:
    """The user's list: digests of whole texts, and the word runs of those that are given as text."""

    digests: frozenset[str]
    runs: frozenset[int]


def check_items(campaign: Campaign, scorer: Scorer) -> tuple[str, ...]:
    """What a reader of the verdict should know, a sentence each: how many items are near copies, or in the list.

    Raises CampaignError where selection or holdout have items of the list.
    """
    items, texts = scorer.items(), scorer.texts()
    runs = {split: {item.key: word_runs(texts[item.key]) for item in items[split]} for split in SPLITS}
    notes = [*_near_between(runs)]
    if campaign.contamination is not None:
        known = read_known(Path(campaign.contamination), origin=campaign.origin)
        notes += _against(known, items, runs, origin=campaign.origin)
    return tuple(notes)


def word_runs(text: str) -> frozenset[int]:
    """Hashes of every run of 13 words; none where the text has fewer.

    >>> len(word_runs("to be or not to be that is the question whether it is nobler"))
    2
    """
    words = re.findall(r"\w+", normalised(text))
    return frozenset(hash(tuple(words[place : place + RUN_WORDS])) for place in range(len(words) - RUN_WORDS + 1))


def _near_between(runs: Mapping[Split, Mapping[str, frozenset[int]]]) -> Iterator[str]:
    searched = frozenset().union(*runs["search"].values())
    for split in SEALED:
        near = [key for key, mine in runs[split].items() if mine & searched]
        if near:
            yield (
                f"{len(near)} of {len(runs[split])} {split} items share {RUN_WORDS} words in a row with search items "
                f"(the first: {near[0]})"
            )


def read_known(path: Path, *, origin: str) -> KnownTexts:
    """The user's list: a line is the SHA-256 of a normalised text (64 hex digits), a JSON object, or a text."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # not splitlines: JSON may hold U+2028
    except (OSError, UnicodeDecodeError) as error:
        raise CampaignError(f"{origin}: contamination: cannot read {path}: {error}", path=str(path)) from error
    digests: set[str] = set()
    runs: set[int] = set()
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line:
            continue
        if _DIGEST.fullmatch(line):
            digests.add(line.lower())
            continue
        text = text_of(_json_or_text(line))
        try:
            digests.add(text_digest(text))
        except UnicodeEncodeError:
            raise CampaignError(
                f"{origin}: contamination: {path}, line {number} holds half a surrogate pair, which is no text: cut it "
                "out",
                path=str(path),
            ) from None
        runs |= word_runs(text)
    if not digests:
        raise CampaignError(f"{origin}: contamination: {path} lists nothing", path=str(path))
    return KnownTexts(frozenset(digests), frozenset(runs))


def _json_or_text(line: str) -> object:
    if not line.startswith("{"):
        return line
    try:
        return json.loads(line)
    except ValueError:
        return line


def _against(
    known: KnownTexts,
    items: Mapping[Split, Sequence[Item]],
    runs: Mapping[Split, Mapping[str, frozenset[int]]],
    *,
    origin: str,
) -> Iterator[str]:
    sealed = [f"{item.key} ({split})" for split in SEALED for item in items[split] if item.text in known.digests]
    if sealed:
        more = f" and {len(sealed) - 5} more" if len(sealed) > 5 else ""
        raise CampaignError(
            f"{origin}: contamination: {len(sealed)} items are in the list: {', '.join(sealed[:5])}{more}. "
            "Take them out of the tasks: they cannot judge a winner.",
            items=sealed,
        )
    searched = sum(item.text in known.digests for item in items["search"])
    if not searched:
        yield f"none of the items is among the {len(known.digests)} known texts"
    else:
        yield f"{searched} of {len(items['search'])} search items are in the list of known texts"
    for split in SPLITS:
        near = sum(bool(mine & known.runs) for mine in runs[split].values())
        if near:
            yield (f"{near} of {len(runs[split])} {split} items share {RUN_WORDS} words in a row with the known texts")
