"""What an lm-eval task reports of one document, and how that becomes a score and measures (larger score is better).

Most metrics are a number for each document. Some are a pair that lm-eval only joins over the whole task; those in
`_OF_ONE` and `_SENTENCE` have a meaning for one document, too, and the others (F1, Matthews correlation …) are
refused. A metric of which less is better counts negatively in the score; as a measure it stands as it is.
"""

from __future__ import annotations

import copy
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from engine.errors import CampaignError, did_you_mean
from search.evaluators.entries import TaskEntry

# What a user's process_results may raise on an answer it did not expect; it says nothing about the campaign.
_ODD_ANSWER = (ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, OSError, RuntimeError)
_ODD_ANSWERS = (*_ODD_ANSWER, TypeError, ValueError)
_DRY_ANSWERS: Mapping[str, Any] = {"generate_until": "", "loglikelihood": (-1.0, False), "loglikelihood_rolling": -1.0}


@dataclass(frozen=True)
class Metric:
    """A metric as the campaign writes it, the answer filter it is read under, and how to read it.

    `sign` is -1 where less is better.
    """

    written: str
    name: str
    filter: str
    read: Callable[[Any], float]
    sign: float


def _negative_loglikelihood(value: Any) -> float:
    return -float(value)


def _per_unit(pair: Any) -> float:
    """Nats per word or byte of one document, from (log-likelihood, words or bytes)."""
    loglikelihood, count = pair
    return -float(loglikelihood) / max(1, int(count))


def _bits(pair: Any) -> float:
    return _per_unit(pair) / math.log(2)


def _brier(pair: Any) -> float:
    gold, probabilities = pair
    return float(sum((float(p) - (place == int(gold))) ** 2 for place, p in enumerate(probabilities)))


def _of_sentence(aggregate: Callable[[Any], float], pair: Any) -> float:
    """What lm-eval's aggregation says of one (reference, answer)."""
    return float(aggregate([pair]))


_OF_ONE: Mapping[str, Callable[[Any], float]] = {  # by the name of lm-eval's aggregation (lm_eval/api/metrics.py)
    "perplexity": _negative_loglikelihood,
    "weighted_perplexity": _per_unit,
    "bits_per_byte": _bits,
    "brier_score": _brier,
}


_SENTENCE = frozenset({"bleu", "chrf", "chrfpp", "ter"})
"""Aggregations of translations (sacrebleu's, of a corpus): of one document they are those of a sentence."""


def find_metrics(task: Any, entry: TaskEntry, document: dict[str, Any], where: str) -> tuple[Metric, ...]:
    """The entry's metrics in this task. CampaignError for one that it does not report or that no single item has.

    The task is asked what it reports: it is given an empty answer to its first document. Where it cannot take that,
    its list of metrics has to do.
    """
    reported = _dry_results(task, document)
    return tuple(_find(task, written, entry, reported=reported, where=where) for written in entry.metrics)


def _find(task: Any, written: str, entry: TaskEntry, *, reported: Mapping[str, Any] | None, where: str) -> Metric:
    name, _, chosen = (part.strip() for part in written.partition(","))
    task_name, known = task.config.task, task.aggregation() if reported is None else reported
    if name not in known:
        raise CampaignError(
            f"{where}: lm-eval task {task_name!r} has no metric {name!r}, {did_you_mean(name, known)} "
            f"It reports {', '.join(sorted(known))}.",
            metric=name,
        )
    aggregation = getattr(task.aggregation().get(name), "__name__", "mean")
    read = _OF_ONE.get(aggregation, float)
    if aggregation in _SENTENCE:
        read = partial(_of_sentence, task.aggregation()[name])
    elif aggregation not in _OF_ONE and reported is not None and not _is_number(reported[name]):
        fit = sorted(other for other, value in reported.items() if _is_number(value))
        raise CampaignError(
            f"{where}: metric {name!r} of lm-eval task {task_name!r} exists only for a whole task, and items are "
            f"scored one by one: name one of {', '.join(fit) or 'another task'}",
            metric=name,
        )
    return Metric(
        written, name, _filter_of(task, written, chosen, where), read, _sign(task, name, written, entry, where)
    )


def _sign(task: Any, name: str, written: str, entry: TaskEntry, where: str) -> float:
    if written != entry.metrics[0]:
        return 1.0  # a measure, which stands as it is
    larger: bool | None = task.higher_is_better().get(name)
    if entry.direction is not None:
        larger = entry.direction == "maximize"
    if larger is None:
        raise CampaignError(
            f"{where}: lm-eval task {task.config.task!r} does not say whether more of {name!r} is better: "
            "say direction: maximize or minimize",
            metric=name,
        )
    return 1.0 if larger else -1.0


def _filter_of(task: Any, written: str, chosen: str, where: str) -> str:
    filters: list[str] = [ensemble.name for ensemble in task._filters]
    if chosen not in filters and (chosen or len(filters) > 1):
        name = written.partition(",")[0].strip()
        choices = [f"{name},{known}" for known in filters]
        raise CampaignError(
            f"{where}: lm-eval task {task.config.task!r} filters its answers in {len(filters)} ways, so the metric is "
            f"one of {', '.join(choices)}; got {written!r}",
            metric=written,
        )
    return chosen or filters[0]


def _dry_results(task: Any, document: dict[str, Any]) -> Mapping[str, Any] | None:
    """What the task reports of an empty answer; None where it cannot say."""
    try:
        context = task.fewshot_context(document, num_fewshot=0, gen_prefix=task.doc_to_prefix(document))
        built = task.construct_requests(doc=document, ctx=context, metadata=(task.config.task, 0, 1))
        requests = built if isinstance(built, list) else [built]
        for request in requests:
            request.resps = [_DRY_ANSWERS[request.request_type]]
        for ensemble in task._filters:
            ensemble.apply(requests)
        answers = [request.filtered_resps[task._filters[0].name] for request in requests]
        results: Mapping[str, Any] = task.process_results(copy.deepcopy(document), answers)
    except _ODD_ANSWERS:
        return None
    return results


def _is_number(value: Any) -> bool:
    """Whether a value is one number: Python's, numpy's, or a truth value."""
    return isinstance(value, numbers.Number | bool) or (hasattr(value, "dtype") and getattr(value, "ndim", None) == 0)


def read_metrics(metrics: Sequence[Metric], results: Mapping[str, Mapping[str, Any]]) -> list[float] | str:
    """The value of each metric from the results under each filter; the name of one that is missing."""
    values = []
    for metric in metrics:
        if metric.name not in results[metric.filter]:
            return metric.name
        values.append(metric.sign * metric.read(results[metric.filter][metric.name]))
    return values
