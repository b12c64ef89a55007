"""A user's own Python function as a scorer: `metric: package.module:function`, items from JSONL files.

    def score(model, tokenizer, rows: list[dict]) -> list[float]

gets the live model, its tokenizer and the rows of one block (each a JSON object), and returns one finite number per
row, larger is better. It must keep no state about the model: the next call brings other weights in the same object.
"""

from __future__ import annotations

import copy
import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.errors import CampaignError, EvaluationError, did_you_mean
from search.campaign_file import TaskEntry
from search.evaluators.contract import Subject, content_digest, digest, row_id, source_of
from search.ports import SPLITS, Item, Split

ScoreFunction = Callable[[Any, Any, list[dict[str, Any]]], Sequence[float]]


def is_python(entry: TaskEntry) -> bool:
    """Whether this task is scored by a function of the user's: its metric has a colon, as no lm-eval metric has."""
    return ":" in entry.metric


class PythonScorer:
    """Scores rows of JSONL files with the user's functions.

    Args:
        entries: tasks whose `metric` is `package.module:function`; `search`, `selection` and `holdout` are JSONL files,
            relative to `include_path` (the working directory without one).
        include_path: folder of the JSONL files.
        origin: the campaign file, for messages.

    Raises CampaignError where a function or a file cannot be read.
    """

    def __init__(
        self, entries: Sequence[TaskEntry], *, include_path: str | None = None, origin: str = "<campaign>"
    ) -> None:
        folder = Path(include_path) if include_path is not None else Path()
        self._functions = {entry.name: load_function(entry, origin) for entry in entries}
        self._rows: dict[str, tuple[str, dict[str, Any]]] = {}
        self._items: dict[Split, tuple[Item, ...]] = {
            split: tuple(
                item for entry in entries for item in self._read(entry, folder / entry.task_of(split), origin=origin)
            )
            for split in SPLITS
        }

    def items(self) -> Mapping[Split, tuple[Item, ...]]:
        return self._items

    def facts(self) -> Mapping[str, Any]:
        """The functions' source text; what they call in turn is not followed."""
        return {"scorer": "python", "functions": {name: source_of(f) for name, f in sorted(self._functions.items())}}

    def settings(self) -> Mapping[str, str]:
        """Per item the digest of its function's source text."""
        by_name = {name: digest(["python", source_of(function)]) for name, function in self._functions.items()}
        return {key: by_name[name] for key, (name, _) in self._rows.items()}

    def score(self, subject: Subject, keys: Sequence[str]) -> dict[str, float]:
        """One call of each function concerned, with its rows of the block in the order of their keys."""
        scores: dict[str, float] = {}
        for name, function in self._functions.items():
            mine = sorted(key for key in keys if self._rows[key][0] == name)
            if not mine:
                continue
            rows = copy.deepcopy([self._rows[key][1] for key in mine])  # the function may write into them
            values = list(function(subject.model, subject.tokenizer, rows))
            if len(values) != len(mine):
                raise EvaluationError(
                    f"task {name!r}: its function returned {len(values)} scores for {len(mine)} items", task=name
                )
            scores |= dict(zip(mine, map(float, values), strict=True))
        return scores

    def _read(self, entry: TaskEntry, path: Path, *, origin: str) -> list[Item]:
        items = []
        for index, row in enumerate(read_rows(path, f"{origin}: task {entry.name!r}")):
            key = f"{entry.name}/{path.stem}/{row_id(row, index)}"
            if key in self._rows:
                raise CampaignError(
                    f"{path}: two rows with id {row_id(row, index)!r}: give every row its own", item=key
                )
            self._rows[key] = (entry.name, row)
            items.append(Item(key, entry.name, content_digest(row), str(row.get("stratum", ""))))
        return items


def load_function(entry: TaskEntry, origin: str) -> ScoreFunction:
    """The function that `entry.metric` names. Raises CampaignError if it is not there or cannot be called."""
    where = f"{origin}: task {entry.name!r}, metric"
    module_name, _, name = entry.metric.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise CampaignError(f"{where}: cannot import {module_name!r}: {error}", metric=entry.metric) from error
    function = getattr(module, name, None)
    if not callable(function):
        known = [known for known, value in vars(module).items() if callable(value) and not known.startswith("_")]
        raise CampaignError(
            f"{where}: {module_name} has no function {name!r}, {did_you_mean(name, known)}", metric=entry.metric
        )
    found: ScoreFunction = function
    return found


def read_rows(path: Path, where: str) -> list[dict[str, Any]]:
    """JSON objects, one a line; empty lines are skipped. Raises CampaignError naming file and line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise CampaignError(f"{where}: cannot read {path}: {error.strerror}", path=str(path)) from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise CampaignError(f"{where}: {path}, line {number} is not JSON: {error}", path=str(path)) from error
        if not isinstance(row, dict):
            raise CampaignError(
                f"{where}: {path}, line {number} is a {type(row).__name__}, want an object", path=str(path)
            )
        rows.append(row)
    return rows
