"""Public test sets that published scores are compared on; a merge that was searched on them has seen the exam.

The rows were collected from the `dataset_path` of lm-eval 0.4.13's own tasks (lm_eval/tasks/**/*.yaml: the Open LLM
Leaderboards 1 and 2, and the sets that model cards report) and from mergekit-evolve's list of forbidden prefixes
(mergekit/scripts/evolve.py). A task counts as one of them if it reads one of these data sets from the Hub, or any that
is not a local file under one of these names. A training split is free, except where the public set has no other
(`whole`). What cannot be told is a local copy under another name: the list of the user's (`contamination`) is for that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

LOCAL = ("json", "csv", "parquet", "text", "arrow")


@dataclass(frozen=True)
class PublicSet:
    """A set by the name that people call it; `tasks` are patterns of lm-eval task names, `datasets` of Hub ids."""

    name: str
    tasks: tuple[str, ...]
    datasets: tuple[str, ...]
    whole: bool = False


PUBLIC_SETS = (
    PublicSet("MMLU", ("mmlu", "mmlu_*", "*_mmlu_*"), ("cais/mmlu", "hails/mmlu*", "*/mmlu", "TIGER-Lab/MMLU*")),
    PublicSet("MMLU-Pro", ("mmlu_pro*", "leaderboard_mmlu_pro"), ("TIGER-Lab/MMLU-Pro",), whole=True),
    PublicSet("GSM8K", ("gsm8k*", "gsm_plus*"), ("openai/gsm8k", "gsm8k", "*/gsm-plus", "*/gsm8k*")),
    PublicSet("MGSM", ("mgsm*",), ("juletxara/mgsm", "*/mgsm*")),
    PublicSet(
        "MATH", ("hendrycks_math*", "minerva_math*", "leaderboard_math*"), ("*/hendrycks_math", "*/MATH-lighteval")
    ),
    PublicSet("MATH-500", ("*math500", "*math_500*"), ("HuggingFaceH4/MATH-500",), whole=True),
    PublicSet("AIME", ("aime*",), ("math-ai/aime*", "*/aime-*", "*/AIME_*"), whole=True),
    PublicSet("HellaSwag", ("hellaswag*",), ("Rowan/hellaswag", "hellaswag")),
    PublicSet("ARC", ("arc_easy*", "arc_challenge*", "ai2_arc*"), ("allenai/ai2_arc", "ai2_arc")),
    PublicSet(
        "TruthfulQA", ("truthfulqa*",), ("truthfulqa/truthful_qa", "truthful_qa", "EleutherAI/truthful_qa*"), whole=True
    ),
    PublicSet("WinoGrande", ("winogrande*",), ("allenai/winogrande", "winogrande")),
    PublicSet("HumanEval", ("humaneval*",), ("openai/openai_humaneval", "evalplus/humanevalplus"), whole=True),
    PublicSet("MBPP", ("mbpp*",), ("google-research-datasets/mbpp", "evalplus/mbppplus", "mbpp")),
    PublicSet("BIG-Bench Hard", ("bbh*", "leaderboard_bbh*"), ("SaylorTwift/bbh", "lukaemon/bbh"), whole=True),
    PublicSet("BIG-Bench", ("bigbench*",), ("hails/bigbench", "tasksource/bigbench")),
    PublicSet("GPQA", ("gpqa*", "leaderboard_gpqa*"), ("Idavidrein/gpqa",), whole=True),
    PublicSet(
        "IFEval", ("ifeval*", "leaderboard_ifeval"), ("google/IFEval", "wis-k/instruction-following-eval"), whole=True
    ),
    PublicSet("MuSR", ("musr*", "leaderboard_musr*"), ("TAUR-Lab/MuSR",), whole=True),
    PublicSet("DROP", ("drop",), ("EleutherAI/drop", "drop")),
    PublicSet("PIQA", ("piqa*",), ("baber/piqa", "piqa", "ybisk/piqa")),
    PublicSet("BoolQ", ("boolq*",), ("google/boolq", "boolq")),
    PublicSet("OpenBookQA", ("openbookqa*",), ("allenai/openbookqa", "openbookqa")),
    PublicSet("CommonsenseQA", ("commonsense_qa*",), ("tau/commonsense_qa",)),
    PublicSet("Social IQa", ("social_iqa*", "siqa*"), ("lighteval/siqa", "social_i_qa", "allenai/social_i_qa")),
    PublicSet("LAMBADA", ("lambada*",), ("EleutherAI/lambada_openai", "cimec/lambada")),
    PublicSet("TriviaQA", ("triviaqa*",), ("mandarjoshi/trivia_qa", "trivia_qa")),
    PublicSet("Natural Questions", ("nq_open*",), ("google-research-datasets/nq_open", "nq_open")),
    PublicSet("SQuAD", ("squadv2*", "squad_*"), ("rajpurkar/squad*", "squad*")),
    PublicSet("RACE", ("race",), ("EleutherAI/race", "race")),
    PublicSet("SciQ", ("sciq*",), ("allenai/sciq", "sciq")),
    PublicSet("AGIEval", ("agieval*",), ("hails/agieval-*",), whole=True),
    PublicSet("C-Eval", ("ceval*",), ("ceval/ceval-exam",)),
    PublicSet("CMMLU", ("cmmlu*",), ("haonan-li/cmmlu", "lmlmcat/cmmlu")),
    PublicSet(
        "SuperGLUE",
        ("cb", "copa", "rte", "wic", "wsc", "multirc", "record", "sglue*"),
        ("aps/super_glue", "super_glue"),
    ),
    PublicSet("ANLI", ("anli*",), ("facebook/anli", "anli")),
    PublicSet("LogiQA", ("logiqa*",), ("EleutherAI/logiqa*", "baber/logiqa2")),
)


def public_set(task: Any, docs: str | None) -> str | None:
    """The public set whose test items an lm-eval task's documents are, or None."""
    return _known(str(task.config.task), vars(task.config), docs)


def public_entry(entry: Any, docs: str | None) -> str | None:
    """The same of an entry of lm-eval's index, before its data are looked for; None where only these tell.

    A group says nothing of data: one of lm-eval's own goes by its name, unless training splits are asked for.
    """
    config = entry.cfg or {}
    if "dataset_path" in config:
        return _known(entry.name, config, docs)
    own = entry.yaml_path is not None and "lm_eval" in entry.yaml_path.parts
    return _known(entry.name, config, docs) if own and docs != "train" else None


def _known(name: str, config: Mapping[str, Any], docs: str | None) -> str | None:
    dataset = str(config.get("dataset_path") or "")
    read = {"test": "test_split", "validation": "validation_split", "train": "training_split"}
    scored = config.get("test_split") or config.get("validation_split")
    split = str(config.get(read[docs]) if docs is not None else scored)
    for known in PUBLIC_SETS:
        by_data = any(fnmatch(dataset.casefold(), pattern.casefold()) for pattern in known.datasets)
        by_name = dataset not in LOCAL and any(fnmatch(name.casefold(), pattern) for pattern in known.tasks)
        if (by_data or by_name) and (known.whole or not split.startswith("train")):
            return known.name
    return None
