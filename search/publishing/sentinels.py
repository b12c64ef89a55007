"""Sentinel items: what the candidate scored in the campaign, it must score again from the published files.

They are items that it met already (of selection, where it got that far; the holdout is not asked again), in the very
blocks in which they were scored, because the items of a batch may influence each other's last bits. So on the machine
of the campaign the scores must be equal, not near.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from engine.errors import EvaluationError, Outage, Refused
from search.evaluators.contract import Unreachable
from search.ports import Inventory, Split
from search.results import Results

WANTED = 50
_ORDER: tuple[Split, ...] = ("selection", "search")


class Rescorer(Protocol):
    """The part of an evaluator that scores a model from disk."""

    def inventory(self) -> Inventory:
        """The evaluation key, above all."""

    def rescore(self, directory: Path, blocks: Iterable[Sequence[str]]) -> dict[str, float]:
        """Scores by item of the model in `directory`, loaded as its users load it."""


@dataclass(frozen=True)
class Sentinels:
    """Blocks of items of one split, and what the candidate scored on them."""

    split: Split
    blocks: tuple[tuple[str, ...], ...]
    scores: Mapping[str, float]


def choose(results: Results, number: int, *, wanted: int = WANTED) -> Sentinels | None:
    """Whole blocks of at least `wanted` items in all, if it has met so many; None where it was never scored."""
    mine = results.item_scores.of_candidate(number)
    for split in _ORDER:
        blocks: dict[str, list[str]] = defaultdict(list)
        scores = {}
        for entry in mine.on(split):
            blocks[entry.lease].append(entry.item)
            scores[entry.item] = entry.score
        if scores:
            taken: list[tuple[str, ...]] = []
            for block in sorted(map(sorted, blocks.values())):
                if sum(map(len, taken)) < wanted:
                    taken.append(tuple(block))
            return Sentinels(split, tuple(taken), {item: scores[item] for block in taken for item in block})
    return None


def check_key(rescorer: Rescorer, eval_key: str) -> None:
    """Refused where this machine measures something else than the campaign did: equal scores would mean nothing."""
    inventory = rescorer.inventory()
    key = inventory.key
    if key != inventory.present_key(eval_key):
        raise Refused(
            f"the evaluation key here is {key[:12]}, the campaign's is {eval_key[:12]}: task files, versions, "
            "the CPU, or a model's config.json, tokenizer or template differ, so its scores cannot be repeated here. "
            "Publish where and of what it ran. --no-rescore publishes it if the files that it takes from models are "
            "those of then; the card says that it was not scored again.",
            got=key,
            expected=eval_key,
        )


def rescored(rescorer: Rescorer, directory: Path, blocks: Iterable[Sequence[str]]) -> dict[str, float]:
    """`Rescorer.rescore`; Outage where what it needs does not answer: nobody's fault, and no reason to merge again."""
    try:
        return rescorer.rescore(directory, blocks)
    except Unreachable as error:
        raise Outage(
            f"outage: {str(error).rstrip('.')}. The model that is to be scored from its files is kept. When that is "
            "mended, run the same command again (a search: with --resume)."
        ) from error


def check(sentinels: Sentinels, rescorer: Rescorer, directory: Path) -> None:
    """Score them from the files in `directory`. EvaluationError where one scores otherwise than in the campaign, Outage
    where a judge does not answer."""
    again = rescored(rescorer, directory, sentinels.blocks)
    different = [item for item, score in sentinels.scores.items() if again.get(item) != score]
    if different:
        item = different[0]
        raise EvaluationError(
            f"{len(different)} of {len(sentinels.scores)} sentinel items score otherwise from the finished files "
            f"({item}: {again.get(item)}, it was {sentinels.scores[item]}): nothing is published. "
            "Does a function of yours sample, or change the model that it measures?",
            items=different,
        )
