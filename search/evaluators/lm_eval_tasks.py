"""Finding, loading and setting up lm-eval tasks (0.4.13): the index, the data beside the YAML, what is refused, and a
task with its documents and requests."""

from __future__ import annotations

import copy
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from engine.errors import CampaignError, EvaluationError, did_you_mean
from search.evaluators.contract import content_digest, digest
from search.evaluators.entries import TaskEntry
from search.evaluators.lm_eval_metrics import Metric, read_metrics

FEWSHOT_SEED = 1234  # lm-eval's default; examples are drawn in document order, so prompts equal those of its command
GENERATION_KEYS = ("until", "max_gen_toks", "max_tokens", "max_completion_tokens")
"""Arguments of generation that lm-eval translates (`normalize_gen_kwargs` of 0.4.13); the others are transformers'."""
LOCAL_FORMATS = ("json", "csv", "parquet", "text", "arrow")  # dataset_path values whose data_files are files
_PLAIN = frozenset({str, int, float, bool, type(None)})


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


def task_manager(names: set[str], include_path: str | None, origin: str) -> Any:
    """An index of task YAMLs: the campaign's folder, and lm-eval's own 12,000 files only if that does not do."""
    from lm_eval.tasks import TaskManager

    if include_path is not None:
        if not Path(include_path).is_dir():
            raise CampaignError(f"{origin}: include_path: got {include_path!r}, a folder expected.", path=include_path)
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


def load_leaves(manager: Any, name: str, entry: TaskEntry, where: str) -> dict[str, Any]:
    """Leaf tasks of a task, group or tag, by name, with the entry's settings.

    Raises CampaignError for what cannot be loaded or scored.
    """
    from lm_eval.api.task import datasets

    if name not in manager.all_tasks:
        raise CampaignError(
            f"{where}: lm-eval has no task {name!r}, {did_you_mean(name, manager.all_tasks)}", task=name
        )
    try:
        tasks: dict[str, Any] = manager.load([name])["tasks"]
    except (
        OSError,
        datasets.exceptions.DatasetsError,
        ImportError,
        AttributeError,
        LookupError,
        ValueError,
        TypeError,
    ) as error:
        raise CampaignError(f"{where}: lm-eval task {name!r} cannot be loaded: {error}", task=name) from error
    for task in tasks.values():
        task.set_fewshot_seed(FEWSHOT_SEED)
        _apply(entry, task, where)
        _refuse_unfit(task, where)
    return tasks


def _apply(entry: TaskEntry, task: Any, where: str) -> None:
    """Put the entry's few-shot and generation settings over the task's own."""
    if entry.num_fewshot is not None:
        task.set_config("num_fewshot", entry.num_fewshot)
    if entry.gen_kwargs:
        if task.OUTPUT_TYPE != "generate_until":
            raise CampaignError(
                f"{where}: gen_kwargs: lm-eval task {task.config.task!r} generates nothing ({task.OUTPUT_TYPE})",
                task=task.config.task,
            )
        settings = {**(task.config.generation_kwargs or {}), **entry.gen_kwargs}
        task.set_config("generation_kwargs", settings)


def _refuse_unfit(task: Any, where: str) -> None:
    """Tasks whose scores would be random, or that need what a text model in this process must not or cannot do."""
    name, generation = task.config.task, task.config.generation_kwargs or {}
    if generation.get("do_sample") or float(generation.get("temperature") or 0) > 0:
        raise CampaignError(
            f"{where}: lm-eval task {name!r} samples its answers (generation_kwargs {generation}), so its scores would "
            "be random: set gen_kwargs: {do_sample: false, temperature: 0}",
            task=name,
        )
    if getattr(task, "UNSAFE_CODE", False):
        raise CampaignError(f"{where}: lm-eval task {name!r} runs code the model writes; that is not done", task=name)
    if getattr(task, "MULTIMODAL", False):
        raise CampaignError(f"{where}: lm-eval task {name!r} needs images or sound; models here read text", task=name)


def refuse_arguments(task: Any, entry: TaskEntry, origin: str) -> None:
    """CampaignError for an argument of generation that transformers would refuse with the first answer."""
    from transformers import GenerationConfig

    known = {*vars(GenerationConfig()), *GENERATION_KEYS}
    for name in task.config.generation_kwargs or {}:
        if name not in known:
            place = "gen_kwargs" if name in entry.gen_kwargs else f"generation_kwargs of {task.config.task!r}"
            raise CampaignError(
                f"{origin}: task {entry.name!r}, {place}: unknown argument {name!r}; {did_you_mean(name, known)}",
                task=task.config.task,
            )


def documents_of(task: Any, docs: str | None, where: str) -> list[dict[str, Any]]:
    """The documents that are scored: those lm-eval would score, or the task's `test`, `validation` or `train` ones."""
    found = {name: read for name, read in _readers(task).items() if getattr(task, f"has_{read}")()}
    if docs is not None and docs not in found:
        raise CampaignError(
            f"{where}: docs: lm-eval task {task.config.task!r} has no {docs} documents; it has {', '.join(found)}",
            task=task.config.task,
        )
    chosen = task.eval_docs if docs is None else getattr(task, found[docs])()
    documents = _rows(chosen)
    if not documents:
        raise CampaignError(f"{where}: lm-eval task {task.config.task!r} has no documents", task=task.config.task)
    return documents


def _rows(documents: Any) -> list[dict[str, Any]]:
    """A row of a Dataset by itself takes eight times as long as one among all."""
    from lm_eval.api.task import datasets

    if not isinstance(documents, datasets.Dataset):
        return [dict(document) for document in documents]
    columns = documents[:]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _readers(task: Any) -> dict[str, str]:
    return {"test": "test_docs", "validation": "validation_docs", "train": "training_docs"}


def keep_from_examples(task: Any, documents: Collection[str], describe: Any) -> bool:
    """Take documents out of a task's few-shot examples, by what `describe` says of each; whether any was there."""
    kept = [example for example in task.sampler.df if describe(example) not in documents]
    found = len(kept) < len(task.sampler.df)
    if found:
        task.sampler.replace_df(kept)
    return found


@dataclass(eq=False)
class LoadedTask:
    """One lm-eval task with its documents, and the requests built so far (document index → requests).

    `shuns_itself` says that documents are among the few-shot examples, so that none may see its own answer.
    """

    task: Any
    entry: TaskEntry
    documents: list[dict[str, Any]]
    metrics: tuple[Metric, ...]
    requests: dict[int, list[Any]] = field(default_factory=dict)
    shuns_itself: bool = False

    @property
    def name(self) -> str:
        return str(self.task.config.task)

    @property
    def generates(self) -> bool:
        return bool(self.task.OUTPUT_TYPE == "generate_until")

    @property
    def shots(self) -> int:
        return int(self.task.config.num_fewshot or 0)

    @property
    def facts(self) -> dict[str, Any]:
        """All that the scores of its documents depend on, but for the documents."""
        settings = self.task.config.to_dict(keep_callable=True)
        for place in ("dataset_path", "dataset_name", "dataset_kwargs", "metadata"):
            settings.pop(place, None)  # where the items lie; what they say is digested item by item
        return {
            "settings": digest(settings),
            "version": str(self.task.VERSION),
            "metrics": [[metric.name, metric.filter, metric.sign] for metric in self.metrics],
            "prompt": [self.entry.chat_template, self.entry.multiturn, self.entry.system_instruction],
            "examples": digest([dict(example) for example in self.task.sampler.df] if self.shots else []),
        }

    @property
    def order(self) -> str:
        """Digest of what its documents say, one after the other."""
        return digest([content_digest(document) for document in self.documents])

    def request_copies(self, index: int, chat: Any | None) -> list[Any]:
        """Requests of one document, without answers. Few-shot tasks draw their examples in document order, and from the
        seed whenever they draw: another tokenizer gets the same ones."""
        if index not in self.requests:
            if self.shots:
                self.task.set_fewshot_seed(FEWSHOT_SEED)
            for place in range(len(self.documents)) if self.shots else (index,):
                self.requests[place] = self._build(place, chat)
        return [replace(request, resps=[], filtered_resps={}) for request in self.requests[index]]

    def _build(self, index: int, chat: Any | None) -> list[Any]:
        document = self.documents[index]
        examples = self.task.sampler.df if self.shuns_itself else None
        if examples is not None:
            self.task.sampler.replace_df([example for example in examples if dict(example) != document])
        context = self.task.fewshot_context(
            document,
            num_fewshot=self.shots,
            system_instruction=self.entry.system_instruction,
            apply_chat_template=chat is not None,
            fewshot_as_multiturn=chat is not None and self.entry.multiturn,
            chat_template=chat,
            gen_prefix=self.task.doc_to_prefix(document),
        )
        if examples is not None:
            self.task.sampler.replace_df(examples)
        built = self.task.construct_requests(
            doc=document,
            ctx=context,
            metadata=(self.task.config.task, index, self.task.config.repeats),
            apply_chat_template=chat is not None,
            chat_template=chat,
        )
        return built if isinstance(built, list) else [built]

    def values(self, index: int, requests: Sequence[Any]) -> list[float]:
        """Each metric of one document whose requests have been answered."""
        ordered = sorted(requests, key=lambda request: int(request.idx))
        results = {}
        for name in dict.fromkeys(metric.filter for metric in self.metrics):
            answers = [request.filtered_resps[name] for request in ordered]
            results[name] = self.task.process_results(_own_copy(self.documents[index]), answers)
        found = read_metrics(self.metrics, results)
        if isinstance(found, str):
            names = sorted({name for result in results.values() for name in result})
            raise EvaluationError(f"task {self.name!r} returned no {found!r}, only {', '.join(names)}", task=self.name)
        return found


def _own_copy(document: dict[str, Any]) -> dict[str, Any]:
    """A document for a user's process_results, which may write into it: the next candidate must not see that."""
    if _PLAIN.issuperset(map(type, document.values())):  # as most are: nothing in it can be written into
        return dict(document)
    return copy.deepcopy(document)
