"""lm-eval tasks as a scorer: task requests built once, one batched call per block, per-item scores.

lm-eval's own `evaluate` rebuilds every request on each call and aggregates over a task; this file uses the layer
below it (0.4.13): Task.fewshot_context and construct_requests make the requests of one document, HFLM answers a list
of requests, Task._filters and process_results turn answers into metrics. tests/search/evaluators/test_lm_eval.py
pins those names. `use_cache` is never used: its key ignores the weights, so it would return the previous candidate's
answers.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from engine.errors import CampaignError, EvaluationError, did_you_mean
from search.campaign_file import TaskEntry
from search.evaluators.contract import Subject, content_digest, digest, row_id
from search.ports import SPLITS, Item, Split

FEWSHOT_SEED = 1234  # lm-eval's default; examples are drawn in document order, so prompts equal those of its command
LOCAL_FORMATS = ("json", "csv", "parquet", "text", "arrow")  # dataset_path values whose data_files are files


@dataclass(frozen=True)
class _Metric:
    """A metric and the answer filter it is read under; `exact_match,strict-match` in a campaign names both."""

    name: str
    filter: str


@dataclass(eq=False)
class _LoadedTask:
    """One lm-eval task with its documents, and the requests built so far (document index → requests)."""

    task: Any
    documents: list[dict[str, Any]]
    metric: _Metric
    requests: dict[int, list[Any]] = field(default_factory=dict)

    def request_copies(self, index: int, chat: Any | None) -> list[Any]:
        """Requests of one document, without answers. Few-shot tasks draw their examples in document order."""
        if index not in self.requests:
            shots = self.task.config.num_fewshot or 0
            for place in range(len(self.documents)) if shots else (index,):
                self.requests[place] = self._build(place, chat)
        return [replace(request, resps=[], filtered_resps={}) for request in self.requests[index]]

    def _build(self, index: int, chat: Any | None) -> list[Any]:
        document = self.documents[index]
        context = self.task.fewshot_context(
            document,
            num_fewshot=self.task.config.num_fewshot or 0,
            system_instruction=None,
            apply_chat_template=chat is not None,
            fewshot_as_multiturn=chat is not None,
            chat_template=chat,
            gen_prefix=self.task.doc_to_prefix(document),
        )
        built = self.task.construct_requests(
            doc=document,
            ctx=context,
            metadata=(self.task.config.task, index, self.task.config.repeats),
            apply_chat_template=chat is not None,
            chat_template=chat,
        )
        return built if isinstance(built, list) else [built]

    def value(self, index: int, requests: Sequence[Any]) -> float:
        """The metric of one document whose requests have been answered and filtered."""
        ordered = sorted(requests, key=lambda request: int(request.idx))
        answers = [request.filtered_resps[self.metric.filter] for request in ordered]
        # a copy, because a user's process_results may write into its document, and the next candidate would see it
        metrics = self.task.process_results(copy.deepcopy(self.documents[index]), answers)
        if self.metric.name not in metrics:
            raise EvaluationError(
                f"task {self.task.config.task!r} returned no {self.metric.name!r}, only {', '.join(sorted(metrics))}",
                task=self.task.config.task,
            )
        return float(metrics[self.metric.name])


class LmEvalScorer:
    """Scores lm-eval tasks in this process.

    Args:
        entries: the campaign's tasks; each names an lm-eval task, group or tag for every split.
        include_path: folder with task YAMLs, searched first; lm-eval's own tasks are indexed (a few seconds) only
            when a name is not found there.
        batch_size: most requests per forward pass; blocks up to that size are one batch.
        chat_template: render prompts with the tokenizer's chat template.
        origin: the campaign file, for messages.

    Raises CampaignError for unknown tasks or metrics, unreadable data, metrics that exist only for whole tasks, and
    tasks that sample, run code or need images.
    """

    def __init__(
        self,
        entries: Sequence[TaskEntry],
        *,
        include_path: str | None = None,
        batch_size: int = 60,
        chat_template: bool = False,
        origin: str = "<campaign>",
    ) -> None:
        silence()
        self._batch_size, self._chat_template, self._origin = batch_size, chat_template, origin
        self._places: dict[str, tuple[_LoadedTask, int]] = {}
        self._loaded: dict[str, _LoadedTask] = {}
        self._model: tuple[Subject, Any] | None = None
        manager = _task_manager({entry.task_of(split) for entry in entries for split in SPLITS}, include_path)
        self._items: dict[Split, tuple[Item, ...]] = {
            split: tuple(item for entry in entries for item in self._load(manager, entry, split)) for split in SPLITS
        }

    def items(self) -> Mapping[Split, tuple[Item, ...]]:
        return self._items

    def facts(self) -> Mapping[str, Any]:
        """Resolved task settings (no paths: another machine has others), metric, filter, few-shot examples."""
        return {
            "scorer": "lm_eval",
            "chat_template": self._chat_template,
            "tasks": {name: _task_facts(loaded) for name, loaded in sorted(self._loaded.items())},
        }

    def settings(self) -> Mapping[str, str]:
        """Per item the digest of its task's facts."""
        by_task = {
            name: digest(["lm_eval", self._chat_template, _task_facts(loaded)]) for name, loaded in self._loaded.items()
        }
        name_of = {id(loaded): name for name, loaded in self._loaded.items()}
        return {key: by_task[name_of[id(loaded)]] for key, (loaded, _) in self._places.items()}

    def score(self, subject: Subject, keys: Sequence[str]) -> dict[str, float]:
        """Answer all requests of the block, batched over tasks, and read each item's metric."""
        model = self._language_model(subject)
        chat = model.apply_chat_template if self._chat_template else None
        rows = []
        for key in sorted(keys):  # the order inside a block must not matter either
            loaded, index = self._places[key]
            rows.append((key, loaded, index, loaded.request_copies(index, chat)))
        _answer(model, [request for *_, requests in rows for request in requests])
        for loaded in {id(loaded): loaded for _, loaded, *_ in rows}.values():
            _filter(loaded, [request for _, owner, _, requests in rows if owner is loaded for request in requests])
        return {key: loaded.value(index, requests) for key, loaded, index, requests in rows}

    def _language_model(self, subject: Subject) -> Any:
        from lm_eval.models.huggingface import HFLM

        if self._model is None or self._model[0] is not subject:
            if self._model is not None and self._chat_template:
                for loaded in self._loaded.values():
                    loaded.requests.clear()  # another tokenizer may render another prompt
            model = HFLM(
                pretrained=subject.model,
                tokenizer=subject.tokenizer,
                batch_size=self._batch_size,
                device=str(subject.model.device),
            )
            self._model = (subject, model)
        return self._model[1]

    def _load(self, manager: Any, entry: TaskEntry, split: Split) -> Iterator[Item]:
        """Load the leaf tasks of one split of one entry, register their items, and yield them in file order."""
        name, where = entry.task_of(split), f"{self._origin}: task {entry.name!r}, {split}"
        if name not in manager.all_tasks:
            raise CampaignError(
                f"{where}: lm-eval has no task {name!r}, {did_you_mean(name, manager.all_tasks)}", task=name
            )
        for leaf_name, task in _load_tasks(manager, name, where).items():
            if leaf_name not in self._loaded:
                _refuse_unfit(task, where)
                documents = [dict(document) for document in task.eval_docs]
                self._loaded[leaf_name] = _LoadedTask(task, documents, _metric(task, entry.metric, where))
            yield from self._register(leaf_name, entry, "" if leaf_name == name else leaf_name)

    def _register(self, leaf_name: str, entry: TaskEntry, stratum: str) -> Iterator[Item]:
        loaded = self._loaded[leaf_name]
        for index, document in enumerate(loaded.documents):
            key = f"{leaf_name}/{row_id(document, index)}"
            if self._places.setdefault(key, (loaded, index)) != (loaded, index):
                raise CampaignError(
                    f"{self._origin}: lm-eval task {leaf_name!r} has two rows with id {row_id(document, index)!r}: "
                    "give every row an id of its own",
                    task=leaf_name,
                )
            yield Item(key, entry.name, content_digest(document), stratum)


def silence() -> None:
    """Send what lm-eval, datasets and transformers print to their loggers, which reach handlers only if there are any.

    lm-eval warns on every live model handed to it; progress bars of single blocks would bury the campaign's own.
    """
    from lm_eval.api.task import datasets  # a dependency of lm-eval's, not of ours
    from transformers.utils import logging as transformers_logging

    datasets.disable_progress_bars()
    transformers_logging.disable_progress_bar()
    transformers_logging.disable_default_handler()
    for name in ("lm_eval", "datasets", "transformers"):
        library = logging.getLogger(name)
        if not any(isinstance(handler, logging.NullHandler) for handler in library.handlers):
            library.addHandler(logging.NullHandler())  # keeps Python's handler of last resort (stderr) out


def _task_manager(names: set[str], include_path: str | None) -> Any:
    """An index of task YAMLs: the campaign's folder, and lm-eval's own 12,000 files only if that does not do."""
    from lm_eval.tasks import TaskManager

    if include_path is not None:
        if not Path(include_path).is_dir():
            raise CampaignError(f"include_path: {include_path} is not a folder", path=include_path)
        manager = TaskManager(include_path=include_path, include_defaults=False)
        _anchor_data_files(manager.task_index)
        if names <= set(manager.all_tasks):
            return manager
    manager = TaskManager(include_path=include_path, include_defaults=True)
    _anchor_data_files(manager.task_index)
    return manager


def _anchor_data_files(index: Mapping[str, Any]) -> None:
    """Make relative `data_files` mean "beside the YAML": lm-eval resolves them against the working directory."""
    from lm_eval.tasks._yaml_loader import load_yaml

    for entry in index.values():
        files = ((entry.cfg or {}).get("dataset_kwargs") or {}).get("data_files")
        if files is None or entry.yaml_path is None or entry.cfg.get("dataset_path") not in LOCAL_FORMATS:
            continue
        try:
            settings = load_yaml(entry.yaml_path)
        except (ImportError, AttributeError):
            continue  # a function the YAML names is missing: lm-eval says so if this task is asked for
        folder = Path(entry.yaml_path).parent.resolve()
        settings["dataset_kwargs"] = {**settings["dataset_kwargs"], "data_files": _anchored(files, folder)}
        entry.cfg, entry.yaml_path = settings, None


def _anchored(files: Any, folder: Path) -> Any:
    if isinstance(files, Mapping):
        return {split: _anchored(file, folder) for split, file in files.items()}
    if isinstance(files, list):
        return [_anchored(file, folder) for file in files]
    return str(files) if "://" in str(files) else str(folder / str(files))


def _load_tasks(manager: Any, name: str, where: str) -> dict[str, Any]:
    """Leaf tasks of a task, group or tag, by name, with seeded few-shot examples."""
    from lm_eval.api.task import datasets

    try:
        tasks: dict[str, Any] = manager.load([name])["tasks"]
    except (
        OSError,
        datasets.exceptions.DatasetsError,
        ImportError,
        AttributeError,
        KeyError,
        ValueError,
        TypeError,
    ) as error:
        raise CampaignError(f"{where}: lm-eval task {name!r} cannot be loaded: {error}", task=name) from error
    for task in tasks.values():
        task.set_fewshot_seed(FEWSHOT_SEED)
    return tasks


def _refuse_unfit(task: Any, where: str) -> None:
    """Tasks whose scores would be random, or that need what a text model in this process must not or cannot do."""
    name, generation = task.config.task, task.config.generation_kwargs or {}
    if generation.get("do_sample") or float(generation.get("temperature") or 0) > 0:
        raise CampaignError(
            f"{where}: lm-eval task {name!r} samples its answers (generation_kwargs {generation}), so its scores would "
            "be random: set do_sample: false and temperature: 0",
            task=name,
        )
    if getattr(task, "UNSAFE_CODE", False):
        raise CampaignError(f"{where}: lm-eval task {name!r} runs code the model writes; that is not done", task=name)
    if getattr(task, "MULTIMODAL", False):
        raise CampaignError(f"{where}: lm-eval task {name!r} needs images or sound; models here read text", task=name)


def _metric(task: Any, wanted: str, where: str) -> _Metric:
    """The campaign's `metric` or `metric,filter` in this task, if it exists for single items and larger is better."""
    from lm_eval.api.metrics import mean

    name, _, chosen = (part.strip() for part in wanted.partition(","))
    filters = [ensemble.name for ensemble in task._filters]
    if name not in task.aggregation():
        raise CampaignError(
            f"{where}: lm-eval task {task.config.task!r} has no metric {name!r}, "
            f"{did_you_mean(name, task.aggregation())}",
            metric=name,
        )
    if task.aggregation()[name] is not mean:
        raise CampaignError(
            f"{where}: metric {name!r} of lm-eval task {task.config.task!r} exists only for a whole task, and "
            "items are scored one by one: name a metric whose aggregation is `mean`",
            metric=name,
        )
    if task.higher_is_better().get(name) is False:
        raise CampaignError(
            f"{where}: of metric {name!r} of lm-eval task {task.config.task!r} less is better: name one "
            "of which more is",
            metric=name,
        )
    if chosen not in filters and (chosen or len(filters) > 1):
        choices = [f"{name},{known}" for known in filters]
        raise CampaignError(
            f"{where}: lm-eval task {task.config.task!r} filters its answers in {len(filters)} ways, so the metric is "
            f"one of {', '.join(choices)}; got {wanted!r}",
            metric=wanted,
        )
    return _Metric(name, chosen or filters[0])


def _task_facts(loaded: _LoadedTask) -> dict[str, Any]:
    settings = loaded.task.config.to_dict(keep_callable=True)
    for place in ("dataset_path", "dataset_name", "dataset_kwargs", "metadata"):
        settings.pop(place, None)  # where the items lie; what they say is digested item by item
    shots = loaded.task.config.num_fewshot or 0
    examples = [dict(example) for example in loaded.task.sampler.df] if shots else []
    return {
        "settings": digest(settings),
        "version": str(loaded.task.VERSION),
        "metric": [loaded.metric.name, loaded.metric.filter],
        "examples": digest(examples),
    }


def _answer(model: Any, requests: Sequence[Any]) -> None:
    """Send requests to the model, one call per request type, and store each answer in its request's `resps`."""
    for kind in sorted({request.request_type for request in requests}):
        asked = [request for request in requests if request.request_type == kind for _ in range(request.repeats)]
        answers = getattr(model, kind)(asked, disable_tqdm=True)
        for request, answer in zip(asked, answers, strict=True):
            request.resps.append(answer)


def _filter(loaded: _LoadedTask, requests: list[Any]) -> None:
    for ensemble in loaded.task._filters:
        if ensemble.name == loaded.metric.filter:
            ensemble.apply(requests)
