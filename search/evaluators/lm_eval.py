"""lm-eval tasks as a scorer: task requests built once, one batched call per block, per-item scores.

lm-eval's own `evaluate` rebuilds every request on each call and aggregates over a task; this file uses the layer
below it (0.4.13): Task.fewshot_context and construct_requests make the requests of one document, HFLM answers a list
of requests, Task._filters and process_results turn answers into metrics. tests/search/evaluators/test_lm_eval.py
pins those names in a table. `use_cache` is never used: its key ignores the weights, so it would return the previous
candidate's answers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from engine.errors import CampaignError, EvaluationError
from search.evaluators.contract import (
    Places,
    Scored,
    Subject,
    content_digest,
    digest,
    row_id,
    text_digest,
    text_of,
)
from search.evaluators.entries import TaskEntry
from search.evaluators.lm_eval_metrics import find_metrics
from search.evaluators.lm_eval_tasks import (
    LoadedTask,
    documents_of,
    keep_from_examples,
    load_leaves,
    refuse_arguments,
    silence,
    task_manager,
)
from search.evaluators.public_sets import public_entry, public_set
from search.evaluators.splitting import items_of
from search.ports import SPLITS, Item, Measures, Split

REMEMBERED, LONG = 1024, 2000
"""Of how many texts the tokens are remembered, and of how many characters at most."""
TOKENS = "tokens"  # the measure of generating tasks: tokens of the answer, as the candidate's tokenizer counts them


@dataclass(frozen=True)
class Answer:
    """What the model was asked, what it generated, and what the task holds for right."""

    question: str
    answer: str
    reference: str


class LmEvalScorer:
    """Scores lm-eval tasks in this process.

    Args:
        entries: the campaign's tasks; each names lm-eval tasks, groups or tags.
        places: its `folder` has task YAMLs and is searched first; lm-eval's own tasks are indexed (a few seconds) only
            when a name is not found there.
        batch_size: most requests per forward pass; blocks up to that size are one batch.

    Raises CampaignError for unknown tasks or metrics, unreadable data, metrics that exist only for whole tasks, and
    tasks that sample, run code or need images.
    """

    def __init__(self, entries: Sequence[TaskEntry], places: Places | None = None, *, batch_size: int = 60) -> None:
        silence()
        self._batch_size, self._where = batch_size, places or Places()
        self._places: dict[str, tuple[LoadedTask, int]] = {}
        self._loaded: dict[str, LoadedTask] = {}
        self._model: tuple[Subject, Any] | None = None
        self._public: set[tuple[str, str]] = set()
        named = {place for entry in entries for place in entry.places}
        self._manager = task_manager(named, self._where.folder, self._where.origin)
        self._items = items_of(entries, self._load, seed=self._where.seed, origin=self._where.origin)
        self._keep_items_from_examples()

    def items(self) -> Mapping[Split, tuple[Item, ...]]:
        return self._items

    def texts(self) -> Mapping[str, str]:
        return {key: text_of(loaded.documents[index]) for key, (loaded, index) in self._places.items()}

    def facts(self) -> Mapping[str, Any]:
        """Resolved task settings (no paths: another machine has others), metrics, filters, few-shot examples."""
        return {
            "scorer": "lm_eval",
            "tasks": {name: loaded.facts for name, loaded in sorted(self._loaded.items())},
        }

    def settings(self) -> Mapping[str, str]:
        """Per item the digest of its task's facts. Which examples it is shown depends on its place among the task's
        documents, too: the examples are drawn in their order."""
        of_task = {id(loaded): digest(["lm_eval", loaded.facts]) for loaded in self._loaded.values()}
        order = {id(loaded): loaded.order for loaded in self._loaded.values() if loaded.shots}
        return {
            key: digest([of_task[id(loaded)], order[id(loaded)], index]) if loaded.shots else of_task[id(loaded)]
            for key, (loaded, index) in self._places.items()
        }

    def measures(self) -> frozenset[str]:
        """Further metrics of the tasks, and the tokens of generated answers."""
        further = {metric.written for loaded in self._loaded.values() for metric in loaded.metrics[1:]}
        return frozenset(further | ({TOKENS} if any(loaded.generates for loaded in self._loaded.values()) else set()))

    def all_metrics(self) -> frozenset[str]:
        """What `answers` measures: every metric is a measure where another one scores."""
        return frozenset({metric.written for loaded in self._loaded.values() for metric in loaded.metrics} | {TOKENS})

    def notes(self) -> Sequence[str]:
        return [f"{what} used items of the public test set {name}" for what, name in sorted(self._public)]

    def score(self, subject: Subject, keys: Sequence[str]) -> Scored:
        """Answer all requests of the block, batched over tasks, and read each item's metrics."""
        scores: dict[str, float] = {}
        measures: dict[str, dict[str, float]] = defaultdict(dict)
        rows = self._answered(subject, keys)
        for key, loaded, index, requests in rows:
            scores[key], *others = loaded.values(index, requests)
            for metric, value in zip(loaded.metrics[1:], others, strict=True):
                measures[metric.written][key] = value
        measures[TOKENS] |= _tokens(subject, rows)
        return Scored(scores, {name: values for name, values in measures.items() if values})

    def answers(self, subject: Subject, keys: Sequence[str]) -> tuple[dict[str, Answer], Measures]:
        """What the model says to each item of generating tasks, unfiltered, for another one to grade; and measures."""
        found, measures = {}, defaultdict[str, dict[str, float]](dict)
        rows = self._answered(subject, keys)
        measures[TOKENS] |= _tokens(subject, rows)
        for key, loaded, index, requests in rows:
            for metric, value in zip(loaded.metrics, loaded.values(index, requests), strict=True):
                measures[metric.written][key] = metric.sign * value  # as the task reports it
            found[key] = Answer(
                question=str(requests[0].args[0]),
                answer=str(requests[0].resps[0]),
                reference=str(loaded.task.doc_to_target(loaded.documents[index])),
            )
        return found, dict(measures)

    def refuse_silent(self) -> None:
        """CampaignError for a task that generates no answer: there is nothing to grade."""
        for name, loaded in self._loaded.items():
            if not loaded.generates:
                raise CampaignError(
                    f"{self._where.origin}: task {loaded.entry.name!r}: judge: lm-eval task {name!r} generates no "
                    f"answers ({loaded.task.OUTPUT_TYPE})",
                    task=name,
                )

    def refuse_unknown_arguments(self) -> None:
        """CampaignError for an argument of generation that neither transformers nor lm-eval has."""
        for loaded in self._loaded.values():
            if loaded.generates:
                refuse_arguments(loaded.task, loaded.entry, self._where.origin)

    def _answered(self, subject: Subject, keys: Sequence[str]) -> list[tuple[str, LoadedTask, int, list[Any]]]:
        model = self._language_model(subject)
        rows = []
        for key in sorted(keys):  # the order inside a block must not matter either
            loaded, index = self._places[key]
            chat = model.apply_chat_template if loaded.entry.chat_template else None
            rows.append((key, loaded, index, loaded.request_copies(index, chat)))
        _answer(model, [request for *_, requests in rows for request in requests])
        for loaded in {id(loaded): loaded for _, loaded, *_ in rows}.values():
            _filter(loaded, [request for _, owner, _, requests in rows if owner is loaded for request in requests])
        return rows

    def _language_model(self, subject: Subject) -> Any:
        from lm_eval.api.model import LM
        from lm_eval.models.huggingface import HFLM

        if self._model is None or self._model[0] is not subject:
            templated = [loaded for loaded in self._loaded.values() if loaded.entry.chat_template]
            if templated and subject.tokenizer.chat_template is None:
                raise EvaluationError(
                    f"task {templated[0].entry.name!r}: chat_template: the candidates' tokenizer has none"
                )
            for loaded in templated:
                loaded.requests.clear()  # another tokenizer may render another prompt
            model = subject.model  # lm-eval's own already, where vLLM is the engine
            if not isinstance(model, LM):
                model = HFLM(
                    pretrained=subject.model,
                    tokenizer=subject.tokenizer,
                    batch_size=self._batch_size,
                    device=str(subject.model.device),
                )
                model.tok_encode = remembering(model.tok_encode)
            self._model = (subject, model)
        return self._model[1]

    def _load(self, entry: TaskEntry, name: str) -> list[Item]:
        """Load the leaf tasks of one place of one entry, register their items, and return them in file order."""
        where = self._where.where(entry, name)
        items = []
        if name in self._manager.task_index and not self._where.allow_public:  # before the Hub is asked for it
            self._refuse_public(public_entry(self._manager.task_index[name], entry.docs), name, entry, place=name)
        for leaf_name, task in load_leaves(self._manager, name, entry, where).items():
            self._refuse_public(public_set(task, entry.docs), task.config.task, entry, place=name)
            if leaf_name not in self._loaded:
                documents = documents_of(task, entry.docs, where)
                metrics = find_metrics(task, entry, documents[0], where)
                self._loaded[leaf_name] = LoadedTask(task, entry, documents, metrics)
            if self._loaded[leaf_name].entry is not entry:
                raise CampaignError(
                    f"{where}: lm-eval task {leaf_name!r} is named in {self._loaded[leaf_name].entry.name!r}, too",
                    task=leaf_name,
                )
            items += self._register(leaf_name, entry, "" if leaf_name == name else leaf_name)
        return items

    def _refuse_public(self, known: str | None, task: str, entry: TaskEntry, *, place: str) -> None:
        """A search, or a selection, on a public test set needs to be allowed; then the verdict says so."""
        key = entry.key_of(place)
        if known is None or key == "holdout":
            return
        if not self._where.allow_public:
            raise CampaignError(
                f"{self._where.where(entry, place)}: lm-eval task {task!r} is the public test set "
                f"{known}: a merge searched on it has seen the exam. Search on other items (docs: train, where the set "
                "has any), or say allow_public_test_sets: true (--allow-public-test-sets); the verdict will tell.",
                task=task,
            )
        self._public.add((key if key in SPLITS else "the search", known))

    def _register(self, leaf_name: str, entry: TaskEntry, stratum: str) -> list[Item]:
        loaded = self._loaded[leaf_name]
        items = []
        for index, document in enumerate(loaded.documents):
            key = f"{leaf_name}/{row_id(document, index)}"
            if self._places.setdefault(key, (loaded, index)) != (loaded, index):
                raise CampaignError(
                    f"{self._where.origin}: lm-eval task {leaf_name!r} has two rows with id "
                    f"{row_id(document, index)!r}: give every row an id of its own",
                    task=leaf_name,
                )
            items.append(Item(key, entry.name, content_digest(document), stratum, text=text_digest(text_of(document))))
        return items

    def _keep_items_from_examples(self) -> None:
        """Few-shot examples must not show the answers of selection or holdout to a search, nor an item its own.

        A task that is one split's alone may show its own items to each other, as lm-eval does.
        """
        sealed = {item.content: item.key for split in ("selection", "holdout") for item in self._items[split]}
        for name, loaded in self._loaded.items():
            if not loaded.shots:
                continue
            own = {content_digest(document) for document in loaded.documents}
            foreign = set(sealed) if loaded.entry.split is not None else set(sealed) - own
            keep_from_examples(loaded.task, foreign, lambda example: content_digest(dict(example)))
            examples = loaded.task.sampler.df
            # lm-eval leaves the document out where it knows that examples come from the documents' split
            knows = loaded.task.fewshot_cfg.split == loaded.task.config.test_split
            loaded.shuns_itself = not knows and any(content_digest(dict(example)) in own for example in examples)
            if len(examples) <= loaded.shots:
                raise CampaignError(
                    f"{self._where.origin}: task {loaded.entry.name!r}: num_fewshot: lm-eval task {name!r} has "
                    f"{len(examples)} examples that are no selection or holdout items, over {loaded.shots} needed",
                    task=name,
                )


def remembering(encode: Callable[..., list[int]]) -> Callable[..., list[int]]:
    """lm-eval tokenizes every context anew for every candidate, to sort them by length: with a tiny model a twelfth of
    the time. A cohort is asked the same questions. Long ones are not kept: there it is the model that takes long."""
    known = lru_cache(REMEMBERED)(lambda text, *args, **options: tuple(encode(text, *args, **options)))

    def remembered(text: str, *args: Any, **options: Any) -> list[int]:
        asked = encode if len(text) > LONG else known
        return list(asked(text, *args, **options))

    return remembered


def _answer(model: Any, requests: Sequence[Any]) -> None:
    """Send requests to the model, one call per request type, and store each answer in its request's `resps`."""
    for kind in sorted({request.request_type for request in requests}):
        asked = [request for request in requests if request.request_type == kind for _ in range(request.repeats)]
        answers = getattr(model, kind)(asked, disable_tqdm=True)
        for request, answer in zip(asked, answers, strict=True):
            request.resps.append(answer)


def _filter(loaded: LoadedTask, requests: list[Any]) -> None:
    wanted = {metric.filter for metric in loaded.metrics}
    for ensemble in loaded.task._filters:
        if ensemble.name in wanted:
            ensemble.apply(requests)


def _tokens(subject: Subject, rows: Sequence[tuple[str, LoadedTask, int, list[Any]]]) -> dict[str, float]:
    """Tokens of each generated answer, on average where a request is repeated; one call of the tokenizer for all."""
    said = {
        key: [answer for request in requests for answer in request.resps]
        for key, loaded, _, requests in rows
        if loaded.generates
    }
    answers = [answer for texts in said.values() for answer in texts]
    if not answers:
        return {}
    lengths = iter([len(ids) for ids in subject.tokenizer(answers, add_special_tokens=False)["input_ids"]])
    return {key: sum(next(lengths) for _ in texts) / len(texts) for key, texts in said.items()}
