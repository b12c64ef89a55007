"""What every scorer promises, how items get their identity, and what an evaluation key is made of.

A *scorer* turns (model, tokenizer, items) into per-item scores and keeps no state about any model:

    items()    the items of each split, in file order
    facts()    all that scores depend on besides weights, items and runtime; JSON-able, the same in every process
    score()    one block: the same block always makes the same batches, whatever was scored before

lm_eval.py scores lm-eval tasks, python.py calls a function of the user's; `Suite` joins scorers, so that one campaign
may use both. A block may span tasks. Scores are finite floats; larger is better.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import getsource
from typing import Any, Protocol, runtime_checkable

from engine.errors import CampaignError, EvaluationError
from search.campaign_file import EvaluatorEntry
from search.ports import SPLITS, Item, Split

IDENTITY_FIELDS = ("id",)  # they name a row and are no part of its content: the same question under two ids is a leak
ENGINES = ("torch", "transformers", "tokenizers", "lm_eval")  # packages whose version may change a score

SCORE_KEY_CHARS = 32  # 128 bits


@dataclass(frozen=True)
class Subject:
    """What is scored: a live `transformers` model and its tokenizer. Scorers may keep things per Subject object."""

    model: Any
    tokenizer: Any


class Scorer(Protocol):
    """See the head of this file; tests/search/evaluators/test_contract.py runs one suite over all of them."""

    def items(self) -> Mapping[Split, tuple[Item, ...]]:
        """The items of each split, in file order."""

    def facts(self) -> Mapping[str, Any]:
        """All that scores depend on besides weights, items and runtime."""

    def score(self, subject: Subject, keys: Sequence[str]) -> dict[str, float]:
        """One score per item key; EvaluationError where the model's answers cannot be scored."""


@runtime_checkable
class TellsSettings(Protocol):
    """A scorer that knows which of its settings matter to which item."""

    def settings(self) -> Mapping[str, str]:
        """Item key → digest of all that its score depends on besides weights, its content and runtime."""


class Suite:
    """Several scorers as one. Raises CampaignError if two of them claim one item key."""

    def __init__(self, scorers: Sequence[Scorer]) -> None:
        self._scorers = tuple(scorers)
        parts = [scorer.items() for scorer in self._scorers]
        self._items = {split: tuple(item for part in parts for item in part[split]) for split in SPLITS}
        self._owner: dict[str, Scorer] = {}
        for scorer, part in zip(self._scorers, parts, strict=True):
            for item in (item for split in SPLITS for item in part[split]):
                if item.key in self._owner:
                    raise CampaignError(
                        f"item {item.key!r} occurs twice (task {item.task!r}): give every row an id of its own, and "
                        "every split a task of its own",
                        item=item.key,
                    )
                self._owner[item.key] = scorer

    def items(self) -> Mapping[Split, tuple[Item, ...]]:
        return self._items

    def facts(self) -> Mapping[str, Any]:
        return {"scorers": [scorer.facts() for scorer in self._scorers]}

    def settings(self) -> Mapping[str, str]:
        found: dict[str, str] = {}
        for scorer in self._scorers:
            rest = digest(scorer.facts())
            found |= {key: rest for key, owner in self._owner.items() if owner is scorer}
            if isinstance(scorer, TellsSettings):
                found |= scorer.settings()
        return found

    def score(self, subject: Subject, keys: Sequence[str]) -> dict[str, float]:
        """Scores of a block. Raises EvaluationError for an unknown item, a missing score, NaN or Inf."""
        unknown = [key for key in keys if key not in self._owner]
        if unknown:
            raise EvaluationError(f"item {unknown[0]!r} is in no task of this evaluator", item=unknown[0])
        scores: dict[str, float] = {}
        for scorer in self._scorers:
            mine = sorted(key for key in keys if self._owner[key] is scorer)
            if mine:
                scores |= _checked(scorer.score(subject, mine), mine)
        return scores


def _checked(scores: Mapping[str, float], keys: Sequence[str]) -> dict[str, float]:
    for key in keys:
        if key not in scores:
            raise EvaluationError(f"no score came back for item {key!r}", item=key)
        if not math.isfinite(scores[key]):
            raise EvaluationError(f"item {key!r} scored {scores[key]}: a score must be a finite number", item=key)
    return {key: float(scores[key]) for key in keys}


def row_id(row: Mapping[str, Any], index: int) -> str:
    """The row's own `id` where it has one, else its place in the file."""
    return str(row["id"]) if row.get("id") is not None else str(index)


def content_digest(row: Mapping[str, Any]) -> str:
    """BLAKE3 (hex) of the row as canonical JSON, without its id."""
    return digest({name: value for name, value in row.items() if name not in IDENTITY_FIELDS})


def digest(value: Any) -> str:
    """BLAKE3 (hex) of canonical JSON: sorted keys, no spaces; functions stand as their source text."""
    from blake3 import blake3

    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_describe)
    return blake3(text.encode()).hexdigest()


def _describe(value: Any) -> str:
    """Text of what JSON cannot hold; never a memory address, which would differ between processes."""
    if not callable(value):
        return str(value)
    return source_of(value)


def source_of(function: Callable[..., Any]) -> str:
    """Source text of a function, or its qualified name where there is none (built-ins, interactive sessions)."""
    try:
        return getsource(function)
    except (TypeError, OSError):
        return f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', type(function).__name__)}"


def evaluation_key(scorer: Scorer, runtime: Mapping[str, Any]) -> str:
    """The key under which scores are stored: what is asked, how, by which versions, on what kind of machine.

    Block composition is no part of it: `batch_size` in `runtime` is, and the caller always sends the same blocks.
    """
    items = {
        split: [(item.key, item.task, item.content, item.stratum) for item in found]
        for split, found in scorer.items().items()
    }
    return digest({"scorer": scorer.facts(), "items": items, "runtime": dict(runtime)})


def keyed_items(scorer: Scorer, runtime: Mapping[str, Any]) -> dict[Split, tuple[Item, ...]]:
    """The scorer's items, each with its `score_key`: campaigns that share an item under equal settings share scores."""
    settings = scorer.settings() if isinstance(scorer, TellsSettings) else {}
    rest = digest(scorer.facts())  # of a scorer that does not tell its items apart, all settings count for each
    how = digest(dict(runtime))

    def keyed(item: Item) -> Item:
        key = digest([settings.get(item.key, rest), item.content, how])
        return replace(item, score_key=key[:SCORE_KEY_CHARS])

    return {split: tuple(keyed(item) for item in found) for split, found in scorer.items().items()}


def runtime_facts(entry: EvaluatorEntry) -> dict[str, Any]:
    """Settings, versions and the CPU's instruction set, which decides how matmul sums, and with it the last bits."""
    import torch

    versions = {name: importlib.metadata.version(name) for name in ENGINES}
    device = torch.device(entry.device)
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return {**entry.model_dump(), "versions": versions, "machine": kind}
