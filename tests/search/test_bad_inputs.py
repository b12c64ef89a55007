"""Everything that cannot work is said at the start, in one line with file and key, and nothing is written.

One table over what a campaign may bring along that is wrong; what each part refuses besides, its own tests say.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from simulated import LAYERS, Clock, campaign_data, hash_recipe, make_campaign, make_inventory

from engine.errors import CampaignError
from search.evaluators.contract import Subject
from search.evaluators.entries import TaskEntry
from search.evaluators.opening import open_scorer
from search.opening import Start, open_coordinator
from search.ports import Inventory, Split
from search.run import RunDirectory, Services
from search.session import load_run

VERSION_0 = Path(__file__).parent / "store" / "version_0.sql"
STAGES = campaign_data()["space"]["stages"]
WEIGHT = {"low": 0, "high": 1.2, "start": 0.5}
JUDGE = {"base_url": "http://127.0.0.1:1/v1", "model": "m", "prompt": "{answer}", "retries": 0}
ONE_STAGE = {"space": {"parameters": {"weight": WEIGHT}, "stages": [{"name": "g", "population": 6, "sobol": 4}]}}
FUNCTION = (
    "def score(model, tokenizer, rows):\n    return [0.5] * (len(rows) - 1)\n\n\ndef lone(model):\n    return [0.5]\n"
    "\n\ndef plain(model, tokenizer, rows):\n    return [0.5] * len(rows)\n"
)


def opened(folder: Path, *, inventory: Inventory | None = None, layers: int = LAYERS, **changes: Any) -> None:
    """As a run is opened, but for the models."""
    start = Start(RunDirectory(folder / "run"), layers)
    services = Services(hash_recipe, Clock())
    open_coordinator(make_campaign(**changes), inventory or make_inventory(), start=start, services=services)


def space(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: opened(folder, space={"parameters": {"weight": WEIGHT}, "stages": STAGES, **changes})


def without_items(split: Split) -> Callable[[Path], None]:
    """An evaluator without items of numerals in one split."""
    found = make_inventory()
    left = tuple(item for item in found.items[split] if item.task != "numerals")
    return lambda folder: opened(folder, inventory=Inventory("k", {**found.items, split: left}))


def measured(*measures: str, **changes: Any) -> Callable[[Path], None]:
    inventory = Inventory("k", make_inventory().items, measures=measures)
    return lambda folder: opened(folder, inventory=inventory, **changes)


def tasks(*, folder: str = ".", objectives: Sequence[Any] = (), **entry: Any) -> Callable[[Path], None]:
    """A campaign's scorers, over files of the folder, and their rehearsal."""

    include = folder

    def start(folder: Path) -> None:
        (folder / "rows.jsonl").write_text("\n".join(json.dumps({"n": n}) for n in range(20)))
        (folder / "none.jsonl").write_text("\n")
        (folder / "blank.txt").write_text(" \n")
        (folder / "bad_scores.py").write_text(FUNCTION)
        (folder / "demo_task.yaml").write_text(
            "task: a_task\ndataset_path: json\ndataset_kwargs: {data_files: {test: rows.jsonl}}\ntest_split: test\n"
            "output_type: generate_until\ndoc_to_text: '{{n}}'\ndoc_to_target: '{{n}}'\n"
            "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n"
        )
        half = {"search": 0.5, "selection": 0.25, "holdout": 0.25}
        task = TaskEntry(**{"name": "t", "split": half, **entry})
        data = make_campaign(tasks=[task.model_dump()], include_path=str(folder / include), objectives=objectives)
        scorer = open_scorer(data.model_copy(update={"origin": str(folder / "c.yml")}))
        scorer.probe()
        scorer.rehearse(Subject("model", "tokenizer"))

    return start


def old_store(folder: Path) -> None:
    (folder / "old").mkdir()
    with sqlite3.connect(folder / "old" / "campaign.sqlite") as connection:
        connection.executescript(VERSION_0.read_text())
    opened(folder, store=str(folder / "old" / "campaign.sqlite"))


CASES: dict[str, tuple[Callable[[Path], None], str]] = {
    "bounds the wrong way round": (
        space(parameters={"weight": {"low": 1, "high": 0, "start": 0}}),
        r"space\.parameters\.weight: want low <= start <= high and low < high, got 1\.0, 0\.0, 0\.0",
    ),
    "bounds that the method refuses": (
        space(method="ties", parameters={"weight": WEIGHT, "density": {"low": 0, "high": 2, "start": 1}}),
        r"space\.parameters\.density: got 2\.0; ties takes numbers from 0 to 1",
    ),
    "a constraint that nothing satisfies": (
        space(constraints=["sum(weight) >= 9"]),
        r"space\.constraints\[0\]: 'sum\(weight\) >= 9': nothing within the bounds of the parameters satisfies it",
    ),
    "more blocks than layers": (
        space(stages=[{"name": "s", "by": "layer_block", "blocks": 4}]),
        r"space\.stages\[0\]\.blocks: got 4, the models have 3 layers",
    ),
    "a fine stage before a coarse one": (space(stages=STAGES[::-1]), "Order the stages from coarse to fine"),
    "an unknown method": (space(method="tise"), r"space\.method: unknown method 'tise'; did you mean 'ties'\?"),
    "no search items": (without_items("search"), "task 'numerals' has no search items"),
    "no holdout items": (without_items("holdout"), "task 'numerals' has no holdout items"),
    "a file without rows": (
        tasks(task="none.jsonl", metric="bad_scores:score"),
        r"task 't', task: .*none\.jsonl has no rows",
    ),
    "a file without text": (tasks(text="blank.txt"), r"task 't', text: .*blank\.txt: no text in it"),
    "a pattern without files": (tasks(text="*.text"), r"task 't', text: .* matches no file"),
    "a metric that text has not": (
        lambda folder: opened(
            folder,
            tasks=[
                {"name": "t", "text": "*.txt", "split": {"search": 1, "selection": 1, "holdout": 1}, "metric": "bits"}
            ],
        ),
        r"tasks\[0\]: metric: got 'bits' for text, .*bits_per_byte",
    ),
    "a metric that the task does not report": (
        tasks(task="a_task", metric="accuracy"),
        "lm-eval task 'a_task' has no metric 'accuracy', known: exact_match.* It reports exact_match",
    ),
    "a function that is not there": (
        tasks(task="rows.jsonl", metric="bad_scores:scores"),
        r"task 't', metric: bad_scores has no function 'scores', did you mean 'score'\?",
    ),
    "a function that returns the wrong number of items": (
        tasks(task="rows.jsonl", metric="bad_scores:score"),
        "task 't', metric: tried on the base with the first rows .*: bad_scores:score returned 2 scores for 3 items",
    ),
    "a function that does not tell the cost that is asked for": (
        tasks(task="rows.jsonl", metric="bad_scores:plain", objectives=[{"of": "score"}, {"of": "forwards"}]),
        r"c\.yml: task 't', metric: .*: bad_scores:plain returned neither 'tokens' nor 'forwards' of item ",
    ),
    "a measure without a direction": (
        lambda folder: opened(folder, objectives=[{"of": "score"}, {"of": "measure:acc"}]),
        r"objectives\[1\]: of: measure:acc needs a `direction`, maximize or minimize",
    ),
    "a score that is to be minimized": (
        lambda folder: opened(folder, objectives=[{"of": "score", "direction": "minimize"}]),
        r"objectives\[0\]: of: score cannot be minimized",
    ),
    "an objective on a measure that is not reported": (
        measured("tokens", objectives=[{"of": "score"}, {"of": "measure:token", "direction": "minimize"}]),
        r"objectives\[1\]\.of: no task reports the measure 'token'; did you mean 'tokens'\? They report tokens\.",
    ),
    "a constraint on a measure that is not reported": (
        measured(constraints=[{"of": "tokens", "at_most": 9}]),
        r"constraints\[0\]\.of: no task reports the measure 'tokens'; they report scores only",
    ),
    "a budget of items below the baselines": (
        lambda folder: opened(folder, budget={"items": 200}),
        r"budget\.items: got 200, at least 330 needed for 12 baselines, 4 Sobol points and one population of 6",
    ),
    "a budget of candidates below the baselines": (
        lambda folder: opened(folder, budget={"candidates": 12}),
        r"budget\.candidates: got 12, at least 22 needed",
    ),
    "an option that the sampler has not": (
        lambda folder: opened(folder, **ONE_STAGE, sampler="tpe", sampler_options={"n_startup": 1}),
        r": sampler_options\.n_startup: TPESampler: did you mean 'n_startup_trials'\?",
    ),
    "an option of a kind that the sampler stumbles over when it draws": (
        lambda folder: opened(folder, **ONE_STAGE, sampler="tpe", sampler_options={"gamma": 3}),
        r"sampler_options\.gamma: got 3, which TPESampler refuses: 'int' object is not callable",
    ),
    "an option that the sampler would take without a word": (
        lambda folder: opened(folder, **ONE_STAGE, sampler="tpe", sampler_options={"n_startup_trials": -5}),
        r": sampler_options\.n_startup_trials: TPESampler: got -5, a whole number of 0 or more expected",
    ),
    "a sampler's own seed": (
        lambda folder: opened(folder, **ONE_STAGE, sampler="random", sampler_options={"seed": 3}),
        r"sampler_options\.seed: RandomSampler: comes from the campaign's `seed`",
    ),
    "a bound without end": (
        space(parameters={"weight": {"low": 0, "high": float("inf"), "start": 0.5}}),
        r"space\.parameters\.weight\.high: got inf, a finite number expected",
    ),
    "a source under two spellings": (
        lambda folder: opened(folder, sources=[str(folder), f"{folder}/", "c"]),
        r"sources: '.*/' is listed twice, the other time as '",
    ),
    "bounds that no model keeps": (
        measured(constraints=[{"of": "task:letters", "at_least": 0.6}, {"of": "task:letters", "at_most": 0.2}]),
        r"constraints\[1\]: contradicts constraints\[0\]: nothing is letters at least 0\.6 and .* at most 0\.2",
    ),
    "constraints that contradict each other": (
        space(constraints=["sum(weight) <= 9", "sum(weight) <= 1", "sum(weight) >= 1.2"]),
        r"space\.constraints: 'sum\(weight\) <= 1' and 'sum\(weight\) >= 1\.2': nothing .* satisfies them together",
    ),
    "constraints that are no planes and contradict each other": (
        space(constraints=["sum(weight) <= 9", "weight/letters * weight/plurals >= 0.9", "max(weight) <= 0.9"]),
        r"space\.constraints: 'weight/letters \* weight/plurals >= 0\.9' and 'max\(weight\) <= 0\.9': none of "
        r"12000 points drawn .* satisfies them together",
    ),
    "a constraint that is no plane and that nothing satisfies": (
        space(constraints=["(weight/letters - 0.5) * (weight/letters - 0.5) <= -0.1"]),
        r"space\.constraints: '\(weight/letters - 0\.5\) \* .* <= -0\.1': none of 12000 points drawn .* satisfies it",
    ),
    "a constraint that divides by zero": (
        space(constraints=["sum(weight) / (1 - 1) <= 2"]),
        r"space\.constraints\[0\]: 'sum\(weight\) / \(1 - 1\) <= 2': divides by 0",
    ),
    "a constraint that divides by zero at the start": (
        space(constraints=["1 / max(weight) <= 2"], parameters={"weight": {**WEIGHT, "start": 0}}),
        r"space\.constraints\[0\]: .*: the start of the search makes it divide by 0; give other `start` values",
    ),
    "a function that takes something else": (
        tasks(task="rows.jsonl", metric="bad_scores:lone"),
        r"c\.yml: task 't', metric: bad_scores:lone cannot be called with \(model, tokenizer, rows\): too many pos",
    ),
    "an argument of generation that is not there": (
        tasks(task="a_task", gen_kwargs={"max_gen_tok": 3}),
        r"task 't', gen_kwargs: unknown argument 'max_gen_tok'; did you mean 'max_gen_toks'\?",
    ),
    "an include path that is not there": (
        tasks(task="a_task", folder="nowhere"),
        r"c\.yml: include_path: got '.*nowhere'",
    ),
    "a judge without its key": (
        tasks(task="a_task", judge=JUDGE | {"api_key_env": "NOT_SET_AT_ALL"}),
        r"c\.yml: task 't': judge\.api_key_env: the environment has no NOT_SET_AT_ALL",
    ),
    "a judge that is down": (
        tasks(task="a_task", judge=JUDGE),
        r"c\.yml: task 't': judge at http://127\.0\.0\.1:1/v1: Connection refused, 1 attempt\. Nothing is scored",
    ),
    "a public test set by its name": (
        tasks(task="gsm8k"),
        r"c\.yml: task 't', task: lm-eval task 'gsm8k' is the public test set GSM8K",
    ),
    "a store of another version": (old_store, r"`?mergefleet migrate .*old/campaign\.sqlite"),
    "a sampler that cannot search the space": (
        lambda folder: opened(folder, sampler="gp"),
        "sampler: gp searches one stage",
    ),
}


@pytest.mark.parametrize(("start", "says"), CASES.values(), ids=CASES)
def test_what_cannot_work_is_refused_at_the_start(start: Callable[[Path], None], says: str, tmp_path: Path) -> None:
    with pytest.raises(CampaignError, match=says) as caught:
        start(tmp_path)
    assert "\n" not in caught.value.message
    assert not (tmp_path / "run" / "campaign.sqlite").exists()


def test_a_run_that_may_use_public_test_sets_need_not_be_told_again(tmp_path: Path) -> None:
    path, root = tmp_path / "c.yml", tmp_path / "run"
    path.write_text(yaml.safe_dump(campaign_data()))
    campaign, directory = load_run(path, root=root, resume=False, allow_public_test_sets=True)
    assert campaign.allow_public_test_sets
    start = Start(directory, LAYERS)
    open_coordinator(campaign, make_inventory(), start=start, services=Services(hash_recipe, Clock())).close()
    resumed, _ = load_run(path, root=root, resume=True, allow_public_test_sets=False)
    assert resumed.allow_public_test_sets
    afresh, _ = load_run(path, root=root, resume=False, allow_public_test_sets=False)
    assert not afresh.allow_public_test_sets
