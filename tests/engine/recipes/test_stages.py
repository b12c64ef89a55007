"""Several recipes in one file: their order, what a name means, and what is refused. No model is opened here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from engine import ModelRef, Stages, load_stages
from engine.errors import RecipeError


def recipe(*models: Any, **top: Any) -> dict[str, Any]:
    entries = [{"model": model, "parameters": {"weight": 1}} for model in models]
    return {"merge_method": "linear", "models": entries, **top}


def stages(place: Path, *documents: dict[str, Any]) -> Stages:
    file = place / "r.yml"
    file.write_text("---\n".join(yaml.safe_dump(document) for document in documents))
    return load_stages(file)


def refusal(place: Path, *documents: dict[str, Any]) -> str:
    with pytest.raises(RecipeError) as caught:
        stages(place, *documents)
    return caught.value.message.removeprefix(f"{place}/")


def test_stages_are_made_after_those_they_need_and_otherwise_in_the_order_of_the_file(tmp_path: Path) -> None:
    found = stages(
        tmp_path,
        recipe("c", "a"),
        recipe("b", name="c"),
        recipe("./x", name="a"),
        recipe("./y", name="free"),
        recipe("a", name="b"),
    )
    assert [(stage.name, stage.needs) for stage in found.parts] == [
        ("a", ()),
        ("b", ("a",)),
        ("c", ("b",)),
        ("free", ()),
        (None, ("c", "a")),
    ]


def test_a_name_is_a_stage_wherever_a_model_stands_and_nowhere_else(tmp_path: Path) -> None:
    final = {
        "merge_method": "linear",
        "base_model": "linear",
        "tokenizer_source": "linear",
        "parameters": {"weight": [{"filter": "linear", "value": 1}, {"value": 2}]},
        "slices": [
            {"sources": [{"model": "linear", "layer_range": [0, 1]}, {"model": "linear@v1", "layer_range": [0, 1]}]},
            {
                "sources": [
                    {"model": "linear+linear", "layer_range": [0, 1]},
                    {"model": "./linear", "layer_range": [0, 1]},
                ]
            },
        ],
    }
    found = stages(tmp_path, recipe("x", name="linear"), final)
    placed = found.placed(Path("st")).parts[-1].recipe
    first, second = placed.slices
    assert placed.method == "linear"
    assert placed.base_model == ModelRef("st/linear")
    assert placed.tokenizer_model == ModelRef("st/linear")
    assert [source.model for source in first.sources] == [ModelRef("st/linear"), ModelRef("linear", "v1")]
    assert [source.model for source in second.sources] == [
        ModelRef("st/linear", lora=ModelRef("linear")),
        ModelRef("./linear"),
    ]
    assert placed.parameters == found.parts[-1].recipe.parameters
    assert set(placed.models) == set(placed.source_ids)


def test_a_place_that_no_text_could_name_is_a_place_like_any_other(tmp_path: Path) -> None:
    final = recipe("a", tokenizer_source="a")
    placed = stages(tmp_path, recipe("x", name="a"), final).placed(Path("my+models@home")).parts[-1].recipe
    assert placed.tokenizer_model == placed.donor == ModelRef("my+models@home/a")


def test_each_stage_keeps_its_part_of_the_text(tmp_path: Path) -> None:
    file = tmp_path / "r.yml"
    parts = [f"# part {n}\n{yaml.safe_dump(recipe('./x', **top))}" for n, top in enumerate(({}, {"name": "a"}))]
    file.write_text("---\n".join(parts))
    texts = {stage.name: stage.recipe.text for stage in load_stages(file).parts}
    assert texts == {None: parts[0], "a": f"---\n{parts[1]}"}


def test_a_file_of_one_recipe_is_one_stage_and_empty_documents_are_none(tmp_path: Path) -> None:
    file = tmp_path / "r.yml"
    file.write_text(f"---\n# nothing\n---\n{yaml.safe_dump(recipe('./x'))}---\n")
    (stage,) = load_stages(file).parts
    assert stage.name is None


def test_a_seed_is_given_to_every_stage(tmp_path: Path) -> None:
    found = stages(tmp_path, recipe("./x", name="a", seed=3), recipe("a"))
    assert [stage.recipe.seed for stage in found.with_seed(7).parts] == [7, 7]
    assert [stage.recipe.seed for stage in found.with_seed(None).parts] == [3, 0]


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        (
            [recipe("b", name="a"), recipe("c", name="b"), recipe("a", name="c"), recipe("a")],
            "r.yml: stages need each other in a circle: a → b → c → a.",
        ),
        ([recipe("a", name="a"), recipe("x")], "r.yml: stages need each other in a circle: a → a."),
        (
            [recipe("x", name="a"), recipe("x"), recipe("y")],
            "r.yml: line 13: a second stage has no name: give every stage but the output's a name.",
        ),
        (
            [recipe("x", name="a"), recipe("x", name="a"), recipe("y")],
            "r.yml: line 7: a second stage is called 'a': give one of them another name.",
        ),
        (
            [recipe("x", name="a"), recipe("x", name="b")],
            "r.yml: all 2 stages have names; leave the name of the one that makes the output out.",
        ),
        (
            [recipe("x", name="../a"), recipe("x")],
            "r.yml: line 1: name: got '../a', a name of letters, digits, '_', '-' and '.' expected.",
        ),
        ([recipe("x", name=7), recipe("x")], "r.yml: line 1: name: got 7, text expected: write it in quotes."),
        (
            [recipe("x", name="a", paramters={}), recipe("a")],
            "r.yml: stage a: paramters: unknown key; did you mean 'parameters'?",
        ),
        (
            [recipe("x", name="a"), recipe("a", paramters={})],
            "r.yml: the stage without a name: paramters: unknown key; did you mean 'parameters'?",
        ),
    ],
)
def test_what_cannot_be_ordered_or_named_is_refused_by_place(
    documents: list[dict[str, Any]], message: str, tmp_path: Path
) -> None:
    assert refusal(tmp_path, *documents) == message
