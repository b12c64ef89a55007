"""What lies beside the weights is part of the evaluation key, and of who is who: it decides answers, too."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from simulated import campaign_data
from tiny_models import EMBED, LAYER, write_model

from engine.errors import EvaluationError
from engine.models.tokenizer import small_files
from search.campaign_file import Campaign, parse_campaign
from search.evaluators import beside
from search.evaluators.beside import beside_models
from search.evaluators.contract import Scored, Suite, evaluation_key, former_key, keyed_items
from search.evaluators.plans import Plans
from search.ports import SPLITS, Item


def family(folder: Path, *sources: str, **space: Any) -> Campaign:
    """A campaign on models that are made there."""
    for name in ("base", *sources):
        arrays = {LAYER.format(0): np.ones((4, 4), np.float32), EMBED: np.ones((4, 4), np.float32)}
        write_model(folder / name, arrays, rope_theta=1e4, _name_or_path=name, torch_dtype="float32")
        (folder / name / "tokenizer.json").write_text("{}")
        (folder / name / "generation_config.json").write_text(json.dumps({"transformers_version": name}))
    return in_folder(folder, *sources, **space)


def in_folder(folder: Path, *sources: str, **space: Any) -> Campaign:
    data = campaign_data(base_model=str(folder / "base"), sources=[str(folder / name) for name in sources])
    data["space"] = {"parameters": {"weight": {"low": 0, "high": 1, "start": 0.5}}, "stages": [{"name": "g"}], **space}
    return parse_campaign(data, origin="c.yml")


def edited(path: Path, **settings: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


CHANGES: dict[str, tuple[bool, Callable[[Path], object]]] = {
    "template": (True, lambda at: (at / "chat_template.jinja").write_text("{{ messages }}")),
    "tokenizer": (True, lambda at: edited(at / "tokenizer.json", model={})),
    "rope": (True, lambda at: edited(at / "config.json", rope_theta=5e5)),
    "generation": (True, lambda at: edited(at / "generation_config.json", repetition_penalty=1.2)),
    "version": (False, lambda at: edited(at / "generation_config.json", transformers_version="9")),
    "format": (False, lambda at: edited(at / "config.json", torch_dtype="bfloat16", _name_or_path="x")),
}


@pytest.mark.parametrize("who", ["base", "b"])
@pytest.mark.parametrize("what", CHANGES)
def test_what_decides_answers_is_known_and_what_does_not_is_left_out(what: str, who: str, tmp_path: Path) -> None:
    campaign = family(tmp_path, "a", "b")
    before = beside_models(campaign, Plans())
    matters, change = CHANGES[what]
    change(tmp_path / who)
    assert (beside_models(campaign, Plans()) != before) == matters


def test_a_further_source_with_the_same_files_changes_nothing_and_the_choice_of_tokenizer_does(tmp_path: Path) -> None:
    one = beside_models(family(tmp_path / "one", "a"), Plans())
    assert len(one["files"]) == 1
    assert beside_models(family(tmp_path / "two", "a", "b"), Plans()) == one
    assert beside_models(family(tmp_path / "union", "a", tokenizer_source="union"), Plans()) != one


def test_it_counts_which_model_has_what_and_which_of_them_gives_the_tokenizer(tmp_path: Path) -> None:
    told = []
    for who in ("base", "a", "b"):  # the very same contents, of which another model has the odd one
        family(tmp_path / who, "a", "b")
        edited(tmp_path / who / who / "tokenizer.json", model={})
    for who in ("base", "a", "b"):
        folder, odd = tmp_path / who, "a" if who == "base" else who
        for owner in (None, str(folder / "base"), str(folder / odd)):
            campaign = in_folder(folder, "a", "b", tokenizer_source=owner)
            told.append(json.dumps(beside_models(campaign, Plans())))
    assert len({*told}) == len(told)


def test_what_is_beside_models_does_not_depend_on_where_they_lie(tmp_path: Path) -> None:
    told = []
    for place in ("here", "there"):
        family(tmp_path / place, "a")
        edited(tmp_path / place / "a" / "tokenizer.json", model={})
        told.append(
            beside_models(in_folder(tmp_path / place, "a", tokenizer_source=str(tmp_path / place / "a")), Plans())
        )
    assert told[0] == told[1]


class Nothing:
    """A scorer of an item per split."""

    def items(self) -> Any:
        return {split: (Item(split, "t", split),) for split in SPLITS}

    def facts(self) -> Any:
        return {}

    def texts(self) -> Any:
        return {}

    def notes(self) -> Any:
        return []

    def score(self, subject: Any, keys: Any) -> Scored:
        return Scored(dict.fromkeys(keys, 0.0))


def test_key_and_shared_scores_hang_on_it_and_runs_of_before_are_known() -> None:
    earlier, *others = (
        Suite([Nothing()]),
        Suite([Nothing()]).with_models({"files": ["x"]}).with_notes(["kept"]),
        Suite([Nothing()]).with_models({"files": ["y"]}),
    )
    assert len({evaluation_key(suite, {}) for suite in (earlier, *others)}) == 3
    assert {former_key(suite, {}) for suite in others} == {evaluation_key(earlier, {})}
    assert former_key(earlier, {}) is None
    assert len({keyed_items(suite, {})["search"][0].score_key for suite in (earlier, *others)}) == 3


def alone(folder: Path, name: str) -> dict[str, Any]:
    return {"merge_method": "passthrough", "models": [{"model": str(folder / name)}]}


@pytest.mark.parametrize("what", CHANGES)
def test_models_of_the_same_weights_are_one_candidate_only_where_they_answer_alike(what: str, tmp_path: Path) -> None:
    campaign = family(tmp_path, "a", "b")
    matters, change = CHANGES[what]
    change(tmp_path / "a")
    plans = Plans.of(campaign)
    base, a, b = (plans(alone(tmp_path, name)) for name in ("base", "a", "b"))
    assert base.weights_hash == a.weights_hash == b.weights_hash
    assert base.recipe_hash == b.recipe_hash == base.weights_hash
    assert (a.recipe_hash != base.recipe_hash) == matters


def test_a_merge_is_known_by_the_config_and_the_tokenizer_that_it_takes_and_each_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`a` has weight 0 or is left out: the weights are b's, and config.json is that of the first one named."""
    plans = Plans.of(family(tmp_path, "a", "b"))
    edited(tmp_path / "a" / "config.json", rope_theta=5e5)
    read: list[tuple[Path, Path]] = []

    def counted(*places: Path) -> list[Path]:
        read.append((places[0], places[1]))
        return small_files(*places)

    monkeypatch.setattr(beside, "small_files", counted)
    base, b = str(tmp_path / "base"), {"model": str(tmp_path / "b"), "parameters": {"weight": 1}}
    a = {"model": str(tmp_path / "a"), "parameters": {"weight": 0}}
    for _ in range(2):
        without, with_a, on_base, by_a = (
            plans({"merge_method": "linear", "models": models, **more})
            for models, more in (
                ([b], {}),
                ([a, b], {}),
                ([a, b], {"base_model": base}),
                ([a, b], {"base_model": base, "tokenizer_source": a["model"]}),
            )
        )
    assert without.weights_hash == with_a.weights_hash == on_base.weights_hash == by_a.weights_hash
    assert without.recipe_hash == on_base.recipe_hash == without.weights_hash
    assert len({plan.recipe_hash for plan in (without, with_a, by_a)}) == 3
    assert len(read) == 4  # base and base, b, a, base with a's tokenizer


def test_a_candidate_is_taken_under_its_hash_or_that_of_its_weights_alone_and_no_other(tmp_path: Path) -> None:
    plans = Plans.of(family(tmp_path, "a"))
    edited(tmp_path / "a" / "config.json", rope_theta=5e5)
    recipe = alone(tmp_path, "a")
    found = plans(recipe)
    for name in (None, found.recipe_hash, found.weights_hash):
        assert plans.expected(recipe, name).recipe_hash == (name or found.recipe_hash)
    with pytest.raises(EvaluationError, match="abababababab was asked for"):
        plans.expected(recipe, "ab" * 32)
