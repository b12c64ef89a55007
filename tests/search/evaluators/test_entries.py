"""What a campaign may say of a task: where its items are, and how they are scored."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from search.evaluators.entries import SplitEntry, TaskEntry

CUT = {"search": 0.6, "selection": 0.15, "holdout": 0.25}
THREE = {"search": "a", "selection": "b", "holdout": "c"}
JUDGE = {"base_url": "http://localhost/v1", "model": "some", "prompt": "{answer}"}


@pytest.mark.parametrize(
    ("keys", "kind", "metrics"),
    [
        (THREE, "lm_eval", ("exact_match",)),
        ({"task": "gsm8k_train", "split": CUT, "metric": ["acc", "acc_norm"]}, "lm_eval", ("acc", "acc_norm")),
        ({"task": "rows.jsonl", "split": CUT, "metric": "scores:f"}, "python", ("scores:f",)),
        ({"text": "*.md", "split": CUT}, "text", ("perplexity",)),
        ({split: f"{split}.txt" for split in CUT} | {"metric": "bits_per_byte"}, "text", ("bits_per_byte",)),
    ],
)
def test_the_kind_of_a_task_follows_from_what_it_says(keys: dict[str, Any], kind: str, metrics: tuple[str]) -> None:
    entry = TaskEntry(name="t", **keys)
    assert (entry.kind, entry.metrics) == (kind, metrics)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({}, "got none"),
        ({"search": "a"}, "got search"),
        (THREE | {"task": "d"}, "got search, selection, holdout, task"),
        ({"task": "d"}, "task: one place needs `split`"),
        (THREE | {"split": CUT}, "split: cuts one place"),
        (THREE | {"holdout": "a"}, "holdout is the same task as search"),
        ({"task": "d", "split": CUT | {"search": 0.7}}, "sum to 1.1"),
        ({"task": "d", "split": CUT | {"search": 100}}, "three fractions below 1 or three whole counts"),
        (THREE | {"metric": []}, "want one metric"),
        (THREE | {"metric": ["acc", "acc"]}, "list of different ones"),
        (THREE | {"chunk": 100}, "chunk: means nothing to a task scored by lm-eval"),
        (THREE | {"metric": "m:f", "num_fewshot": 2}, "num_fewshot: means nothing to a task scored by a Python"),
        (THREE | {"metric": "m:f", "judge": JUDGE}, "judge: means nothing to a task scored by a Python"),
        (
            THREE | {"metric": "m:f", "direction": "minimize"},
            "direction: got 'minimize' for a Python function; .*negative",
        ),
        (THREE | {"judge": JUDGE, "direction": "minimize"}, "direction: got 'minimize' for a judge; .*higher grade"),
        ({"text": "a.txt", "split": CUT, "direction": "maximize"}, "direction: got 'maximize' for the perplexity of"),
        ({"text": "*.txt", "split": CUT, "metric": "perplexty"}, "did you mean 'perplexity'"),
        (THREE | {"metric": ["m:f", "m:g"]}, "one function scores a task"),
        (THREE | {"fewshot_as_multiturn": True}, "needs chat_template"),
        (THREE | {"weight": 1e308}, r"weight\n.* less than or equal to 10{18}"),
        (THREE | {"weight": 5e-324}, r"weight\n.* greater than or equal to "),
    ],
)
def test_what_contradicts_itself_is_refused(keys: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        TaskEntry(name="t", **keys)


@pytest.mark.parametrize("total", range(1, 40))
def test_fractions_never_take_more_items_than_there_are_and_all_where_they_sum_to_one(total: int) -> None:
    sizes = SplitEntry(**CUT).sizes(total)
    assert sum(sizes.values()) == total
    assert all(abs(sizes[split] - total * CUT[split]) <= 1 for split in sizes)
