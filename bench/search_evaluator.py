"""An evaluator of the tiny families that is fast enough for millions of item evaluations, and remembers each of them.

    merge   task arithmetic is one weighted sum per tensor, straight into the live parameters; weights are resolved by
            the engine's own code for settings. Every other recipe (TIES, ...) goes through the engine
    score   one forward pass over a tree of prompts (search_forward.py)
    cache   recipe x items -> scores in SQLite, appended to, shared by all runs and algorithms of a family

tests/bench/test_search.py shows that scores are those of the product's evaluator with lm-eval, item for item.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.search_families import Family
from bench.search_forward import FastForward, Tree, make_tree
from engine.models.architecture import Layout
from engine.recipes.keypath import KeyPath
from engine.recipes.settings import evaluate, parse_setting
from search.campaign_file import Campaign
from search.evaluators.contract import content_digest, row_id
from search.evaluators.loading import filled_views, load_from_disk
from search.evaluators.python import read_rows
from search.evaluators.resident import ResidentModel
from search.ports import SPLITS, BlockResult, Inventory, Item, Split, Work

TREES_KEPT = 64
ITEMS_PER_PASS = 100  # fits a core's cache
WRITE_EVERY = 50


class ItemCache:
    """`scores` of a recipe on a set of items, in the order of the sorted items: one byte each, 0 or 1."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(path, timeout=60)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS scores (recipe TEXT, items TEXT, bits BLOB, PRIMARY KEY (recipe, items)) "
            "WITHOUT ROWID"
        )
        self._fresh: dict[tuple[str, str], bytes] = {}

    def get(self, recipe: str, items: str) -> bytes | None:
        if (recipe, items) in self._fresh:
            return self._fresh[recipe, items]
        found = self._connection.execute("SELECT bits FROM scores WHERE recipe = ? AND items = ?", (recipe, items))
        row = found.fetchone()
        return None if row is None else bytes(row[0])

    def put(self, recipe: str, items: str, bits: bytes) -> None:
        self._fresh[recipe, items] = bits
        if len(self._fresh) >= WRITE_EVERY:
            self.write()

    def write(self) -> None:
        """In one short transaction, so that several processes can share the file."""
        rows = [(*key, bits) for key, bits in self._fresh.items()]
        with self._connection:
            self._connection.executemany("INSERT OR IGNORE INTO scores VALUES (?, ?, ?)", rows)
        self._fresh.clear()

    def close(self) -> None:
        self.write()
        self._connection.close()


def recipe_key(recipe: Mapping[str, Any]) -> str:
    """A name of the recipe within its family, wherever that lies; cheaper than the engine's hash over contents."""
    text = re.sub(r'"[^"]*/models/([^"/]+)"', r'"\1"', json.dumps(recipe, sort_keys=True))
    return hashlib.sha256(text.encode()).hexdigest()


class FastEvaluator:
    """search.ports.Evaluator for the campaigns of one family.

    Args:
        family: what is merged and asked.
        campaign: any of the family's; its sources, tasks and dtype are used.
        cache: where scores are remembered.
    """

    def __init__(self, family: Family, campaign: Campaign, *, cache: ItemCache) -> None:
        self.family, self._campaign, self._cache = family, campaign, cache
        self._resident = ResidentModel(campaign.evaluator)
        self._subject = load_from_disk(family.folder / "models" / "base", campaign.evaluator)
        torch.set_num_threads(1)
        self._rows, self._items = _read_items(family)
        self._trees: OrderedDict[tuple[str, ...], tuple[str, list[tuple[tuple[str, ...], Tree]]]] = OrderedDict()
        self._load_sources()
        self.scored = 0

    def _load_sources(self) -> None:
        """Base and task vectors in float32, and which layer each tensor belongs to."""
        from safetensors.torch import load_file

        model = self._subject.model
        names = [self._campaign.base_model, *(source.model for source in self._campaign.sources)]
        base, *sources = (load_file(Path(name) / "model.safetensors") for name in names)
        live = {name: views[0] for name, views in filled_views(model, base).items()}
        layout = Layout.read(base, model.config.to_dict())
        self._tensors = []
        for name, value in base.items():
            start = value.float()
            layer = layout.locate(name)[1]
            depth = 0.0 if layer is None else layer / max(1, layout.layers - 1)
            self._tensors.append((name, depth, start, [source[name].float() - start for source in sources], live[name]))
        self._forward = FastForward(model, live)

    # ------------------------------------------------------------------------------------------ search.ports.Evaluator

    def inventory(self) -> Inventory:
        return Inventory(f"fast/{self.family.name}", self._items)

    def evaluate(self, work: Work) -> BlockResult:
        key = recipe_key(work.recipe)
        return BlockResult(work.lease, work.recipe_hash, key, self.scores(work.recipe, work.items, key=key))

    def close(self) -> None:
        self._resident.close()
        self._cache.close()

    # ----------------------------------------------------------------------------------------------------------- scores

    def scores(self, recipe: Mapping[str, Any], items: Sequence[str], *, key: str | None = None) -> dict[str, float]:
        """Item -> 1.0 or 0.0."""
        key = key or recipe_key(recipe)
        order = tuple(sorted(items))
        digest, trees = self._trees_of(order)
        bits = self._cache.get(key, digest)
        if bits is None:
            self.merge(recipe)
            right: dict[str, bool] = {}
            for part, tree in trees:
                right |= dict(zip(part, self._forward.exact(tree), strict=True))
            bits = bytes(right[item] for item in order)
            self._cache.put(key, digest, bits)
            self.scored += len(order)
        return dict(zip(order, map(float, bits), strict=True))

    def mean(self, recipe: Mapping[str, Any], items: Sequence[str]) -> float:
        """Share of right answers; every skill must have equally many of `items`, so that it is the campaign's score."""
        return sum(self.scores(recipe, items).values()) / len(items)

    def items(self, split: Split, per_skill: int) -> tuple[str, ...]:
        """The first items of every skill, as they stand in the files."""
        wanted: dict[str, int] = dict.fromkeys(self.family.skills, per_skill)
        found = []
        for item in self._items[split]:
            wanted[item.task] -= 1
            if wanted[item.task] >= 0:
                found.append(item.key)
        return tuple(found)

    def merge(self, recipe: Mapping[str, Any]) -> None:
        """Bring a recipe into the live model."""
        normalize = dict(recipe.get("parameters") or {}).get("normalize")
        if recipe["merge_method"] != "task_arithmetic" or normalize:
            self._resident.load(recipe)
            merged = filled_views(self._resident.subject.model, [name for name, *_ in self._tensors])
            for name, *_, live in self._tensors:
                live.copy_(merged[name][0])
            return
        place = KeyPath("<recipe>")
        settings = [parse_setting(model["parameters"]["weight"], where=place) for model in recipe["models"]]
        for name, depth, base, deltas, live in self._tensors:
            merged = base.clone()
            for setting, delta in zip(settings, deltas, strict=True):
                merged.add_(delta, alpha=float(evaluate(setting, name, depth) or 0.0))
            live.copy_(merged)

    def _trees_of(self, order: tuple[str, ...]) -> tuple[str, list[tuple[tuple[str, ...], Tree]]]:
        if order not in self._trees:
            by_text = sorted(order, key=lambda item: self._rows[item])
            parts = [tuple(by_text[start : start + ITEMS_PER_PASS]) for start in range(0, len(by_text), ITEMS_PER_PASS)]
            trees = [(part, make_tree([self._tokens(item) for item in part])) for part in parts]
            self._trees[order] = (hashlib.sha256("\n".join(order).encode()).hexdigest(), trees)
            if len(self._trees) > TREES_KEPT:
                self._trees.popitem(last=False)
        return self._trees[order]

    def _tokens(self, item: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        tokenizer = self._subject.tokenizer
        question, answer = self._rows[item]
        prompt = tokenizer(question + "=")["input_ids"]
        return tuple(prompt), (*tokenizer(answer)["input_ids"], tokenizer.eos_token_id)


def _read_items(family: Family) -> tuple[dict[str, tuple[str, str]], dict[Split, tuple[Item, ...]]]:
    """Question and answer by item, and the inventory's items under the keys that the lm-eval scorer gives them."""
    texts: dict[str, tuple[str, str]] = {}
    items: dict[Split, tuple[Item, ...]] = {}
    for split in SPLITS:
        found = []
        for skill in family.skills:
            path = family.folder / "tasks" / f"{skill}-{split}.jsonl"
            for index, row in enumerate(read_rows(path, family.name)):
                key = f"demo_{skill}_{split}/{row_id(row, index)}"
                texts[key] = row["question"], row["answer"]
                found.append(Item(key, skill, content_digest(row)))
        items[split] = tuple(found)
    return texts, items
