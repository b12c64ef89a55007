"""The tiny family: what is shipped is what the script makes, and a retrained small variant learns the same things."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

DEMO = Path(__file__).parents[2] / "configs" / "demo"
MODELS = ("base", "letters", "numerals", "plurals")
SKILLS = MODELS[1:]
POOLS = {"search": 400, "selection": 200, "holdout": 800}  # at least so many items per skill
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


def run_family(*arguments: str) -> str:
    """The script in a process of its own, as a user runs it."""
    command = [sys.executable, str(DEMO / "family.py"), *arguments]
    done = subprocess.run(command, env=os.environ | OFFLINE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def load_module(name: str) -> ModuleType:
    """A module of configs/demo, which is no package: the script finds its neighbours because it runs beside them."""
    spec = importlib.util.spec_from_file_location(f"demo_{name}", DEMO / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def items_of(skill: str, pool: str) -> list[dict[str, str]]:
    """The shipped rows of one pool."""
    return [json.loads(line) for line in (DEMO / "tasks" / f"{skill}-{pool}.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def retrained_scores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Scores of a small family trained now, on this machine."""
    out = tmp_path_factory.mktemp("small")
    run_family("--small", "--out", str(out))
    return dict(json.loads((out / "scores.json").read_text())["scores"])


def holdout(scores: dict[str, Any], model: str, skill: str) -> float:
    return float(scores[model][skill]["holdout"])


@pytest.mark.slow
@pytest.mark.parametrize("skill", SKILLS)
def test_a_retrained_base_knows_the_easy_items_and_a_specialist_also_the_hard_ones_of_its_skill(
    retrained_scores: dict[str, Any], skill: str
) -> None:
    assert 0.05 <= holdout(retrained_scores, "base", skill) <= 0.65
    assert 0.30 <= holdout(retrained_scores, skill, skill) <= 1.0
    assert holdout(retrained_scores, skill, skill) >= holdout(retrained_scores, "base", skill) + 0.12


@pytest.mark.slow
@pytest.mark.parametrize("skill", SKILLS)
def test_a_retrained_specialist_is_a_beginner_in_the_skills_of_the_others(
    retrained_scores: dict[str, Any], skill: str
) -> None:
    for other in set(SKILLS) - {skill}:
        assert 0.05 <= holdout(retrained_scores, skill, other) <= 0.65


@pytest.mark.parametrize("skill", SKILLS)
def test_shipped_scores_leave_room_between_the_base_and_a_specialist(skill: str) -> None:
    scores = json.loads((DEMO / "scores.json").read_text())["scores"]
    assert 0.28 <= holdout(scores, "base", skill) <= 0.50
    assert holdout(scores, skill, skill) >= 0.88
    assert all(holdout(scores, other, skill) <= 0.55 for other in MODELS if other != skill)


def test_shipped_items_are_exactly_those_the_script_makes(tmp_path: Path) -> None:
    run_family("--items-only", "--out", str(tmp_path))
    made = {path.name: path.read_bytes() for path in (tmp_path / "tasks").iterdir()}
    shipped = {path.name: path.read_bytes() for path in (DEMO / "tasks").iterdir()}
    assert made == shipped


def test_pools_are_large_enough_and_share_no_question_answer_or_id() -> None:
    rows = []
    for skill in SKILLS:
        for pool, least in POOLS.items():
            pool_rows = items_of(skill, pool)
            assert len(pool_rows) >= least
            assert all(row["id"].startswith(f"{skill}-{pool}-") for row in pool_rows)
            rows += pool_rows
    for key in ("id", "question", "answer"):
        assert len({row[key] for row in rows}) == len(rows), key


def test_lessons_never_show_an_item() -> None:
    skills = load_module("skills")
    rng = skills.random.Random("lessons")
    lessons = skills.base_lessons(rng, right_share=1.0, reserved=skills.reserved_texts())
    questions = {row["question"] for skill in SKILLS for pool in POOLS for row in items_of(skill, pool)}
    assert not questions & {next(lessons)[0] for _ in range(5000)}


@pytest.mark.parametrize(
    ("number", "numeral", "additive"),
    [(4, "IV", "IIII"), (9, "IX", "VIIII"), (1994, "MCMXCIV", "MDCCCCLXXXXIIII"), (3999, "MMMCMXCIX", None)],
)
def test_roman_numerals_are_right_and_the_naive_ones_additive(number: int, numeral: str, additive: str | None) -> None:
    skills = load_module("skills")
    assert skills.roman(number) == numeral
    assert additive is None or skills.roman(number, subtractive=False) == additive


@pytest.mark.parametrize("name", MODELS)
def test_a_shipped_model_loads_with_nothing_missing_or_unexpected(name: str) -> None:
    from transformers import AutoModelForCausalLM

    model, report = AutoModelForCausalLM.from_pretrained(DEMO / "models" / name, output_loading_info=True)
    assert not any(report.values()), report
    assert sum(parameter.numel() for parameter in model.parameters()) <= 500_000
    assert model.config.tie_word_embeddings


def test_what_is_shipped_is_small() -> None:
    weights = sum(path.stat().st_size for path in (DEMO / "models").rglob("*.safetensors"))
    everything = sum(path.stat().st_size for path in DEMO.rglob("*") if path.is_file())
    assert weights <= 4_000_000
    assert everything <= 6_000_000


def test_the_tokenizer_gives_back_any_printable_text_and_pads_on_the_left() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(DEMO / "models" / "base")
    text = "".join(map(chr, range(32, 127))) + "\n  two  spaces , 'kept' ."
    tokens = tokenizer.encode(text)
    assert len(tokens) == len(text)
    assert tokenizer.decode(tokens) == text
    padded = tokenizer(["a", "abc"], padding=True)
    assert padded["attention_mask"][0] == [0, 0, 1]
    assert padded["input_ids"][0][0] == tokenizer.pad_token_id != tokenizer.eos_token_id


def test_every_task_file_generates_alike_so_that_one_batch_can_hold_all_skills() -> None:
    configs = [yaml.safe_load(path.read_text()) for path in sorted((DEMO / "tasks").glob("*.yaml"))]
    assert {config["task"] for config in configs} == {f"demo_{skill}_{pool}" for skill in SKILLS for pool in POOLS}
    assert all(config["generation_kwargs"] == configs[0]["generation_kwargs"] for config in configs)


LM_EVAL = """
import json, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from family import load_tasks
from lm_eval import evaluate
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = Path(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(folder / "models" / "numerals", dtype="float32")
tokenizer = AutoTokenizer.from_pretrained(folder / "models" / "numerals")
lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=128, device="cpu", add_bos_token=False)
names = ["demo_numerals_selection", "demo_letters_selection"]
tasks = load_tasks(names, folder / "tasks")
results = evaluate(lm=lm, task_dict=tasks, bootstrap_iters=0, log_samples=True)
print("SCORES", json.dumps({name: [row["exact_match"] for row in results["samples"][name]] for name in names}))
"""


@pytest.mark.slow
def test_lm_eval_scores_the_tasks_offline_from_any_folder_as_the_script_does(tmp_path: Path) -> None:
    environment = os.environ | OFFLINE | {"HF_HOME": str(tmp_path / "hf")}
    command = [sys.executable, "-c", LM_EVAL, str(DEMO)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("SCORES "))
    by_script = json.loads((DEMO / "scores.json").read_text())["scores"]["numerals"]
    for task, matches in json.loads(line.removeprefix("SCORES ")).items():
        skill = task.split("_")[1]
        assert len(matches) >= POOLS["selection"]
        assert sum(matches) / len(matches) == pytest.approx(by_script[skill]["selection"], abs=0.005)
