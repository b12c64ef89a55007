"""A genome of mergekit-evolve becomes a campaign whose points give every tensor what mergekit-evolve would give it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from simulated import campaign_data
from spaces import LAYERS, resolved

from engine.errors import CampaignError
from search.campaign_file import parse_campaign
from search.genome import METHODS, convert, needs_layers, read_genome
from search.space import Space, make_space

GENOME = {"models": ["m/a", "m/b"], "merge_method": "ties", "base_model": "m/base"}


def genome_file(*, tasks: Any = ("gsm_mine",), **genome: Any) -> dict[str, Any]:
    return {"genome": GENOME | genome, "tasks": list(tasks)}


def converted(data: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The campaign as its file is read back, and the file."""
    text = convert(data, name="made", layers=LAYERS, origin="g.yml").text()
    return yaml.safe_load(text), text


def space_of_genome(data: dict[str, Any]) -> Space:
    campaign = converted(data)[0] | {"tasks": campaign_data()["tasks"]}
    return make_space(parse_campaign(campaign, origin="c.yml"), layers=LAYERS)


def by_mergekit(genome: dict[str, Any], numbers: np.ndarray, source: int, parameter: str, tensor: str) -> float:
    """What mergekit-evolve gives a tensor: numbers[group of layers, model, filter or rest, parameter]."""
    groups, names = len(numbers), METHODS[genome["merge_method"]]
    layer = int(tensor.split(".")[2]) if "layers" in tensor else (0 if "embed" in tensor else LAYERS - 1)
    filters = [*genome.get("filters", ()), ""]
    which = next(index for index, text in enumerate(filters) if text in tensor)
    column = numbers[:, source, which, names.index(parameter)]
    if genome.get("smooth"):
        return float(np.interp(layer / (LAYERS - 1), np.linspace(0, 1, groups), column))
    return float(column[layer * groups // LAYERS])


CASES = [
    {},
    {"layer_granularity": 2},
    {"layer_granularity": 2, "smooth": True},
    {"filters": ["self_attn", "mlp"]},
    {"filters": ["self_attn", "mlp"], "layer_granularity": 4},
    {"filters": ["mlp"], "layer_granularity": 2, "smooth": True},
    {"merge_method": "linear", "base_model": None, "layer_granularity": 1},
    {"merge_method": "dare_ties", "allow_negative_weights": True},
]


@pytest.mark.parametrize("changes", CASES, ids=[str(case) for case in CASES])
def test_any_genotype_within_the_bounds_is_a_point(changes: dict[str, Any]) -> None:
    genome = GENOME | changes
    space = space_of_genome({"genome": genome, "tasks": ["t"]})
    names = METHODS[genome["merge_method"]]
    groups = LAYERS // genome.get("layer_granularity", LAYERS)
    filters = [*genome.get("filters", ())]
    rng = np.random.default_rng(1)
    numbers = rng.integers(0, 128, size=(groups, 2, len(filters) + 1, len(names))) / 128
    stage = space.stages[-1]
    point = {}
    for axis in stage.axes:
        which = filters.index(axis.group) if axis.group in filters else len(filters)
        point[axis.name] = numbers[axis.index or 0, axis.source or 0, which, names.index(axis.parameter)]
    found = resolved(space.recipe(len(space.stages) - 1, point))
    for (source, name, tensor), value in found.items():
        apart = filters and groups > 1 and "layers" not in tensor  # the one difference, which a comment tells
        if source >= 0 and not apart:
            assert value == pytest.approx(by_mergekit(genome, numbers, source, name, tensor), abs=1e-12), tensor
    assert space.method_at(point).name == genome["merge_method"]


def test_settings_are_those_that_mergekit_evolve_would_write() -> None:
    space = space_of_genome(genome_file(tokenizer_source="model:m/a"))
    recipe = space.recipe(0, space.stages[0].start())
    assert recipe["parameters"] == {"normalize": True}
    assert (recipe["dtype"], recipe["tokenizer_source"], recipe["base_model"]) == ("bfloat16", "m/a", "m/base")
    assert [model["parameters"] for model in recipe["models"]] == [{"weight": 0.5, "density": 1.0}] * 2
    plain = space_of_genome(genome_file(merge_method="task_arithmetic"))
    assert plain.recipe(0, plain.stages[0].start())["parameters"] == {"normalize": False}


def test_tasks_are_split_in_three_and_keep_metric_weight_and_prompt() -> None:
    data = genome_file(tasks=["one", {"name": "two", "weight": -2.0, "metric": "f1,strict"}, {"name": "two"}])
    tasks = converted(data | {"num_fewshot": 3, "limit": 50})[0]["tasks"]
    assert [task["name"] for task in tasks] == ["one", "two", "two-2"]
    assert [task["task"] for task in tasks] == ["one", "two", "two"]
    assert tasks[0]["split"] == {"search": 0.6, "selection": 0.15, "holdout": 0.25}
    assert (tasks[0]["metric"], tasks[1]["metric"]) == ("acc", "f1,strict")
    assert (tasks[1]["direction"], tasks[1]["weight"]) == ("minimize", 2.0)
    assert all(task["num_fewshot"] == 3 and task["chat_template"] for task in tasks)
    bare = converted(data | {"apply_chat_template": False})[0]["tasks"]
    assert all("chat_template" not in task for task in bare)


@pytest.mark.parametrize("changes", CASES, ids=[str(case) for case in CASES])
def test_the_file_is_a_campaign(changes: dict[str, Any]) -> None:
    campaign = parse_campaign(converted(genome_file(**changes) | {"num_fewshot": 2, "limit": 80})[0], origin="c.yml")
    assert campaign.items.search == 80
    assert campaign.sampler == "auto"


def test_what_cannot_be_kept_is_said_in_the_file() -> None:
    _, text = converted(genome_file(filters=["mlp"], layer_granularity=2) | {"random_init": True, "shuffle": True})
    assert max(map(len, text.splitlines())) <= 120
    for part in ("absolute value", "cut in three", "Embeddings", "`random_init`", "`shuffle`", "--max-fevals"):
        assert part in text
    assert "absolute value" not in converted(genome_file(allow_negative_weights=True))[1]
    assert "names no base_model" in converted(genome_file(merge_method="linear", base_model=None))[1]
    assert "left out" in converted(genome_file(models=["m/a", "m/base"]))[1]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"tasks": ["t"]}, "g.yml: genome: is missing"),
        (genome_file(merge_method="della"), "genome.merge_method: got 'della'; mergekit-evolve has linear"),
        (genome_file(base_model=None), "genome.base_model: is missing, and ties needs it"),
        (genome_file(merge_method="slerp", models=["a", "b", "c"]), "genome.models: got 3: mergekit-evolve lets slerp"),
        (genome_file(merge_method="slerp", smooth=True), "genome.smooth: is not for slerp"),
        (genome_file(layer_granularity=3), "genome.layer_granularity: got 3, the models have 8 layers"),
        (genome_file(smoothe=True), "genome.smoothe: unknown key; did you mean 'smooth'"),
        (genome_file(load_in_4bit=True), "genome.load_in_4bit: is no key of a genome file but an option of mergekit"),
        (genome_file(tasks=[]), "tasks: got an empty list"),
        (genome_file(tasks=[{"nam": "t"}]), "tasks[0].nam: unknown key"),
    ],
)
def test_a_file_that_is_no_genome_is_refused_in_one_line(data: dict[str, Any], says: str) -> None:
    with pytest.raises(CampaignError) as caught:
        convert(data, name="made", layers=LAYERS, origin="g.yml")
    assert says in caught.value.message
    assert "\n" not in caught.value.message


def test_an_option_of_the_command_that_stands_in_the_file_is_told_from_a_misspelt_key(tmp_path: Path) -> None:
    (tmp_path / "g.yml").write_text(yaml.safe_dump({**genome_file(), "load_in_4bit": True}))
    with pytest.raises(CampaignError) as caught:
        read_genome(tmp_path / "g.yml")
    assert caught.value.message == (
        f"{tmp_path}/g.yml: load_in_4bit: is no key of a genome file but an option of mergekit-evolve: here "
        "candidates are scored in the campaign's `evaluator.dtype`. Remove it."
    )


def test_layers_are_asked_for_only_where_they_matter() -> None:
    assert not needs_layers(genome_file(), origin="g.yml")
    with pytest.raises(CampaignError, match=r"g\.yml: genome\.layer_granularity: .* give --layers"):
        convert(genome_file(layer_granularity=2), name="made", layers=None, origin="g.yml")
