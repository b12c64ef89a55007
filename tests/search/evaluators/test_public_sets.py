"""Public test sets are known by their data and their names; training splits and one's own files are free."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lm_eval.tasks
import pytest

from search.evaluators.public_sets import PUBLIC_SETS, public_entry, public_set

OWN = Path(lm_eval.tasks.__file__).parent


def task(name: str, dataset: str, **splits: str) -> Any:
    config = {"test_split": None, "validation_split": None, "training_split": None} | splits
    return SimpleNamespace(config=SimpleNamespace(task=name, dataset_path=dataset, **config))


@pytest.mark.parametrize(
    ("made", "docs", "expected"),
    [
        (task("gsm8k", "openai/gsm8k", test_split="test", training_split="train"), None, "GSM8K"),
        (task("gsm8k", "openai/gsm8k", test_split="test", training_split="train"), "train", None),
        (task("my_sums", "openai/gsm8k", test_split="test"), None, "GSM8K"),
        (task("gsm8k_train", "openai/gsm8k", test_split="train"), None, None),
        (task("hellaswag", "Rowan/hellaswag", validation_split="validation"), None, "HellaSwag"),
        (task("mmlu_anatomy", "cais/mmlu", test_split="test", validation_split="validation"), "validation", "MMLU"),
        (task("gpqa_main_zeroshot", "Idavidrein/gpqa", validation_split="train"), None, "GPQA"),
        (task("ifeval", "google/IFEval", test_split="train"), None, "IFEval"),
        (task("arc_challenge", "a-copy/of-arc", test_split="test"), None, "ARC"),
        (task("mmlu_of_ours", "json", test_split="test"), None, None),
        (task("demo_letters_search", "json", test_split="test"), None, None),
    ],
)
def test_a_task_is_a_public_set_by_its_data_or_else_its_name(made: Any, docs: str | None, expected: str | None) -> None:
    assert public_set(made, docs) == expected
    entry = SimpleNamespace(name=made.config.task, cfg=vars(made.config), yaml_path=None)
    assert public_entry(entry, docs) == expected  # before it was loaded


@pytest.mark.parametrize(
    ("folder", "name", "docs", "expected"),
    [
        (OWN, "mmlu", None, "MMLU"),
        (OWN, "leaderboard_gpqa", None, "GPQA"),
        (OWN, "mmlu", "train", None),
        (OWN, "openllm", None, None),
        (Path("/my/tasks"), "mmlu", None, None),
    ],
)
def test_a_group_of_lm_evals_own_goes_by_its_name_before_its_parts_are_loaded(
    folder: Path, name: str, docs: str | None, expected: str | None
) -> None:
    assert public_entry(SimpleNamespace(name=name, cfg={"group": name}, yaml_path=folder / "g.yaml"), docs) == expected


@pytest.mark.parametrize(
    "path",
    [
        "mmlu/default/_default_template_yaml",
        "gsm8k/gsm8k.yaml",
        "hellaswag/hellaswag.yaml",
        "arc/arc_easy.yaml",
        "truthfulqa/truthfulqa_mc1.yaml",
        "winogrande/default.yaml",
        "humaneval/humaneval.yaml",
        "mbpp/mbpp.yaml",
        "ifeval/ifeval.yaml",
        "hendrycks_math/hendrycks_math_algebra.yaml",
    ],
)
def test_the_data_sets_of_lm_evals_own_tasks_are_in_the_table(path: str) -> None:
    lines = (OWN / path).read_text().splitlines()
    dataset = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("dataset_path:"))
    assert public_set(task("another name", dataset, test_split="test"), None) is not None


def test_no_two_rows_of_the_table_have_one_name() -> None:
    assert len({known.name for known in PUBLIC_SETS}) == len(PUBLIC_SETS)
