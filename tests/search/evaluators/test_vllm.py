"""vLLM's protocol against a stand-in with the documented calls: versions, order, stale weights, failing updates."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import load_file

from engine.errors import CampaignError, EvaluationError
from search.campaign_file import load_campaign
from search.evaluators.contract import Scored
from search.evaluators.entries import EvaluatorEntry
from search.evaluators.resident import ResidentEvaluator, open_evaluator
from search.evaluators.vllm import VllmModel, check_vllm
from search.ports import BlockResult, Failed, Work

ROOT = Path(__file__).parents[3]
MODELS = ROOT / "configs" / "demo" / "models"
ENTRY = EvaluatorEntry(engine="vllm", threads=1)


class StandIn:
    """vllm.LLM as its documentation has it. `fails` names a call that raises; `stale`: versions are never taken."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.held: dict[str, Any] = {}
        self.version, self.fails, self.stale, self.empties = "default", "", False, True

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if self.fails == name:
            raise RuntimeError(f"{name}: CUDA error")

    def init_weight_transfer_engine(self, request: dict) -> None:
        assert set(request) == {"init_info"}
        self._called("init")

    def start_weight_update(self) -> None:
        self._called("start")

    def update_weights(self, request: dict) -> None:
        self._called("update")
        self.held |= request["update_info"]["tensors"]

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._called("finish")
        self.version = self.version if self.stale else str(weight_version)

    def get_weight_version(self) -> str:
        return self.version

    def reset_prefix_cache(self) -> bool:
        self._called("reset")
        return self.empties


@pytest.fixture
def llm() -> StandIn:
    return StandIn()


@pytest.fixture
def model(llm: StandIn) -> VllmModel:
    def opened(entry, folder, source, client_of):
        assert (folder / "config.json").is_file()
        assert (folder / "tokenizer.json").is_file()
        client = client_of(llm)
        client.init_weight_transfer_engine({})

        def send() -> None:
            client.start_weight_update()
            metas = iter(source.metadata())
            for name, value in source:
                meta = next(metas)
                assert (meta.name, meta.dtype, meta.shape) == (name, value.dtype, tuple(value.shape))
                client.update_weights({"tensors": {name: value}})
            client.finish_weight_update()

        return SimpleNamespace(model=llm, tokenizer=None), send

    return VllmModel(ENTRY, open_engine=opened)


def linear(letters: float) -> dict[str, Any]:
    weights = {"letters": letters, "plurals": 1 - letters}
    models = [{"model": str(MODELS / name), "parameters": {"weight": weight}} for name, weight in weights.items()]
    return {"merge_method": "linear", "models": models}


def evaluator(model: VllmModel, tmp_path: Path, score: Any) -> ResidentEvaluator:
    scorer = SimpleNamespace(items=dict, texts=dict, facts=dict, notes=list, score=score)
    made = ResidentEvaluator(scorer, ENTRY, audit=tmp_path / "audit.jsonl")
    made.resident = model
    return made


def work(model: VllmModel, recipe: dict[str, Any]) -> Work:
    recipe_hash = model._plans.hash_of(recipe)
    facts = {"candidate": 1, "recipe": recipe, "recipe_hash": recipe_hash, "split": "search", "block": 0, "epoch": 1}
    return Work(**facts, items=("a",), lease="l", attempt=1)


def test_the_engine_gets_every_merged_tensor_and_the_recipes_hash_as_its_version(model, llm) -> None:
    loaded = model.load(linear(1.0))
    assert llm.version == loaded.recipe_hash
    truth = load_file(MODELS / "letters" / "model.safetensors")
    assert set(llm.held) == set(truth)
    assert all(llm.held[name].float().allclose(value.float()) for name, value in truth.items())
    assert llm.calls[:2] == ["init", "start"]
    assert llm.calls[-2:] == ["finish", "reset"]
    assert set(llm.calls[2:-2]) == {"update"}


def test_the_same_candidate_is_sent_once_and_another_one_in_a_new_round_with_an_empty_cache(model, llm) -> None:
    first = model.load(linear(0.5))
    assert model.load(linear(0.5)) is first
    assert llm.calls.count("start") == 1
    assert model.load(linear(0.25)).recipe_hash != first.recipe_hash
    assert [llm.calls.count(name) for name in ("init", "start", "finish", "reset")] == [1, 2, 2, 2]


def test_a_candidate_with_another_chat_template_is_not_scored_by_the_one_that_is_there(model, tmp_path) -> None:
    shutil.copytree(MODELS / "letters", tmp_path / "chatty")
    (tmp_path / "chatty" / "chat_template.jinja").write_text("{{ messages }}")
    model.load(linear(0.5))
    chatty = {"merge_method": "passthrough", "models": [{"model": str(tmp_path / "chatty")}]}
    with pytest.raises(EvaluationError, match="tokenizer or chat template than the model in vLLM"):
        model.load(chatty)


def test_the_weights_digest_is_that_of_the_same_merge_in_the_transformers_engine(model) -> None:
    from search.evaluators.resident import ResidentModel

    other = ResidentModel(EvaluatorEntry(threads=1))
    assert model.load(linear(0.3)).weights_digest == other.load(linear(0.3)).weights_digest
    other.close()


def test_an_engine_that_keeps_its_old_version_gives_no_score(model, llm, tmp_path) -> None:
    llm.stale = True
    result = evaluator(model, tmp_path, lambda *_: pytest.fail("scored")).evaluate(work(model, linear(0.5)))
    assert isinstance(result, Failed)
    assert "reports version 'default' after the update" in result.cause


def test_a_version_that_changed_while_the_block_was_scored_throws_the_scores_away(model, llm, tmp_path) -> None:
    def score(subject, keys):
        llm.version = "another trainer's"
        return Scored({"a": 1.0})

    made = evaluator(model, tmp_path, score)
    result = made.evaluate(work(model, linear(0.5)))
    assert isinstance(result, Failed)
    assert result.retryable
    made._scorer.score = lambda subject, keys: Scored({"a": 1.0})
    again = made.evaluate(work(model, linear(0.5)))
    assert isinstance(again, BlockResult)
    assert again.recipe_hash == llm.version
    assert llm.calls.count("finish") == 2  # it was sent anew


@pytest.mark.parametrize("call", ["start", "update", "finish", "reset"])
def test_an_update_that_fails_is_tried_again_and_leaves_nothing_that_counts(model, llm, tmp_path, call: str) -> None:
    made = evaluator(model, tmp_path, lambda *_: Scored({"a": 1.0}))
    assert isinstance(made.evaluate(work(model, linear(0.5))), BlockResult)
    llm.fails = call
    failed = made.evaluate(work(model, linear(0.25)))
    assert isinstance(failed, Failed)
    assert failed.retryable
    assert f"{call}: CUDA error" in failed.cause
    llm.fails = ""
    sent = llm.calls.count("start")
    assert isinstance(made.evaluate(work(model, linear(0.5))), BlockResult)
    assert llm.calls.count("start") == sent + 1  # the version it reported was of weights half overwritten


def test_an_engine_with_another_interface_is_not_tried_again_and_the_place_is_told(
    model, llm, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = evaluator(model, tmp_path, lambda *_: Scored({"a": 1.0}))
    monkeypatch.setattr(StandIn, "finish_weight_update", lambda self: None)
    failed = made.evaluate(work(model, linear(0.5)))
    assert isinstance(failed, Failed)
    assert not failed.retryable
    assert re.search(r"^TypeError: .*unexpected keyword argument 'weight_version' \(\w+\.py:\d+\)$", failed.cause)


def test_a_prefix_cache_that_is_not_emptied_gives_no_score(model, llm) -> None:
    llm.empties = False
    with pytest.raises(ConnectionError, match="prefix cache"):
        model.load(linear(0.5))
    assert model.loaded is None


def test_without_vllm_the_campaign_is_refused_at_start_with_what_to_install(tmp_path, monkeypatch) -> None:
    campaign = load_campaign(ROOT / "configs" / "campaigns" / "demo.yml").model_copy(update={"evaluator": ENTRY})
    monkeypatch.setattr("search.evaluators.vllm.find_spec", lambda name: None)
    with pytest.raises(CampaignError, match=r"demo.yml: evaluator.engine: .*pip install 'mergefleet\[vllm\]'"):
        open_evaluator(campaign, audit=tmp_path / "audit.jsonl")


def test_a_task_that_needs_a_model_of_this_process_is_refused_by_name(monkeypatch) -> None:
    monkeypatch.setattr("search.evaluators.vllm.find_spec", lambda name: object())
    campaign = load_campaign(ROOT / "configs" / "campaigns" / "perplexity.yml")
    with pytest.raises(CampaignError, match="is scored in a transformers model; use engine: hf"):
        check_vllm(campaign.origin, campaign.tasks)


def test_files_are_not_scored_again_by_another_engine(model, tmp_path) -> None:
    with pytest.raises(EvaluationError, match="--no-rescore"):
        evaluator(model, tmp_path, None).rescore(MODELS / "letters", [])
