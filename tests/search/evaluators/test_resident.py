"""The resident model: what is scored is what was merged, and what is published scores the same from disk."""

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from device import DEVICE
from live_bytes import fingerprint
from tiny_tasks import Bench, make_bench, make_model

from engine import digest
from engine.errors import CampaignError, EvaluationError, SourceError
from engine.execution.execute import execute
from engine.execution.sinks import FileSink
from engine.models.checkpoint import open_checkpoints
from engine.models.tokenizer import write_small_files
from engine.planning.planner import make_plan
from engine.recipes.keypath import KeyPath
from engine.recipes.model_ref import parse_model
from engine.recipes.reader import parse_recipe
from search.evaluators.audit import read_attempts
from search.evaluators.contract import Places, Scored, Suite
from search.evaluators.entries import EvaluatorEntry
from search.evaluators.lm_eval import LmEvalScorer
from search.evaluators.loading import load_from_disk
from search.evaluators.plans import Plans
from search.evaluators.resident import ResidentEvaluator, ResidentModel
from search.evaluators.skeletons import Unsaved
from search.ports import BlockResult, Failed, Work

ENTRY = EvaluatorEntry(threads=1, batch_size=60, device=DEVICE)


@dataclass(frozen=True)
class Family:
    """The bench, its models on disk by name, and the scorer over its tasks."""

    bench: Bench
    folders: dict[str, Path]
    scorer: Suite

    def recipe(self, a: float, b: float, **changes: Any) -> dict[str, Any]:
        weights = {"a": a, "b": b}
        models = [{"model": str(self.folders[n]), "parameters": {"weight": w}} for n, w in weights.items()]
        return {"merge_method": "linear", "models": models, "parameters": {"normalize": False}} | changes

    def recipe_of(self, *names: str) -> dict[str, Any]:
        models = [{"model": str(self.folders[name]), "parameters": {"weight": 1 / len(names)}} for name in names]
        return {"merge_method": "linear", "models": models}

    def keys(self, split: str = "search") -> tuple[str, ...]:
        return tuple(item.key for item in self.scorer.items()[split])


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    root = tmp_path_factory.mktemp("family")
    bench = make_bench(root / "tasks")
    models = {"a": bench.a.model, "b": bench.b.model}
    models["deep"] = make_model(3, bench.a.tokenizer, layers=3)
    models["untied"] = make_model(4, bench.a.tokenizer, tied=False)
    models["nan"] = make_model(5, bench.a.tokenizer)
    with torch.no_grad():
        models["nan"].model.layers[1].mlp.up_proj.weight[3, 4] = float("nan")
    for name, model in models.items():
        model.save_pretrained(root / name)
        bench.a.tokenizer.save_pretrained(root / name)
    scorer = Suite([LmEvalScorer(bench.entries, Places(str(bench.folder)))])
    return Family(bench, {name: root / name for name in models}, scorer)


@pytest.fixture
def evaluator(family: Family, tmp_path: Path):
    made = ResidentEvaluator(family.scorer, ENTRY, audit=tmp_path / "audit.jsonl")
    yield made
    made.close()


def hash_of(recipe: dict[str, Any]) -> str:
    parsed = parse_recipe(recipe)
    checkpoints = open_checkpoints(parsed.models)
    return digest.recipe_hash(make_plan(parsed, checkpoints), checkpoints)


def work(recipe: dict[str, Any], items: tuple[str, ...], **changes: Any) -> Work:
    facts = {"candidate": 7, "recipe": recipe, "recipe_hash": hash_of(recipe), "split": "search", "block": 0}
    return Work(**facts | {"items": items, "lease": "l1", "attempt": 1, "epoch": 3} | changes)


def publish(recipe: dict[str, Any], out: Path) -> str:
    """Merge to files, as a published model; returns the digest of its weights."""
    parsed = parse_recipe(recipe)
    checkpoints = open_checkpoints(parsed.models)
    plan = make_plan(parsed, checkpoints)
    out.mkdir()
    sink = FileSink(plan, out)
    merged = execute(plan, checkpoints, sink)
    sink.close()
    (out / "config.json").write_text(json.dumps(dict(plan.config)))
    write_small_files(
        out,
        tokenizer=checkpoints[plan.tokenizer].tokenizer_directory,
        donor=checkpoints[plan.donor].directory,
        chat_template=plan.chat_template,
    )
    return digest.of_weights(merged.tensor_digests(plan))


def test_a_merge_of_one_model_alone_scores_what_that_model_scores(family, evaluator):
    for name, subject in (("a", family.bench.a), ("b", family.bench.b)):
        result = evaluator.evaluate(work(family.recipe_of(name), family.keys()))
        assert isinstance(result, BlockResult)
        assert result.scores == family.scorer.score(subject, family.keys()).scores


def test_a_then_b_then_a_gives_scores_and_digests_of_a_twice(family, evaluator):
    a, b = family.recipe(0.7, 0.3), family.recipe(0.2, 0.8)
    first, other, again = (evaluator.evaluate(work(recipe, family.keys())) for recipe in (a, b, a))
    assert first == again
    assert other.weights_digest != first.weights_digest
    assert other.recipe_hash != first.recipe_hash


def test_a_model_with_the_weights_of_the_base_and_another_config_is_scored_as_itself(family, tmp_path):
    """Before and after the base, whose weights are in the live model then; the oracle is the model loaded from disk."""
    turned = tmp_path / "turned"
    shutil.copytree(family.folders["a"], turned)
    config = json.loads((turned / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] = 3.0
    (turned / "config.json").write_text(json.dumps(config))
    plans = Plans(parse_model(str(family.folders["a"]), KeyPath("")))
    made = ResidentEvaluator(family.scorer, ENTRY, audit=tmp_path / "audit.jsonl", plans=plans)
    recipes = [{"merge_method": "passthrough", "models": [{"model": str(p)}]} for p in (family.folders["a"], turned)]
    base, other, again, other_again = (
        made.evaluate(work(recipe, family.keys(), recipe_hash=plans.hash_of(recipe))) for recipe in recipes * 2
    )
    assert (base, other) == (again, other_again)
    assert base.weights_digest == other.weights_digest
    assert base.recipe_hash != other.recipe_hash
    assert other.scores == made.rescore(turned, [family.keys()]) != base.scores
    made.close()


def test_the_order_in_which_blocks_are_scored_does_not_matter(family, evaluator):
    recipe, keys = family.recipe(0.6, 0.4), family.keys()
    blocks = [keys[:9], keys[9:14], keys[14:]]
    forward = [evaluator.evaluate(work(recipe, block)).scores for block in blocks]
    backward = [evaluator.evaluate(work(recipe, block)).scores for block in reversed(blocks)]
    assert forward == backward[::-1]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_published_model_scored_from_disk_gives_exactly_the_live_scores(family, evaluator, tmp_path, dtype):
    recipe = family.recipe(0.75, 0.25, dtype="float32", out_dtype=dtype)
    blocks = [family.keys("holdout")[:10], family.keys("holdout")[10:]]
    live: dict[str, float] = {}
    for block in blocks:
        result = evaluator.evaluate(work(recipe, block))
        live |= result.scores
    assert publish(recipe, tmp_path / "out") == result.weights_digest
    assert evaluator.rescore(tmp_path / "out", blocks) == live
    on_disk = load_from_disk(tmp_path / "out", ENTRY)
    assert fingerprint(on_disk.model) == fingerprint(evaluator.resident.subject.model)


def test_the_chat_template_of_the_recipe_is_the_live_tokenizers_and_the_published_ones(family, tmp_path):
    made = ResidentEvaluator(family.scorer, ENTRY, audit=tmp_path / "audit.jsonl")
    plain, templates = family.recipe(0.5, 0.5), []
    for recipe in (plain, {**plain, "chat_template": "chatml"}):
        made.resident.load(recipe)
        publish(recipe, out := tmp_path / str(len(templates)))
        templates.append(made.resident.subject.tokenizer.chat_template)
        assert load_from_disk(out, ENTRY).tokenizer.chat_template == templates[-1]
    assert templates[0] != templates[1]


def test_generation_settings_of_the_donor_apply_live_as_they_do_on_disk(family, tmp_path):
    strict = tmp_path / "strict"
    family.bench.a.model.save_pretrained(strict)
    family.bench.a.tokenizer.save_pretrained(strict)
    (strict / "generation_config.json").write_text(json.dumps({"repetition_penalty": 50.0, "eos_token_id": 1}))
    made = ResidentEvaluator(family.scorer, ENTRY, audit=tmp_path / "audit.jsonl")
    recipe = {"merge_method": "linear", "models": [{"model": str(strict), "parameters": {"weight": 1}}]}
    live = made.evaluate(work(recipe, family.keys())).scores
    assert live != family.scorer.score(family.bench.a, family.keys()).scores
    publish(recipe, tmp_path / "out")
    assert made.rescore(tmp_path / "out", [family.keys()]) == live


class Tampering:
    """A scorer that does something to the evaluator after the answers are in, before they are handed back."""

    def __init__(self, family: Family, action: Callable[[], None]) -> None:
        self.items, self.facts, self.notes = family.scorer.items, family.scorer.facts, family.scorer.notes
        self.texts = family.scorer.texts
        self._family, self._action = family, action

    def score(self, subject, keys):
        scores = self._family.scorer.score(subject, keys)
        self._action()
        return scores


@pytest.mark.parametrize("how", ["another candidate", "one element", "failed merge"])
def test_scores_are_refused_when_the_weights_were_swapped_before_they_came_in(family, tmp_path, how):
    def swap() -> None:
        if how == "another candidate":
            made.resident.load(family.recipe(0.1, 0.9))
        elif how == "failed merge":
            with pytest.raises(Exception, match="NaN"):
                made.resident.load(family.recipe_of("a", "nan"))
        else:
            with torch.no_grad():
                made.resident.subject.model.model.layers[0].mlp.up_proj.weight[0, 0] += 1e-3

    made = ResidentEvaluator(Tampering(family, swap), ENTRY, audit=tmp_path / "audit.jsonl")
    result = made.evaluate(work(family.recipe(0.7, 0.3), family.keys()))
    assert isinstance(result, Failed)
    assert result.retryable
    assert "changed while they were scored" in result.cause


def test_a_model_that_was_given_other_memory_is_not_scored_and_made_anew(family, evaluator, tmp_path):
    """A function that casts it, say: what is merged afterwards would never reach the model that is scored."""
    tampering = Tampering(family, lambda: made.resident.subject.model.to(torch.float64))
    made = ResidentEvaluator(tampering, ENTRY, audit=tmp_path / "audit.jsonl")
    keys = family.keys()[:9]
    result = made.evaluate(work(family.recipe(0.9, 0.1), keys))
    assert isinstance(result, Failed)
    assert "changed while they were scored" in result.cause
    tampering._action = lambda: None
    other = work(family.recipe(0.1, 0.9), keys)
    assert made.evaluate(other) == evaluator.evaluate(other)


def test_a_function_that_changes_the_model_is_refused_when_it_is_tried(family, tmp_path, monkeypatch):
    made = ResidentEvaluator(family.scorer, ENTRY, audit=tmp_path / "audit.jsonl", base=family.recipe_of("a"))
    monkeypatch.setattr(Suite, "needs_rehearsal", True)
    monkeypatch.setattr(Suite, "rehearse", lambda self, subject: subject.model.to(torch.float32))
    made.rehearse()
    monkeypatch.setattr(Suite, "rehearse", lambda self, subject: subject.model.to(torch.float64))
    with pytest.raises(CampaignError, match="changed the model that it was tried on"):
        made.rehearse()


@pytest.mark.parametrize("out_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_weights_swapped_between_two_blocks_are_merged_again(family, evaluator, value, out_dtype):
    recipe = family.recipe(0.7, 0.3, dtype="float32", out_dtype=out_dtype)
    first = evaluator.evaluate(work(recipe, family.keys()))
    with torch.no_grad():
        evaluator.resident.subject.model.model.embed_tokens.weight.fill_(value)
    assert evaluator.evaluate(work(recipe, family.keys())) == first


def test_weights_are_looked_at_once_a_block_after_it_was_scored(family, evaluator, monkeypatch):
    looks: list[int] = []
    look = ResidentModel.is_intact
    monkeypatch.setattr(ResidentModel, "is_intact", lambda self: (looks.append(1), look(self))[1])
    keys = family.keys()
    for recipe, block in (((0.7, 0.3), keys[:9]), ((0.7, 0.3), keys[9:]), ((0.2, 0.8), keys)):
        assert isinstance(evaluator.evaluate(work(family.recipe(*recipe), block)), BlockResult)
    assert len(looks) == 3


def test_models_with_the_very_same_small_files_share_a_skeleton_and_no_others_do(family, evaluator, tmp_path):
    strict = tmp_path / "strict"
    family.bench.b.model.save_pretrained(strict)
    family.bench.a.tokenizer.save_pretrained(strict)
    (strict / "generation_config.json").write_text(json.dumps({"repetition_penalty": 50.0, "eos_token_id": 1}))
    made = {}
    for name, place in (("a", family.folders["a"]), ("b", family.folders["b"]), ("strict", strict)):
        evaluator.resident.load(
            {"merge_method": "linear", "models": [{"model": str(place), "parameters": {"weight": 1}}]}
        )
        made[name] = evaluator.resident.subject.model
    assert made["a"] is made["b"]
    assert made["strict"] is not made["b"]
    assert made["strict"].generation_config.repetition_penalty == 50.0


def test_a_recipe_that_is_loaded_already_is_not_merged_again(family, evaluator, monkeypatch):
    recipe = family.recipe(0.7, 0.3)
    first = evaluator.evaluate(work(recipe, family.keys()))
    monkeypatch.setattr("search.evaluators.resident.execute", lambda *_, **__: pytest.fail("merged again"))
    assert evaluator.evaluate(work(recipe, family.keys(), lease="l2")).scores == first.scores


def with_second_layer(recipe: dict[str, Any], weight: float) -> dict[str, Any]:
    """The recipe with another weight of model b in layer 1."""
    a, b = recipe["models"]
    choices = [{"filter": "layers.1.", "value": weight}, {"value": b["parameters"]["weight"]}]
    return recipe | {"models": [a, {**b, "parameters": {"weight": choices}}]}


@pytest.mark.parametrize("out_dtype", ["float32", "bfloat16"])
def test_only_tensors_that_differ_from_the_candidate_before_are_merged(family, tmp_path, monkeypatch, out_dtype):
    evaluator = ResidentEvaluator(family.scorer, ENTRY, audit=tmp_path / "audit.jsonl")
    first = family.recipe(0.7, 0.3, dtype="float32", out_dtype=out_dtype)
    second = with_second_layer(first, 0.6)
    alone = ResidentEvaluator(family.scorer, ENTRY, audit=tmp_path / "audit.jsonl").evaluate(
        work(second, family.keys())
    )
    evaluator.evaluate(work(first, family.keys()))
    merged: set[str] = set()

    def spy(plan, *rest, **more):
        merged.update(plan.tensors[index].name for index in more["work"].tensors)
        return execute(plan, *rest, **more)

    monkeypatch.setattr("search.evaluators.resident.execute", spy)
    assert evaluator.evaluate(work(second, family.keys())) == alone
    assert merged
    assert all(".layers.1." in name for name in merged)


def test_a_tensor_that_others_wrote_into_is_not_kept_for_the_next_candidate(family, evaluator, tmp_path):
    first = family.recipe(0.7, 0.3)
    second = with_second_layer(first, 0.6)
    alone = ResidentEvaluator(family.scorer, ENTRY, audit=tmp_path / "audit.jsonl").evaluate(
        work(second, family.keys())
    )
    evaluator.evaluate(work(first, family.keys()))
    with torch.no_grad():
        evaluator.resident.subject.model.model.layers[0].mlp.up_proj.weight[0, 0] += 1e-3
    assert evaluator.evaluate(work(second, family.keys())) == alone


def test_a_recipe_that_hashes_otherwise_here_is_refused_before_anything_is_scored(family, evaluator, tmp_path):
    result = evaluator.evaluate(work(family.recipe(0.7, 0.3), family.keys(), recipe_hash="ab" * 32))
    assert isinstance(result, Failed)
    assert "abababababab was asked for" in result.cause
    assert read_attempts(tmp_path / "audit.jsonl") == []


def test_nan_in_a_source_is_a_failure_that_names_it_and_no_number(family, evaluator, tmp_path):
    result = evaluator.evaluate(work(family.recipe_of("a", "nan"), family.keys()))
    assert isinstance(result, Failed)
    assert not result.retryable
    assert "model.layers.1.mlp.up_proj.weight" in result.cause
    assert str(family.folders["nan"]) in result.cause
    assert read_attempts(tmp_path / "audit.jsonl") == []
    assert isinstance(evaluator.evaluate(work(family.recipe_of("a"), family.keys())), BlockResult)


def test_a_recipe_that_cannot_be_merged_is_a_failure_and_not_an_exception(family, evaluator):
    impossible = replace(work(family.recipe_of("a"), family.keys()), recipe=family.recipe_of("a", "deep"))
    result = evaluator.evaluate(impossible)
    assert isinstance(result, Failed)
    assert not result.retryable


@pytest.mark.parametrize(
    ("file", "changes", "says"),
    [
        (
            "config.json",
            {"num_attention_heads": 5},
            r"transformers cannot build a model of this config\.json: .* \(5\)",
        ),
        ("config.json", {"hidden_size": "x"}, r"this config\.json: StrictData.*'hidden_size' expected int, got str"),
        ("config.json", {"hidden_act": "zzz"}, r"this config\.json: KeyError: 'zzz' \(activations\.py:\d+\)"),
        ("config.json", {"pad_token_id": 500}, r"this config\.json: AssertionError: Padding_idx must be within"),
        ("generation_config.json", {"watermarking_config": 3}, r"this generation_config\.json: AttributeError: "),
        ("tokenizer.json", {"model": 3}, r"/odd: transformers cannot read its tokenizer: "),
    ],
)
def test_a_model_that_transformers_refuses_is_a_failure_in_one_line(
    family, evaluator, tmp_path, file: str, changes: dict[str, Any], says: str
):
    odd = Path(shutil.copytree(family.folders["a"], tmp_path / "odd"))
    (odd / file).write_text(json.dumps(json.loads((odd / file).read_text()) | changes))
    result = evaluator.evaluate(work({"merge_method": "passthrough", "models": [{"model": str(odd)}]}, family.keys()))
    assert isinstance(result, Failed)
    assert not result.retryable
    assert re.search(says, result.cause)
    assert "\n" not in result.cause
    assert isinstance(evaluator.evaluate(work(family.recipe_of("a"), family.keys())), BlockResult)


def test_a_scorer_that_breaks_is_a_failure_with_its_cause(family, tmp_path):
    def divide() -> None:
        raise ZeroDivisionError("no items")

    made = ResidentEvaluator(Tampering(family, divide), ENTRY, audit=tmp_path / "audit.jsonl")
    result = made.evaluate(work(family.recipe_of("a"), family.keys()))
    assert isinstance(result, Failed)
    assert not result.retryable
    assert re.fullmatch(r"ZeroDivisionError: no items \(test_resident\.py:\d+\)", result.cause)


def test_a_kernel_that_does_not_compile_is_a_failure_with_the_first_lines_of_a_page(family, evaluator, monkeypatch):
    from numba.core.errors import TypingError

    def merged(*_: Any, **__: Any) -> None:
        raise TypingError("Failed in nopython mode (step: x)\n\x1b[1m\x1b[1mNo implementation of sqrt\x1b[0m\nmore")

    monkeypatch.setattr("search.evaluators.resident.execute", merged)
    failed = evaluator.evaluate(work(family.recipe_of("a"), family.keys()))
    assert isinstance(failed, Failed)
    assert not failed.retryable
    assert failed.cause == "TypingError: Failed in nopython mode (step: x): No implementation of sqrt"


def test_a_disk_that_cannot_be_written_is_worth_another_attempt(family, tmp_path):
    made = ResidentEvaluator(family.scorer, ENTRY, audit=tmp_path / "missing" / "audit.jsonl")
    result = made.evaluate(work(family.recipe_of("a"), family.keys()))
    assert isinstance(result, Failed)
    assert result.retryable


def test_errors_of_the_campaign_itself_come_out_as_exceptions(family, tmp_path):
    def complain() -> None:
        raise CampaignError("no such metric")

    made = ResidentEvaluator(Tampering(family, complain), ENTRY, audit=tmp_path / "audit.jsonl")
    with pytest.raises(CampaignError, match="no such metric"):
        made.evaluate(work(family.recipe_of("a"), family.keys()))


def test_every_item_is_in_the_audit_file_before_its_block_is_scored(family, tmp_path):
    audit, seen = tmp_path / "audit.jsonl", []
    made = ResidentEvaluator(Tampering(family, lambda: seen.extend(read_attempts(audit))), ENTRY, audit=audit)
    made.evaluate(work(family.recipe_of("a"), family.keys()[:5], attempt=2))
    assert [line["item"] for line in seen] == list(family.keys()[:5])
    expected = {"candidate": 7, "attempt": 2, "epoch": 3, "pid": os.getpid(), "split": "search", "lease": "l1"}
    assert all(expected.items() <= line.items() for line in seen)


@pytest.mark.parametrize("other", ["deep", "untied"])
def test_another_depth_or_an_untied_head_gets_another_skeleton_and_back(family, evaluator, other):
    a = work(family.recipe_of("a"), family.keys())
    first = evaluator.evaluate(a)
    changed = evaluator.evaluate(work(family.recipe_of(other), family.keys()))
    assert isinstance(changed, BlockResult)
    subject = load_from_disk(family.folders[other], ENTRY)
    assert changed.scores == family.scorer.score(subject, family.keys()).scores
    assert evaluator.evaluate(a) == first


def test_a_candidate_feels_nothing_of_what_was_written_into_buffers_that_no_checkpoint_holds(family, evaluator):
    first, other = (work(family.recipe_of(name), family.keys()) for name in ("a", "b"))
    alone = evaluator.evaluate(first)
    evaluator.evaluate(other)
    rope = evaluator.resident.subject.model.model.rotary_emb
    frequencies = rope.inv_freq
    rope.inv_freq.mul_(3.0)
    assert evaluator.evaluate(first) == alone
    rope.register_buffer("inv_freq", torch.ones(3), persistent=False)
    evaluator.evaluate(other)
    assert rope.inv_freq is frequencies
    assert evaluator.evaluate(first) == alone


def leave_traces(model: Any) -> None:
    """What a careless function may do to a model beside its weights."""
    model.generation_config.repetition_penalty = 50.0
    model.config.name_of_mine = 1
    model.config.rope_parameters["rope_theta"] = 3.0
    model.model.layers[0].self_attn.scaling = 7.0
    model.model.layers[0].train()


@pytest.mark.parametrize("then", ["a", "b"])
def test_a_block_feels_nothing_of_what_was_done_to_settings_before_it(family, evaluator, then):
    """Of the same candidate (a) or of the next one (b)."""
    block = work(family.recipe_of(then), family.keys())
    alone = evaluator.evaluate(block)
    evaluator.evaluate(work(family.recipe_of("a"), family.keys()))
    model = evaluator.resident.subject.model
    config, settings = model.config, model.generation_config
    leave_traces(model)
    assert evaluator.evaluate(block) == alone
    assert not hasattr(config, "name_of_mine")
    assert not model.model.layers[0].training
    assert settings.repetition_penalty is None
    assert config.rope_parameters["rope_theta"] != 3.0
    model.config, model.generation_config = (type(each)() for each in (config, settings))
    assert evaluator.evaluate(block) == alone
    assert (model.config, model.generation_config) == (config, settings)
    assert model.config is model.model.layers[0].self_attn.config is config


def test_files_are_scored_block_by_block_as_the_live_model_was_whatever_functions_leave_behind(family, tmp_path):
    class Careless(Suite):
        def score(self, subject, keys):
            scored = super().score(subject, keys)
            leave_traces(subject.model)
            return scored

    scorer = Careless([LmEvalScorer(family.bench.entries, Places(str(family.bench.folder)))])
    made = ResidentEvaluator(scorer, ENTRY, audit=tmp_path / "audit.jsonl")
    publish(family.recipe(0.7, 0.3), tmp_path / "out")
    blocks = [family.keys()[::2], family.keys()[1::2]]
    live = [made.evaluate(work(family.recipe(0.7, 0.3), block)).scores for block in blocks]
    assert made.rescore(tmp_path / "out", blocks[::-1]) == live[0] | live[1]
    made.close()


def test_torch_threads_are_set_for_every_block(family, evaluator):
    torch.set_num_threads(2)
    evaluator.evaluate(work(family.recipe_of("a"), family.keys()))
    assert torch.get_num_threads() == ENTRY.threads


def test_the_evaluation_key_covers_threads_dtype_attention_and_batch_size(family, tmp_path):
    def key(**changes: Any) -> str:
        entry = ENTRY.model_copy(update=changes)
        return ResidentEvaluator(family.scorer, entry, audit=tmp_path / "audit.jsonl").inventory().key

    changes = [{}, {"threads": 2}, {"dtype": "bfloat16"}, {"attention": "sdpa"}, {"batch_size": 7}]
    assert len({key(**change) for change in changes}) == len(changes)
    assert key() == key()


def test_a_directory_without_all_weights_is_refused_by_name(family, tmp_path):
    folder = family.folders["a"]
    (tmp_path / "config.json").write_text((folder / "config.json").read_text().replace('layers": 2', 'layers": 3'))
    for path in folder.iterdir():
        if path.name != "config.json":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(EvaluationError, match=r"missing keys: .*model\.layers\.2"):
        load_from_disk(tmp_path, ENTRY)
    with pytest.raises(SourceError, match="no such model directory"):
        load_from_disk(tmp_path / "absent", ENTRY)
    (tmp_path / "none").mkdir()
    with pytest.raises(SourceError, match=r"is no model: there is no config\.json in it"):
        load_from_disk(tmp_path / "none", ENTRY)
    for config in ("{}", json.dumps(json.loads((folder / "config.json").read_text()) | {"hidden_size": "x"})):
        (tmp_path / "none" / "config.json").write_text(config)
        with pytest.raises(EvaluationError, match="transformers cannot load this model: "):
            load_from_disk(tmp_path / "none", ENTRY)


def forward_passes(made: ResidentEvaluator, work: Work) -> tuple[int, BlockResult | Failed]:
    """How often the model runs for a block, and what comes of it."""
    passes: list[object] = []
    made.resident.load(work.recipe)
    hook = made.resident.subject.model.register_forward_pre_hook(lambda *_: passes.append(1))
    result = made.evaluate(work)
    hook.remove()
    return len(passes), result


def test_a_candidate_that_is_no_language_model_fails_in_the_first_forward_pass_of_its_scoring(family, evaluator):
    count, dead = forward_passes(evaluator, work(family.recipe(0.0, 0.0), family.keys()))
    assert isinstance(dead, Failed)
    assert not dead.retryable
    assert "floor: all logits are equal" in dead.cause
    assert count == 1


def test_the_floor_costs_no_forward_pass_of_its_own_where_scoring_shows_one(family, evaluator, tmp_path):
    """A pass is an eighth of what scoring 15 short items takes: counted, not timed."""
    silent = ResidentEvaluator(family.scorer, ENTRY.model_copy(update={"floor": False}), audit=tmp_path / "b.jsonl")
    for recipe in (family.recipe_of("a"), family.recipe(0.7, 0.3)):
        without, plain = forward_passes(silent, work(recipe, family.keys()))
        count, watched = forward_passes(evaluator, work(recipe, family.keys()))
        assert watched == plain
        assert count == without > 1


@pytest.mark.parametrize("weights", [(0.0, 0.0), (0.7, 0.3)])
def test_a_scorer_that_never_runs_the_model_gets_a_pass_to_look_at(family, tmp_path, weights):
    made = ResidentEvaluator(Unread(family, lambda: None), ENTRY, audit=tmp_path / "audit.jsonl")
    count, result = forward_passes(made, work(family.recipe(*weights), family.keys()))
    assert isinstance(result, Failed) == (weights == (0.0, 0.0))
    assert count == 1


class Unread(Tampering):
    """Scores that no model was asked for."""

    def score(self, subject, keys):
        return Scored(dict.fromkeys(keys, 0.5))


class NothingRight(Tampering):
    """Every answer is wrong."""

    def score(self, subject, keys):
        return Scored(dict.fromkeys(keys, 0.0))


@pytest.mark.parametrize(("looping", "fails"), [({"candidate"}, True), ({"candidate", "b"}, False), (set(), False)])
def test_text_in_loops_fails_a_candidate_unless_a_parent_does_the_same(
    family, tmp_path, monkeypatch, looping: set[str], fails: bool
):
    made = ResidentEvaluator(NothingRight(family, lambda: None), ENTRY, audit=tmp_path / "audit.jsonl")
    recipe = family.recipe(0.7, 0.3)
    who = {hash_of(recipe): "candidate"}
    for name in "ab":
        who[hash_of({"merge_method": "passthrough", "models": [{"model": str(family.folders[name])}]})] = name
    monkeypatch.setattr(
        "search.evaluators.floor.only_loops", lambda *_: who[made.resident.loaded.recipe_hash] in looping
    )
    for _ in range(2):
        result = made.evaluate(work(recipe, family.keys()))
        assert isinstance(result, Failed) == fails
    assert not fails or "in a loop" in result.cause
    silent = ResidentEvaluator(
        NothingRight(family, lambda: None), ENTRY.model_copy(update={"floor": False}), audit=tmp_path / "audit.jsonl"
    )
    assert isinstance(silent.evaluate(work(recipe, family.keys())), BlockResult)


def test_the_floor_is_no_part_of_the_evaluation_key_and_can_be_left_out(family, tmp_path):
    entry = ENTRY.model_copy(update={"floor": False})
    made = ResidentEvaluator(family.scorer, entry, audit=tmp_path / "audit.jsonl")
    assert made.inventory().key == ResidentEvaluator(family.scorer, ENTRY, audit=tmp_path / "a.jsonl").inventory().key
    assert isinstance(made.evaluate(work(family.recipe(0.0, 0.0), family.keys())), BlockResult)


def test_buffers_whose_elements_share_their_memory_are_left_alone():
    module = torch.nn.Module()
    for name, value in (("shared", torch.arange(3.0).expand(2, 3)), ("own", torch.arange(3.0).expand(1, 3))):
        module.register_buffer(name, value, persistent=False)
    unsaved = Unsaved(module)
    module.own.add_(1)
    unsaved.restore()
    assert module.own.tolist() == [[0, 1, 2]]
    assert module.shared.tolist() == [[0, 1, 2]] * 2
