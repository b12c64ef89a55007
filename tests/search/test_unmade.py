"""Base and parents that transformers makes no model of are refused at the start, with file and key."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from simulated import campaign_data
from tiny_tasks import make_model, make_tokenizer

from engine.errors import CampaignError
from search.campaign_file import Campaign, parse_campaign
from search.evaluators.plans import Plans
from search.run import RunDirectory
from search.starting import check_start

SPACE = {"parameters": {"weight": {"low": 0, "high": 1, "start": 0.5}}, "stages": [{"name": "g"}]}
MODELS = ("base", "a", "b")


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, tokenizer = tmp_path_factory.mktemp("family"), make_tokenizer()
    for seed, name in enumerate(MODELS):
        make_model(seed, tokenizer, tied=False).save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    return root


def campaign(family: Path, folder: Path, *, which: str = "", evaluator: str = "hf", **config: Any) -> Campaign:
    """Of the family's models, of which `which` has something else in its config.json."""
    for name in MODELS:
        (folder / name).mkdir(exist_ok=True)
        for file in (family / name).iterdir():
            changes = config if (name, file.name) == (which, "config.json") else None
            content = file.read_bytes() if changes is None else json.dumps(json.loads(file.read_text()) | changes)
            (folder / name / file.name).write_bytes(content.encode() if isinstance(content, str) else content)
    base, *sources = (str(folder / name) for name in MODELS)
    data = campaign_data() | {"base_model": base, "sources": sources, "space": SPACE}
    return parse_campaign(data | {"evaluator": {"engine": evaluator}}, origin="c.yml")


REFUSED = "transformers cannot build a model of this config.json: "
MADE = "the LlamaForCausalLM that transformers makes of this config.json"


@pytest.mark.parametrize(
    ("which", "config", "says"),
    [
        ("b", {"num_attention_heads": 5}, f"sources[1]: DIR/b: {REFUSED}StrictDataclassClassValidationError: "),
        ("a", {"hidden_size": "x"}, f"sources[0]: DIR/a: {REFUSED}StrictDataclassFieldValidationError: "),
        ("b", {"hidden_act": "zzz"}, f"sources[1]: DIR/b: {REFUSED}KeyError: 'zzz' (activations.py:"),
        ("b", {"pad_token_id": 500}, f"sources[1]: DIR/b: {REFUSED}AssertionError: Padding_idx must be within"),
        (
            "a",
            {"vocab_size": 9},
            "sources[0]: DIR/a: tensor 'model.embed_tokens.weight' is [32, 16], and [9, 16] in " + MADE,
        ),
        (
            "base",
            {"vocab_size": 9},
            "base_model: DIR/base: tensor 'model.embed_tokens.weight' is [32, 16], and [9, 16] in ",
        ),
        ("b", {"attention_bias": True}, f"sources[1]: DIR/b: {MADE} has 'model.layers.0.self_attn."),
    ],
)
def test_what_transformers_makes_no_model_of_is_refused_at_the_start(
    which: str, config: dict[str, Any], says: str, family: Path, tmp_path: Path
) -> None:
    found = campaign(family, tmp_path, which=which, **config)
    with pytest.raises(CampaignError, match=re.escape("c.yml: " + says.replace("DIR", str(tmp_path)))) as caught:
        check_start(found, RunDirectory(tmp_path / "run"), Plans())
    assert "\n" not in caught.value.message
    assert caught.value.facts["key"] == says.partition(":")[0]
    assert not (tmp_path / "run").exists()


def test_what_fits_passes_and_no_weight_is_read(family: Path, tmp_path: Path) -> None:
    plans = Plans()
    check_start(campaign(family, tmp_path), RunDirectory(tmp_path / "run"), plans)
    assert not plans.nonfinite


def test_vllm_makes_models_of_its_own_and_a_run_that_has_scores_goes_on(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = RunDirectory(tmp_path / "run")
    check_start(campaign(family, tmp_path, which="a", vocab_size=9, evaluator="vllm"), directory, Plans())
    monkeypatch.setattr("search.starting.has_scores", lambda *_: True)
    check_start(campaign(family, tmp_path, which="a", vocab_size=9), directory, Plans())
