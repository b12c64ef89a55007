"""lm-eval tasks scored item by item, against an oracle that decodes one prompt at a time."""

import ast
import dataclasses
import importlib
import inspect
import logging
import random
from pathlib import Path

import pytest
import torch
from tiny_tasks import SIZES, Bench, folder_with, keys_of, make_model, oracle_scores

from engine.errors import CampaignError
from search.evaluators.contract import Places, Subject, evaluation_key
from search.evaluators.entries import TaskEntry
from search.evaluators.lm_eval import LONG, LmEvalScorer, remembering
from search.ports import SPLITS

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def scorer(bench: Bench) -> LmEvalScorer:
    return LmEvalScorer(bench.entries, Places(str(bench.folder)))


def spell(bench: Bench, **changes: str) -> TaskEntry:
    return bench.entries[0].model_copy(update=changes)


@pytest.mark.parametrize("which", ["a", "b"])
def test_a_block_over_two_kinds_of_task_scores_what_decoding_one_prompt_at_a_time_says(bench, scorer, which):
    subject, keys = getattr(bench, which), keys_of(scorer)
    scores = scorer.score(subject, keys).scores
    assert scores == oracle_scores(bench, subject, keys)
    for skill in ("spell", "pick"):
        assert which == "b" or {scores[key] for key in keys if key.startswith(skill)} == {0.0, 1.0}


def test_a_then_b_then_a_in_one_live_model_gives_the_scores_of_a_twice(bench, scorer):
    live = Subject(make_model(1, bench.a.tokenizer), bench.a.tokenizer)
    keys, scores = keys_of(scorer), []
    for source in (bench.a, bench.b, bench.a):
        live.model.load_state_dict(source.model.state_dict())
        scores.append(scorer.score(live, keys))
    assert scores[0] == scores[2] == scorer.score(bench.a, keys)
    assert scores[1] == scorer.score(bench.b, keys) != scores[0]


def test_a_block_reaches_the_model_in_the_same_batches_whatever_was_scored_before_it(bench, scorer):
    keys = keys_of(scorer)
    blocks = [keys[:7], keys[7:12], keys[12:]]
    shapes: list[tuple[int, ...]] = []
    hook = bench.a.model.register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append(tuple(kwargs.get("input_ids", args[0] if args else None).shape)),
        with_kwargs=True,
    )

    def batches_of(block: list[str]) -> list[tuple[int, ...]]:
        shapes.clear()
        scorer.score(bench.a, block)
        return list(shapes)

    seen = [batches_of(block) for block in blocks]
    again = [batches_of(block) for block in reversed(blocks)][::-1]
    shuffled = [batches_of(random.Random(1).sample(block, len(block))) for block in blocks]
    hook.remove()
    assert seen == again == shuffled
    assert all(seen)


def test_requests_are_built_once_and_answers_never_stay_in_them(bench, scorer, monkeypatch):
    keys = keys_of(scorer)
    first = scorer.score(bench.a, keys)
    task = scorer._places[keys[0]][0]
    monkeypatch.setattr(task.task, "construct_requests", lambda **_: pytest.fail("requests were built again"))
    assert scorer.score(bench.a, keys) == first
    assert all(request.resps == [] for requests in task.requests.values() for request in requests)


def test_items_are_listed_in_file_order_under_keys_made_of_task_and_id(bench, scorer):
    assert {split: len(items) for split, items in scorer.items().items()} == {s: 2 * n for s, n in SIZES.items()}
    first = scorer.items()["search"][0]
    assert (first.key, first.task, first.stratum) == ("spell_search/000", "spell", "")
    assert keys_of(scorer)[: SIZES["search"]] == [f"spell_search/{index:03d}" for index in range(SIZES["search"])]


def test_the_same_question_under_another_id_has_the_same_content(bench, tmp_path):
    copied = (bench.folder / "data" / "spell_search.jsonl").read_text().replace('"id": "0', '"id": "9')
    (tmp_path / "other.jsonl").write_text(copied)
    folder = folder_with(tmp_path, bench, "leak", ("data/spell_search.jsonl", "other.jsonl"))
    items = LmEvalScorer([spell(bench, holdout="leak")], Places(folder)).items()
    assert [item.content for item in items["search"]] == [item.content for item in items["holdout"]]
    assert not {item.key for item in items["search"]} & {item.key for item in items["holdout"]}


def test_data_files_are_found_beside_their_yaml_from_any_working_directory(bench, scorer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    elsewhere = LmEvalScorer(bench.entries, Places(str(bench.folder)))
    assert elsewhere.items() == scorer.items()


def test_the_evaluation_key_is_the_same_in_another_folder_and_changes_with_what_is_asked(bench, scorer, tmp_path):
    def key(*changes: tuple[str, str], folder: str, **entry: str) -> str:
        (tmp_path / folder).mkdir()
        path = folder_with(tmp_path / folder, bench, "spell_more", *changes)
        names = {split: "spell_more" if split == "search" else f"spell_{split}" for split in SPLITS}
        return evaluation_key(LmEvalScorer([spell(bench, **names, **entry)], Places(path)), {})

    first = key(folder="one")
    assert key(folder="two") == first
    assert key(("max_gen_toks: 4", "max_gen_toks: 3"), folder="three") != first
    assert key(('"{{question}}="', '"{{question}} ="'), folder="four") != first
    assert key(("data/spell_search", "data/spell_holdout"), folder="five") != first


def test_an_unknown_task_names_the_nearest_one(bench):
    with pytest.raises(CampaignError, match="'spell', search: lm-eval has no task 'spel_search', did you mean"):
        LmEvalScorer([spell(bench, search="spel_search")], Places(str(bench.folder)))


def test_an_unknown_metric_names_the_nearest_one(bench):
    with pytest.raises(CampaignError, match="no metric 'exact_mach', did you mean 'exact_match'"):
        LmEvalScorer([spell(bench, metric="exact_mach")], Places(str(bench.folder)))


def test_a_metric_that_exists_only_for_a_whole_task_is_refused(bench):
    with pytest.raises(CampaignError, match="'f1' of lm-eval task 'pick_search' exists only for a whole task"):
        LmEvalScorer([bench.entries[1].model_copy(update={"metric": "f1"})], Places(str(bench.folder)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("do_sample: false", "do_sample: true"), "samples its answers"),
        (("data/spell_search.jsonl", "data/missing.jsonl"), "data/missing.jsonl"),
        (("output_type: generate_until", "output_type: generate"), "cannot be loaded.*output_type"),
        (("output_type:", "unsafe_code: true\noutput_type:"), "runs code"),
    ],
)
def test_a_task_that_cannot_give_scores_is_refused_by_name(bench, tmp_path, change, message):
    folder = folder_with(tmp_path, bench, "odd", change)
    with pytest.raises(CampaignError, match=message) as caught:
        LmEvalScorer([spell(bench, search="odd")], Places(folder))
    assert "'odd'" in str(caught.value)


def test_a_folder_that_is_not_there_is_refused_by_path(bench, tmp_path):
    with pytest.raises(CampaignError, match="absent', a folder expected"):
        LmEvalScorer(bench.entries, Places(str(tmp_path / "absent")))


def test_two_rows_with_one_id_are_refused(bench, tmp_path):
    rows = (bench.folder / "data" / "spell_search.jsonl").read_text()
    (tmp_path / "twice.jsonl").write_text(rows.replace('"id": "003"', '"id": "002"'))
    folder = folder_with(tmp_path, bench, "twice", ("data/spell_search.jsonl", "twice.jsonl"))
    with pytest.raises(CampaignError, match="'twice' has two rows with id '002'"):
        LmEvalScorer([spell(bench, search="twice")], Places(folder))


FILTERED = """
filter_list:
  - {name: all, filter: [{function: take_first}]}
  - {name: first-letter, filter: [{function: regex, regex_pattern: "^([a-z])"}, {function: take_first}]}
"""


def test_a_task_with_two_answer_filters_needs_the_filter_in_its_metric(bench, tmp_path):
    folder = folder_with(tmp_path, bench, "filtered", ("doc_to_target: answer", "doc_to_target: answer" + FILTERED))
    entry = spell(bench, search="filtered", selection="filtered", holdout="filtered")
    with pytest.raises(CampaignError, match="one of exact_match,all, exact_match,first-letter; got 'exact_match'"):
        LmEvalScorer([entry], Places(folder))
    scores = {}
    for name in ("all", "first-letter"):
        scorer = LmEvalScorer([entry.model_copy(update={"metric": f"exact_match,{name}"})], Places(folder))
        scores[name] = scorer.score(bench.a, keys_of(scorer)).scores
    assert sum(scores["all"].values()) > 0 == sum(scores["first-letter"].values())


def test_few_shot_prompts_do_not_depend_on_the_block_that_is_scored_first(bench, tmp_path):
    shots = ("output_type:", "num_fewshot: 2\nfewshot_split: test\noutput_type:")
    folder = folder_with(tmp_path, bench, "shots", shots, ("\\n", ";"))
    prompts = []
    for order in (1, -1):
        scorer = LmEvalScorer([spell(bench, **dict.fromkeys(SPLITS, "shots"))], Places(folder))
        keys = keys_of(scorer)
        for key in keys[::order]:
            loaded, index = scorer._places[key]
            prompts.append((key, loaded.request_copies(index, None)[0].args[0]))
    assert dict(prompts[: len(keys)]) == dict(prompts[len(keys) :])
    assert all(prompt.count("=") == 3 for _, prompt in prompts)


def test_a_user_function_that_writes_into_its_document_does_not_change_the_next_score(bench, tmp_path):
    right = "{'right': float(doc['answer'][:-1] == results[0])}"
    (tmp_path / "judges.py").write_text(f"def judge(doc, results):\n    doc['answer'] += 'x'\n    return {right}\n")
    own = ("doc_to_target: answer", "doc_to_target: answer\nprocess_results: !function judges.judge")
    folder = folder_with(tmp_path, bench, "own", own, ("metric: exact_match", "metric: right"))
    scorer = LmEvalScorer([spell(bench, metric="right", **dict.fromkeys(SPLITS, "own"))], Places(folder))
    keys = keys_of(scorer)
    first = scorer.score(bench.a, keys)
    assert scorer.score(bench.a, keys) == first
    assert sum(first.scores.values()) == len(keys) / 2


def test_nothing_is_printed_while_tasks_are_loaded_and_scored(bench, capfd):
    scorer = LmEvalScorer(bench.entries, Places(str(bench.folder)))
    scorer.score(Subject(make_model(3, bench.a.tokenizer), bench.a.tokenizer), keys_of(scorer))
    assert capfd.readouterr() == ("", "")


def test_what_lm_eval_has_to_say_reaches_a_handler_that_asks_for_it(bench, caplog):
    with caplog.at_level(logging.WARNING, logger="lm_eval"):
        scorer = LmEvalScorer(bench.entries, Places(str(bench.folder)))
        scorer.score(Subject(make_model(3, bench.a.tokenizer), bench.a.tokenizer), keys_of(scorer)[:2])
    assert any("already-initialized model" in record.message for record in caplog.records)


def test_scoring_leaves_the_weights_as_they_were(bench, scorer):
    before = {name: value.clone() for name, value in bench.b.model.state_dict().items()}
    scorer.score(bench.b, keys_of(scorer))
    assert all(torch.equal(value, before[name]) for name, value in bench.b.model.state_dict().items())


# --------------------------------------------------------------------------------------------- what we use of lm-eval

SURFACE = {
    "lm_eval.api.task:datasets": ("", "disable_progress_bars exceptions"),
    "lm_eval.tasks:TaskManager": ("include_path include_defaults", "all_tasks load task_index"),
    "lm_eval.tasks._yaml_loader:load_yaml": ("", ""),
    "lm_eval.api.model:LM": ("", "loglikelihood loglikelihood_rolling generate_until apply_chat_template"),
    "lm_eval.models.huggingface:HFLM": ("pretrained tokenizer batch_size device", "tok_encode"),
    "lm_eval.api.task:ConfigurableTask": (
        "",
        "set_fewshot_seed set_config has_test_docs test_docs has_validation_docs validation_docs has_training_docs "
        "training_docs eval_docs fewshot_context construct_requests process_results doc_to_target doc_to_prefix "
        "aggregation higher_is_better OUTPUT_TYPE VERSION",
    ),
    "lm_eval.api.task:ConfigurableTask.fewshot_context": (
        "doc num_fewshot system_instruction apply_chat_template fewshot_as_multiturn chat_template gen_prefix",
        "",
    ),
    "lm_eval.api.task:ConfigurableTask.construct_requests": ("doc ctx metadata apply_chat_template chat_template", ""),
    "lm_eval.api.samplers:ContextSampler": ("", "replace_df"),
    "lm_eval.filters:FilterEnsemble": ("", "name apply"),
    "lm_eval.api.instance:Instance": ("doc", "request_type repeats resps filtered_resps args"),
}
"""Names of lm-eval 0.4.13 → parameters that we give, attributes that we read (T14)."""


def imported_of_lm_eval() -> set[str]:
    """module:name of every import from lm-eval in our sources."""
    trees = [ast.parse(path.read_text()) for path in (ROOT / "search").rglob("*.py")]
    found = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {f"{n.module}:{a.name}" for n in found if (n.module or "").split(".")[0] == "lm_eval" for a in n.names}


def test_everything_that_we_import_from_lm_eval_is_in_the_table():
    assert imported_of_lm_eval() - {"lm_eval.models.vllm_causallms:VLLM"} <= SURFACE.keys()  # that one imports vllm


@pytest.mark.parametrize("name", SURFACE)
def test_lm_eval_has_the_names_parameters_and_attributes_that_we_use(name):
    module, _, path = name.partition(":")
    found = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    parameters, attributes = (text.split() for text in SURFACE[name])
    if parameters:
        accepted = inspect.signature(found).parameters
        open_ended = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in accepted.values())
        assert not [each for each in parameters if each not in accepted and not open_ended]
    known = {field.name for field in dataclasses.fields(found)} if dataclasses.is_dataclass(found) else set()
    assert not [each for each in attributes if not hasattr(found, each) and each not in known]


def test_a_text_is_tokenized_once_and_a_long_one_every_time():
    asked: list[tuple[str, bool]] = []

    def encode(text: str, add_special_tokens: bool = True) -> list[int]:
        asked.append((text, add_special_tokens))
        return [len(text)]

    tokens = remembering(encode)
    tokens("one").append(7)  # whoever got them may do so
    assert tokens("one") == [3]
    assert tokens("one", add_special_tokens=False) == [3]
    long = "x" * (LONG + 1)
    assert tokens(long) == tokens(long) == [LONG + 1]
    assert asked == [("one", True), ("one", False), (long, True), (long, True)]
