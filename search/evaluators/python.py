"""A user's own Python function as a scorer: `metric: package.module:function`, items from JSONL files.

    def score(model, tokenizer, rows: list[dict]) -> list[float] | list[dict[str, float]]

gets the live model, its tokenizer and the rows of one block (each a JSON object), and returns for each row one finite
number, larger is better, or a dict of them: `score`, and measures under names of its own. It must keep no state about
the model: the next call brings other weights in the same object.

The module is looked for on Python's path, then in the folder of the campaign file, and then in those in which the file
lay at earlier starts (search.whereabouts): whoever has the run alone, or a fork of it, finds it too. These folders
stand at the end of the path while the module is imported and while its function runs, and at no other time: none of
their files can take the place of an installed package. Nor does a function move the run whose paths are relative: the
working directory is put back after it.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import json
import numbers
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

from engine.errors import CampaignError, EvaluationError, did_you_mean
from search.evaluators.contract import (
    Places,
    Scored,
    Subject,
    content_digest,
    digest,
    row_id,
    source_of,
    text_digest,
    text_of,
)
from search.evaluators.entries import TaskEntry
from search.evaluators.splitting import items_of
from search.evaluators.user_function import ScoreFunction, call, place_of
from search.judging.forwards import FORWARDS, TOKENS
from search.ports import MOST, SCORE, Item, Split, can_be_counted

REHEARSED = 3
"""Rows of a rehearsal: more than one, so that a function that returns one number for all is found out."""


class PythonScorer:
    """Scores rows of JSONL files with the user's functions.

    Args:
        entries: tasks whose `metric` is `package.module:function`; their places are JSONL files.
        places: where the files and modules are.
        counts_forwards: whether the campaign is about the cost `forwards`, which then has to follow from what functions
            return: without tokens it would be the same for every candidate, whatever that says.

    Raises CampaignError where a function or a file cannot be read.
    """

    def __init__(
        self, entries: Sequence[TaskEntry], places: Places | None = None, *, counts_forwards: bool = False
    ) -> None:
        self._places = places or Places()
        self._counts_forwards = counts_forwards
        self._measures: frozenset[str] | None = None
        self._random: dict[str, str] = {}  # functions that scored otherwise when they were called again
        self._called = {entry.name: entry.metrics[0] for entry in entries}
        self._functions = {entry.name: load_function(entry, self._places) for entry in entries}
        self._rows: dict[str, tuple[str, dict[str, Any]]] = {}
        self._items = items_of(entries, self._read, seed=self._places.seed, origin=self._places.origin)

    def items(self) -> Mapping[Split, tuple[Item, ...]]:
        return self._items

    def texts(self) -> Mapping[str, str]:
        return {key: text_of(row) for key, (_, row) in self._rows.items()}

    def facts(self) -> Mapping[str, Any]:
        """The functions' source text; what they call in turn is not followed."""
        return {"scorer": "python", "functions": {name: source_of(f) for name, f in sorted(self._functions.items())}}

    def settings(self) -> Mapping[str, str]:
        """Per item the digest of its function's source text."""
        by_name = {name: digest(["python", source_of(function)]) for name, function in self._functions.items()}
        return {key: by_name[name] for key, (name, _) in self._rows.items()}

    def measures(self) -> frozenset[str] | None:
        """What the functions returned in the rehearsal, besides scores; None before it."""
        return self._measures

    def rehearse(self, subject: Subject) -> None:
        """Call every function twice, with the first search rows of its task: `notes` tell which scores otherwise then.

        Raises CampaignError where it fails or returns something else than was asked for. What goes wrong later says
        something of one candidate (or of the rows of one block) and fails that.
        """
        found: set[str] = set()
        for name in self._functions:
            keys = [item.key for item in self._items["search"] if item.task == name][:REHEARSED]
            try:
                first, again = self.score(subject, keys), self.score(subject, keys)
            except (EvaluationError, OSError) as error:
                raise self._rehearsal_failed(name, str(error)) from error
            found |= first.measures.keys()
            changed = [key for key in keys if first.scores[key] != again.scores[key]]
            if changed:
                self._random[name] = f"{first.scores[changed[0]]:g}, then {again.scores[changed[0]]:g}"
        self._measures = frozenset(found)

    def _rehearsal_failed(self, name: str, cause: str) -> CampaignError:
        return CampaignError(
            f"{self._places.origin}: task {name!r}, metric: tried on the base with the first rows of its search items: "
            f"{cause.removeprefix(f'task {name!r}: ')}",
            task=name,
        )

    def notes(self) -> Sequence[str]:
        return [
            f"task {name!r}: {self._called[name]} scores the same rows of the same model otherwise when it is called "
            f"again ({what}): results cannot be made again, and publishing, which does so, refuses. Let it sample "
            "nothing (do_sample=False), or set seeds."
            for name, what in self._random.items()
        ]

    def score(self, subject: Subject, keys: Sequence[str]) -> Scored:
        """One call of each function concerned, with its rows of the block in the order of their keys."""
        scores: dict[str, float] = {}
        measures: dict[str, dict[str, float]] = defaultdict(dict)
        for name, function in self._functions.items():
            mine = sorted(key for key in keys if self._rows[key][0] == name)
            if not mine:
                continue
            rows = copy.deepcopy([self._rows[key][1] for key in mine])  # the function may write into them
            called = f"task {name!r}: {self._called[name]}"
            with importable(*self._places.modules):
                returned = call(function, subject, rows, called=called)
            for key, value in zip(mine, returned, strict=True):
                values = _named(value, name)
                wrong = self._wrong(values)
                if wrong is not None:
                    raise EvaluationError(
                        f"{called} returned {wrong[0]} of item {key!r} ({place_of(function)}), {wrong[1]}", item=key
                    )
                scores[key] = values.pop(SCORE)
                for measure, number in values.items():
                    measures[measure][key] = number
        return Scored(scores, dict(measures))

    def _wrong(self, values: Mapping[str, float]) -> tuple[str, str] | None:
        """What is wrong with the numbers of one row, and what is expected."""
        for measure, number in values.items():
            if not can_be_counted(number):
                return f"{number} as {measure}", f"a number within ±{MOST:g} expected"
        if self._counts_forwards and not values.keys() & {FORWARDS, TOKENS}:
            return (
                f"neither {TOKENS!r} nor {FORWARDS!r}",
                f"and the campaign is about the cost {FORWARDS}: a dict with {SCORE!r} and {TOKENS!r} expected (the "
                "generated ones, 0 where a text is only read)",
            )
        return None

    def _read(self, entry: TaskEntry, place: str) -> list[Item]:
        path, where = self._places.path(place), self._places.where(entry, place)
        items = []
        for index, row in enumerate(read_rows(path, where)):
            key = f"{entry.name}/{path.stem}/{row_id(row, index)}"
            if key in self._rows:
                raise CampaignError(
                    f"{where}: {path}: two rows with id {row_id(row, index)!r}: give every row its own", item=key
                )
            self._rows[key] = (entry.name, row)
            stratum = str(row.get("stratum", ""))
            items.append(Item(key, entry.name, content_digest(row), stratum, text=text_digest(text_of(row))))
        return items


def _named(value: Any, task: str) -> dict[str, float]:
    """What a function said of one row, as score and measures. EvaluationError for what is no number."""
    values = dict(value) if isinstance(value, Mapping) else {SCORE: value}
    if SCORE not in values:
        raise EvaluationError(
            f"task {task!r}: its function returned a dict without 'score': {sorted(values)}", task=task
        )
    for name, number in values.items():
        if not (isinstance(number, numbers.Number) or getattr(number, "ndim", None) == 0):
            raise EvaluationError(
                f"task {task!r}: its function returned a {type(number).__name__} for {name!r}, a number expected",
                task=task,
            )
    return {str(name): float(number) for name, number in values.items()}


@contextmanager
def importable(*folders: Path) -> Iterator[None]:
    """Within it Python also finds modules in these folders, after all other places, and code of the user's may go to
    another working directory."""
    places = [str(folder.resolve()) for folder in folders]
    sys.path.extend(places)
    try:
        with chdir("."):
            yield
    finally:
        for place in reversed(places):
            del sys.path[len(sys.path) - 1 - sys.path[::-1].index(place)]  # the last one: ours


def load_function(entry: TaskEntry, places: Places) -> ScoreFunction:
    """The function that `entry.metric` names. Raises CampaignError if it is not there or cannot be called."""
    where, written = f"{places.origin}: task {entry.name!r}, metric", entry.metrics[0]
    module_name, _, name = written.partition(":")
    try:
        with importable(*places.modules):
            module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # a user's code may raise anything
        lost = isinstance(error, ModuleNotFoundError) and error.name == module_name.partition(".")[0]
        told = f"{error}{_where_to_put(module_name, places) if lost else ''}"
        raise CampaignError(f"{where}: cannot import {module_name!r}: {told}", metric=written) from error
    function = getattr(module, name, None)
    if not callable(function):
        known = [known for known, value in vars(module).items() if callable(value) and not known.startswith("_")]
        raise CampaignError(
            f"{where}: {module_name} has no function {name!r}, {did_you_mean(name, known)}", metric=written
        )
    try:
        inspect.signature(function).bind("model", "tokenizer", [])
    except (TypeError, ValueError) as error:  # ValueError: it tells no signature, as some built-in functions do
        if isinstance(error, TypeError):
            raise CampaignError(
                f"{where}: {written} cannot be called with (model, tokenizer, rows): {error}", metric=written
            ) from error
    found: ScoreFunction = function
    return found


def _where_to_put(module_name: str, places: Places) -> str:
    folders = ", ".join(str(folder.resolve()) for folder in places.modules)
    return (
        f" on Python's path and in {folders}. Put {module_name.partition('.')[0]!r} there, or say where it is: "
        "PYTHONPATH=FOLDER before the command."
    )


def read_rows(path: Path, where: str) -> list[dict[str, Any]]:
    """JSON objects, one a line; empty lines are skipped. Raises CampaignError naming file and line."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # not splitlines: JSON may hold U+2028 and its like
    except (OSError, UnicodeDecodeError) as error:
        raise CampaignError(
            f"{where}: cannot read {path}: {getattr(error, 'strerror', None) or error}", path=str(path)
        ) from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = error.object[error.start]
            raise CampaignError(
                f"{where}: {path}, line {number} holds half a surrogate pair, {half!r}, which is no text: cut it out",
                path=str(path),
            ) from error
        except ValueError as error:
            raise CampaignError(f"{where}: {path}, line {number} is not JSON: {error}", path=str(path)) from error
        if not isinstance(row, dict):
            raise CampaignError(
                f"{where}: {path}, line {number} is a {type(row).__name__}, want an object", path=str(path)
            )
        rows.append(row)
    if not rows:
        raise CampaignError(f"{where}: {path} has no rows", path=str(path))
    return rows
