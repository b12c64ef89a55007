"""What every scorer promises, how items get their identity, and what an evaluation key is made of.

A *scorer* turns (model, tokenizer, items) into per-item scores and keeps no state about any model:

    items()    the items of each split, in file order
    facts()    all that scores depend on besides weights, items and runtime; JSON-able, the same in every process
    texts()    what the items say
    notes()    what a reader of the verdict should know of the items
    score()    one block: the same block always makes the same batches, whatever was scored before

lm_eval.py scores lm-eval tasks, python.py calls a function of the user's, perplexity.py reads text files,
judge.py asks another model; `Suite` joins scorers, so that one campaign may use all. A block may span tasks. Scores
are finite floats; larger is better.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import chdir
from dataclasses import dataclass, field, replace
from hashlib import sha256
from inspect import getsource
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from engine.errors import CampaignError, EvaluationError
from search.evaluators.entries import EvaluatorEntry, TaskEntry
from search.ports import MOST, SCORE, SPLITS, Item, Measures, Split, can_be_counted

IDENTITY_FIELDS = ("id",)  # they name a row and are no part of its content: the same question under two ids is a leak
ENGINES = ("torch", "transformers", "tokenizers", "lm_eval")  # packages whose version may change a score

SCORE_KEY_CHARS = 32  # 128 bits


@dataclass(frozen=True)
class Subject:
    """What is scored: a live `transformers` model and its tokenizer. Scorers may keep things per Subject object."""

    model: Any
    tokenizer: Any


@dataclass(frozen=True)
class Scored:
    """Scores of a block by item, and what else was measured: measure → item → value."""

    scores: Mapping[str, float]
    measures: Measures = field(default_factory=dict)


@dataclass(frozen=True)
class Places:
    """Where a campaign's tasks look for their items.

    `folder` is the campaign's include_path (files are relative to it, or to the working directory without one), `seed`
    decides how one place is cut in three, `origin` is the campaign file, for messages, `homes` are the folders of its
    modules (none: that of `origin`), `allow_public` lets a search use public test sets.
    """

    folder: str | None = None
    seed: int = 0
    origin: str = "<campaign>"
    allow_public: bool = False
    homes: tuple[str, ...] = ()

    @property
    def modules(self) -> tuple[Path, ...]:
        """The folders where modules of functions are looked for, in order."""
        return tuple(Path(home) for home in self.homes or (Path(self.origin).parent,))

    def path(self, place: str) -> Path:
        """A file that a task names."""
        return Path(self.folder or "") / place

    def where(self, entry: TaskEntry, place: str) -> str:
        """The key of the campaign file that names `place`, for messages."""
        return f"{self.origin}: task {entry.name!r}, {entry.key_of(place)}"


class Unreachable(ConnectionError):
    """What a score needs besides the model did not answer: an outage, and nobody's fault (search/outage.py)."""


class Scorer(Protocol):
    """See the head of this file; tests/search/evaluators/test_contract.py runs one suite over all of them."""

    def items(self) -> Mapping[Split, tuple[Item, ...]]:
        """The items of each split, in file order."""

    def texts(self) -> Mapping[str, str]:
        """What each item says, by key: for the check of contamination, and as prompts of the floor check."""

    def facts(self) -> Mapping[str, Any]:
        """All that scores depend on besides weights, items and runtime."""

    def notes(self) -> Sequence[str]:
        """What a reader of the verdict should know of the items."""

    def score(self, subject: Subject, keys: Sequence[str]) -> Scored:
        """One score per item key; EvaluationError where the model's answers cannot be scored, Unreachable."""


@runtime_checkable
class TellsSettings(Protocol):
    """A scorer that knows which of its settings matter to which item."""

    def settings(self) -> Mapping[str, str]:
        """Item key → digest of all that its score depends on besides weights, its content and runtime."""


@runtime_checkable
class TellsMeasures(Protocol):
    """A scorer that knows what it measures besides scores."""

    def measures(self) -> frozenset[str] | None:
        """Names of the measures that some of its items get; None where only scoring (or a rehearsal) tells."""


@runtime_checkable
class TellsFormerFacts(Protocol):
    """A scorer whose facts were others in earlier versions, for the same scores."""

    def former_facts(self) -> Mapping[str, Any]:
        """What `facts` were then."""


@runtime_checkable
class NeedsRehearsal(Protocol):
    """A scorer that runs code of the user's."""

    def rehearse(self, subject: Subject) -> None:
        """Run it on a few search items. Raises CampaignError for what would fail every candidate."""


@runtime_checkable
class NeedsSomebody(Protocol):
    """A scorer that asks somebody over the network."""

    def probe(self) -> None:
        """Ask once, cheaply. Raises CampaignError where no answer comes."""


class Suite:
    """Several scorers as one. Raises CampaignError if two of them claim one item key."""

    def __init__(
        self, scorers: Sequence[Scorer], *, notes: Sequence[str] = (), beside: Mapping[str, Any] | None = None
    ) -> None:
        self._scorers = tuple(scorers)
        self._notes = tuple(notes)
        self._beside = beside
        parts = [scorer.items() for scorer in self._scorers]
        self._items = {split: tuple(item for part in parts for item in part[split]) for split in SPLITS}
        self._owner: dict[str, Scorer] = {}
        self._task_of = {item.key: item.task for items in self._items.values() for item in items}
        for scorer, part in zip(self._scorers, parts, strict=True):
            for item in (item for split in SPLITS for item in part[split]):
                if item.key in self._owner:
                    raise CampaignError(
                        f"item {item.key!r} occurs twice (task {item.task!r}): give every row an id of its own, and "
                        "every split a task of its own",
                        item=item.key,
                    )
                self._owner[item.key] = scorer

    def with_notes(self, notes: Sequence[str]) -> Suite:
        """The same scorers with these notes besides their own."""
        return Suite(self._scorers, notes=notes, beside=self._beside)

    def with_models(self, beside: Mapping[str, Any]) -> Suite:
        """The same scorers for models that have this beside their weights (beside.py)."""
        return Suite(self._scorers, notes=self._notes, beside=beside)

    def items(self) -> Mapping[Split, tuple[Item, ...]]:
        return self._items

    def texts(self) -> Mapping[str, str]:
        return {key: text for scorer in self._scorers for key, text in scorer.texts().items()}

    def facts(self) -> Mapping[str, Any]:
        facts: dict[str, Any] = {"scorers": [scorer.facts() for scorer in self._scorers]}
        return facts if self._beside is None else facts | {"models": self._beside}

    def former_facts(self) -> Mapping[str, Any]:
        """Earlier versions knew nothing of what lies beside the weights."""
        return {"scorers": [_former_facts(scorer) for scorer in self._scorers]}

    def settings(self) -> Mapping[str, str]:
        found: dict[str, str] = {}
        for scorer in self._scorers:
            rest = digest(scorer.facts())
            found |= {key: rest for key, owner in self._owner.items() if owner is scorer}
            if isinstance(scorer, TellsSettings):
                found |= scorer.settings()
        if self._beside is None:
            return found
        combined = {how: digest([how, self._beside]) for how in {*found.values()}}
        return {key: combined[how] for key, how in found.items()}

    def measures(self) -> frozenset[str] | None:
        parts = [scorer.measures() if isinstance(scorer, TellsMeasures) else None for scorer in self._scorers]
        known = [part for part in parts if part is not None]
        return frozenset().union(*known) if len(known) == len(parts) else None

    @property
    def needs_rehearsal(self) -> bool:
        """Whether any of the scorers does."""
        return any(isinstance(scorer, NeedsRehearsal) for scorer in self._scorers)

    def rehearse(self, subject: Subject) -> None:
        for scorer in self._scorers:
            if isinstance(scorer, NeedsRehearsal):
                scorer.rehearse(subject)

    def probe(self) -> None:
        for scorer in self._scorers:
            if isinstance(scorer, NeedsSomebody):
                scorer.probe()

    def notes(self) -> Sequence[str]:
        return [*self._notes, *(note for scorer in self._scorers for note in scorer.notes())]

    def score(self, subject: Subject, keys: Sequence[str]) -> Scored:
        """Scores of a block. Raises EvaluationError for an unknown item, a missing score, NaN, what is beyond MOST."""
        unknown = [key for key in keys if key not in self._owner]
        if unknown:
            raise EvaluationError(f"item {unknown[0]!r} is in no task of this evaluator", item=unknown[0])
        scores: dict[str, float] = {}
        measures: dict[str, dict[str, float]] = defaultdict(dict)
        for scorer in self._scorers:
            mine = sorted(key for key in keys if self._owner[key] is scorer)
            if not mine:
                continue
            with chdir("."):  # functions in YAMLs of lm-eval are the user's, too
                scored = scorer.score(subject, mine)
            scores |= self._checked(SCORE, scored.scores, mine)
            for name, values in scored.measures.items():
                measures[name] |= self._checked(name, values, sorted(values))
        return Scored(scores, dict(measures))

    def _checked(self, name: str, values: Mapping[str, float], keys: Sequence[str]) -> dict[str, float]:
        for key in keys:
            if can_be_counted(values.get(key, math.nan)):
                continue
            where = f"task {self._task_of.get(key)!r}: item {key!r}"
            if key not in values:
                raise EvaluationError(f"{where}: no {name} came back", item=key)
            raise EvaluationError(f"{where} has {name} {values[key]}: it must be a number within ±{MOST:g}", item=key)
        return {key: float(values[key]) for key in keys}


def row_id(row: Mapping[str, Any], index: int) -> str:
    """The row's own `id` where it has one, else its place in the file."""
    return str(row["id"]) if row.get("id") is not None else str(index)


def content_digest(row: Mapping[str, Any]) -> str:
    """BLAKE3 (hex) of the row as canonical JSON, without its id."""
    return digest({name: value for name, value in row.items() if name not in IDENTITY_FIELDS})


def text_of(row: Any) -> str:
    """All that a row says, in the order of its keys, without its id: strings and numbers, one a line."""
    return "\n".join(_said(row))


def _said(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name in sorted(value, key=str):
            if name not in IDENTITY_FIELDS:
                yield from _said(value[name])
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _said(part)
    elif value is not None:
        yield str(value)


def normalised(text: str) -> str:
    """The text without the differences that make no other question of it: Unicode form, case, white space."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text).casefold()).strip()


def text_digest(text: str) -> str:
    """SHA-256 (hex) of the normalised text: what a list of known texts may hold in their place."""
    return sha256(normalised(text).encode()).hexdigest()


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
    return _evaluation_key(scorer, scorer.facts(), runtime)


def former_key(scorer: Scorer, runtime: Mapping[str, Any]) -> str | None:
    """The key that earlier versions had for the very same; None where it was this one."""
    facts = _former_facts(scorer)
    return None if facts == scorer.facts() else _evaluation_key(scorer, facts, runtime)


def _former_facts(scorer: Scorer) -> Mapping[str, Any]:
    return scorer.former_facts() if isinstance(scorer, TellsFormerFacts) else scorer.facts()


def _evaluation_key(scorer: Scorer, facts: Mapping[str, Any], runtime: Mapping[str, Any]) -> str:
    items = {
        split: [(item.key, item.task, item.content, item.stratum) for item in found]
        for split, found in scorer.items().items()
    }
    return digest({"scorer": facts, "items": items, "runtime": dict(runtime)})


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

    engines = (*ENGINES, "vllm") if entry.engine == "vllm" else ENGINES
    versions = {name: importlib.metadata.version(name) for name in engines}
    device = torch.device(entry.device)
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return {**entry.model_dump(exclude={"floor"}), "versions": versions, "machine": kind}
