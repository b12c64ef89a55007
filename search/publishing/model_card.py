"""What the card of a published candidate says beside the merge: verdict, proof, licence, and how to make it again.

The front matter follows the Hub's schema (https://github.com/huggingface/hub-docs, modelcard.md): `license`,
`language`, `pipeline_tag`, and `model-index` with the holdout's results. That schema has no place for an interval, so
it stands in the metric's name and, as numbers, in its `args`. Under `mergefleet` is what `mergefleet reproduce` needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.outputs.card import Extras, fenced, table
from engine.outputs.naming import Names
from search.evaluators.entries import TaskEntry
from search.publishing.licences import Licence, merged_licence
from search.publishing.parents import Parent, agreed
from search.publishing.public import public_text
from search.publishing.sentinels import Sentinels
from search.report.tables import (
    Interval,
    Table,
    comparison_table,
    count_text,
    duration_text,
    mean_and_interval,
    signed_text,
    skill_scores,
    skill_table,
)
from search.results import CandidateRow, Results

PIPELINE = "text-generation"  # what every evaluator here loads a model as
_OF_TEXT = {"perplexity": "nats_per_token", "bits_per_byte": "bits_per_byte"}
"""Metric of a text task → what its score is the negative of (perplexity.py)."""


@dataclass(frozen=True)
class Published:
    """A candidate on its way out: what the card has to tell of it.

    why        "winner", or "anyway" (it is not shown to win), or "chosen" (by hand, with --candidate)
    names      what local models are called
    parents    base and sources, as their cards have them
    licence    the user's, where one was given
    sentinels  None where they are not scored again
    reference  how others name it: a directory's name, hub:ORG/NAME, a URL
    """

    results: Results
    row: CandidateRow
    why: str
    names: Names
    parents: Sequence[Parent]
    licence: Licence | None
    sentinels: Sentinels | None
    reference: str

    @property
    def name(self) -> str:
        return self.reference.partition("@")[0].rstrip("/").rpartition("/")[2]


def card_extras(published: Published) -> Extras:
    """Everything of it, for `Options.card`."""
    licence, note = licence_of(published)
    sections = [("Results", _results_text(published)), ("How it was found", _search_text(published))]
    closing = [("Licence", note)] if note else []
    closing += [("Reproduce", _reproduce_text(published))]
    return Extras(
        name=published.name,
        metadata=_metadata(published, licence),
        lead=_lead(published),
        sections=sections,
        closing=closing,
    )


def licence_of(published: Published) -> tuple[Licence, str]:
    """The licence, and what the card says about it."""
    verdict = merged_licence([(parent.name, parent.licence) for parent in published.parents])
    if published.licence is None:
        return verdict.licence, verdict.note
    stated = "; ".join(f"{p.name}: {p.licence.text if p.licence else 'not stated'}" for p in published.parents)
    return published.licence, f"Chosen by the publisher. The parents' licences: {stated}."


def _metadata(published: Published, licence: Licence) -> dict[str, Any]:
    languages = agreed([parent.languages for parent in published.parents])
    pipelines = [parent.card["pipeline_tag"] for parent in published.parents if parent.card.get("pipeline_tag")]
    pipeline = agreed(pipelines) if pipelines else PIPELINE
    data: dict[str, Any] = {"license": licence.id}
    data |= {"license_name": licence.name} if licence.name else {}
    data |= {"license_link": licence.link} if licence.link else {}
    data |= {"language": list(languages)} if languages else {}
    data |= {"pipeline_tag": pipeline} if pipeline else {}
    index = _model_index(published)
    data |= {"model-index": index} if index else {}
    facts = {"recipe_hash": published.row.recipe_hash, "weights": published.row.weights_digest}
    return data | {"mergefleet": facts}


def _model_index(published: Published) -> list[dict[str, Any]]:
    """Holdout results per task and in all; [] where it did not meet all of the holdout."""
    from huggingface_hub.repocard_data import EvalResult, eval_results_to_model_index

    results, number = published.results, published.row.number
    if published.row.holdout_score is None:
        return []
    met = results.item_scores.of_candidate(number).on("holdout").by_task()
    made = []
    for task in results.campaign.tasks:
        if task.name in met:
            kind, mean, ends = _stated(task, *mean_and_interval(met[task.name]))
            made.append(
                EvalResult(
                    task_type=PIPELINE,
                    dataset_type=public_text(task.task_of("holdout")).removeprefix("…/"),
                    dataset_name=task.name,
                    dataset_split="holdout",
                    **_metric(kind, mean, ends, items=len(met[task.name])),
                )
            )
    verdict = results.verdict
    if verdict is not None and verdict.winner == number and verdict.score is not None and verdict.interval is not None:
        name = f"{results.campaign.name}: weighted mean of {len(results.campaign.tasks)} tasks"
        metric = _metric("weighted_mean", verdict.score, verdict.interval, items=verdict.holdout_items)
        made.append(EvalResult(PIPELINE, results.campaign.name, name, dataset_split="holdout", **metric))
    return eval_results_to_model_index(published.name, made) if made else []


def _stated(task: TaskEntry, mean: float, ends: Interval) -> tuple[str, float, Interval]:
    """What a task's score is called where others read it, who take a metric's name at its word, and its value there.

    Scores of text are negative, because less is better. So are those of such metrics of lm-eval; which they are is not
    stored. A judge's grade is no metric of the task."""
    metric = task.metrics[0]
    if task.kind == "text":
        return _OF_TEXT[metric], -mean, (-ends[1], -ends[0])
    if task.kind == "judge":
        return "judge_grade", mean, ends
    return (f"score_by_{metric}" if mean < 0 and task.kind == "lm_eval" else metric), mean, ends


def _metric(kind: str, value: float, interval: tuple[float, float], *, items: int) -> dict[str, Any]:
    low, high = (round(end, 6) for end in interval)
    return {
        "metric_type": kind,
        "metric_value": round(value, 6),
        "metric_name": f"{kind} (95 % interval {low:.3f} to {high:.3f}, {items} items)",
        "metric_args": {"confidence_level": 0.95, "interval": [low, high], "items": items},
    }


def _lead(published: Published) -> str:
    results, row = published.results, published.row
    verdict = results.verdict
    if published.why == "chosen":
        own = verdict is not None and verdict.winner == row.number
        said = f" The campaign's verdict: {verdict.sentence}." if verdict else " The campaign has no verdict yet."
        rest = "" if own else " It is not the campaign's winner, and no test was made for it."
        return f"**Candidate {row.number} ({row.label}), chosen by hand.**{rest}{said}"
    assert verdict is not None
    if published.why == "anyway":
        return f"**No significant winner.** {_capitalised(verdict.sentence)}. It was published all the same."
    lowest = min(comparison.lower for comparison in verdict.comparisons)
    return (
        f"**{_capitalised(verdict.sentence)}** on {verdict.holdout_items} sealed holdout items that nobody searched or "
        f"selected on. The smallest one-sided 95 % lower bound of a difference is {signed_text(lowest)}."
    )


def _capitalised(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def _results_text(published: Published) -> str:
    results, row = published.results, published.row
    verdict, parts = results.verdict, []
    if verdict is not None and verdict.winner == row.number:
        parts += _table_text(comparison_table(results))
    skills = skill_table(results)
    if skills.rows:
        parts += ["### By skill", *_table_text(skills)]
    if row.holdout_score is None:
        scores = {"search (its own window)": row.search_score, "selection": row.selection_score}
        known = [f"{name} {value:.3f}" for name, value in scores.items() if value is not None]
        partly = row.number in skill_scores(results)
        said = "was scored on a part of the holdout only" if partly else "did not meet the holdout"
        parts.append(f"This candidate {said}. Scores: {', '.join(known) or 'none'}.")
    return "\n\n".join(parts)


def _table_text(found: Table) -> list[str]:
    """Nothing of a table without rows: who could not be scored on the holdout is compared with nobody."""
    if not found.rows:
        return [found.note] if found.note else []
    return [table(found.columns, found.rows), *([found.note] if found.note else [])]


def _search_text(published: Published) -> str:
    results = published.results
    spent = ", ".join(f"{count_text(count)} of {split}" for split, count in results.items_spent.items() if count)
    method = ", ".join(sorted({str(row.recipe.get("merge_method")) for row in results.candidates if row.recipe}))
    lines = [
        f"Campaign `{results.campaign.name}` (seed {results.campaign.seed}, sampler {results.campaign.sampler}): "
        f"{len(results.candidates)} candidates ({method}) in {duration_text(results.seconds)}.",
        f"Item evaluations: {spent}.",
        "The weights in this repository are those that were scored, bit for bit: it was merged again from the recipe, "
        "and the digest of all tensors is that of the model that was evaluated.",
    ]
    if published.sentinels is None:
        lines.append("The published files were *not* scored again.")
    else:
        count, split = len(published.sentinels.scores), published.sentinels.split
        lines.append(f"Loaded from these files, {count} sentinel items of {split} scored again exactly what they had.")
    lines += [f"Note: {public_text(note)}." for note in (results.verdict.notes if results.verdict else ())]
    return "\n".join(f"- {line}" for line in lines)


def _reproduce_text(published: Published) -> str:
    named = [f"--sources {name}=PATH" for name in dict.fromkeys(published.names.values())]
    command = " ".join(["mergefleet reproduce", published.reference, *named])
    advice = "merges it again and compares the digest of every tensor."
    local = f" {len(named)} of its models are local: say where they are." if named else ""
    return f"{fenced(command, 'sh')}\n\n{advice[:1].upper()}{advice[1:]}{local}"


def parents_facts(parents: Sequence[Parent]) -> list[Mapping[str, Any]]:
    """For provenance.json."""
    return [{"name": parent.name, "license": parent.licence.text if parent.licence else None} for parent in parents]
