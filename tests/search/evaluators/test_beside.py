"""What lies beside the weights is part of the evaluation key: the tokenizer and the template decide answers, too."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from simulated import campaign_data
from tiny_models import EMBED, LAYER, write_model

from search.campaign_file import Campaign, parse_campaign
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
