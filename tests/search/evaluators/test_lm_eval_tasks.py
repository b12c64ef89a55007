"""What a campaign may ask of an lm-eval task: metrics, documents, few-shot, templates, generation, a cut in three."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_tasks import ANSWER_TOKENS, SIZES, Bench, folder_with, greedy_answer, keys_of

from engine.errors import CampaignError, EvaluationError
from search.evaluators.contract import Places, Subject, evaluation_key
from search.evaluators.entries import TaskEntry
from search.evaluators.lm_eval import LmEvalScorer
from search.judging.forwards import with_forwards
from search.judging.objectives import Facts
from search.ports import SPLITS

CUT = {"search": 6, "selection": 2, "holdout": 4}
CHAT = (
    "{% for m in messages %}{{ m['role'][0] }}{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}a{% endif %}"
)


def pick(**changes: Any) -> TaskEntry:
    return TaskEntry(**{"name": "pick", "metric": "acc"} | {split: f"pick_{split}" for split in SPLITS} | changes)


def spell(**changes: Any) -> TaskEntry:
    return TaskEntry(**{"name": "spell"} | {split: f"spell_{split}" for split in SPLITS} | changes)


def one(task: str = "spell_search", **changes: Any) -> TaskEntry:
    """An entry of one task that is cut in three."""
    return TaskEntry(**{"name": "one", "task": task, "split": CUT} | changes)


def made(bench: Bench, *entries: TaskEntry, folder: str | None = None, **places: Any) -> LmEvalScorer:
    return LmEvalScorer(entries, Places(folder or str(bench.folder), **places))


def prompts(scorer: LmEvalScorer) -> dict[str, str]:
    return {
        item.key: scorer._places[item.key][0].request_copies(scorer._places[item.key][1], None)[0].args[0]
        for split in SPLITS
        for item in scorer.items()[split]
    }


def test_the_first_metric_is_the_score_and_the_others_are_measures(bench: Bench, tmp_path: Path) -> None:
    more = ("metric_list:", "metric_list:\n  - {metric: acc_norm}\n  - {metric: brier_score}")
    folder = folder_with(tmp_path, bench, "many", more, template="pick_search")
    scorer = made(bench, one("many", metric=["acc_norm", "acc", "brier_score"]), folder=folder)
    alone = made(bench, one("many", metric="acc"), folder=folder)
    keys = keys_of(scorer)
    scored = scorer.score(bench.a, keys)
    assert scored.measures["acc"] == alone.score(bench.a, keys).scores
    assert scored.scores == made(bench, one("many", metric="acc_norm"), folder=folder).score(bench.a, keys).scores
    assert all(0 <= value <= 2 for value in scored.measures["brier_score"].values())
    assert set(scored.measures) == {"acc", "brier_score"}  # nothing is generated, so no tokens


def test_generating_tasks_measure_the_tokens_of_each_answer(bench: Bench) -> None:
    scorer = made(bench, spell())
    keys = keys_of(scorer)
    tokens = scorer.score(bench.a, keys).measures["tokens"]
    assert tokens == {key: float(len(greedy_answer(bench.a, bench.rows[key]["question"]))) for key in keys}
    assert 0 < max(tokens.values()) <= ANSWER_TOKENS


def test_forwards_are_the_layers_that_really_run_one_after_another(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted while one item is answered by itself. An answer that is cut off has no pass that ends it; tokens that are
    no text, such as padding, are not counted, and answers with such are left out here."""
    model, padding = bench.a.model, bench.a.tokenizer.pad_token_id
    calls, said, generate = [], [], model.generate
    monkeypatch.setattr(model, "generate", lambda *args, **more: said.append(generate(*args, **more)) or said[-1])
    hooks = [layer.register_forward_hook(lambda *_: calls.append(1)) for layer in model.model.layers]
    compared = set()
    for scorer in (made(bench, spell()), made(bench, pick())):
        for key in keys_of(scorer):
            calls.clear()
            scored = scorer.score(bench.a, [key])
            if scorer.measures() and padding in said[-1]:
                continue
            tokens = scored.measures.get("tokens", {}).get(key)
            found = with_forwards(Facts(scored.scores, scored.measures), layers=len(hooks), read=())
            assert found.measures["forwards"] == {key: len(calls) + len(hooks) * (tokens == ANSWER_TOKENS)}
            compared.add(tokens)
    for hook in hooks:
        hook.remove()
    assert {None, 0.0, 1.0, ANSWER_TOKENS} <= compared


def test_a_metric_of_which_less_is_better_counts_negatively(bench: Bench, tmp_path: Path) -> None:
    folder = folder_with(tmp_path, bench, "less", ("higher_is_better: true", "higher_is_better: false"))
    scorer = made(bench, one("less"), folder=folder)
    upwards = made(bench, one("less", direction="maximize"), folder=folder)
    keys = keys_of(scorer)
    scores = scorer.score(bench.a, keys).scores
    assert scores == {key: -value for key, value in upwards.score(bench.a, keys).scores.items()}
    assert set(scores.values()) == {0.0, -1.0}


def test_translations_are_scored_sentence_by_sentence(bench: Bench, tmp_path: Path) -> None:
    import sacrebleu

    more = ("metric_list: [", "metric_list: [{metric: ter}, {metric: chrf}, ")
    folder = folder_with(tmp_path, bench, "translated", more)
    scorer = made(bench, one("translated", metric=["ter", "chrf", "exact_match"]), folder=folder)
    keys = keys_of(scorer)
    scored, answers = scorer.score(bench.a, keys), scorer.answers(bench.a, keys)[0]
    for key in keys:
        said, right = answers[key].answer, bench.rows[key.replace("translated", "spell_search")]["answer"]
        assert scored.measures["chrf"][key] == pytest.approx(sacrebleu.sentence_chrf(said, [right]).score)
        assert scored.scores[key] == pytest.approx(-sacrebleu.sentence_ter(said, [right]).score)  # less is better
    assert len(set(scored.measures["chrf"].values())) > 1


def test_likelihoods_of_answers_are_those_of_one_forward_pass_over_each(bench: Bench, tmp_path: Path) -> None:
    kind = ("output_type: generate_until", 'output_type: loglikelihood\ntarget_delimiter: ""')
    target = ("doc_to_target: answer", "doc_to_target: \"{{answer[:2] or 'q'}}\"")  # some answers are empty
    metrics = ("[{metric: exact_match, aggregation: mean", "[{metric: perplexity}, {metric: acc, aggregation: mean")
    folder = folder_with(tmp_path, bench, "likely", kind, target, metrics)
    scorer = made(bench, one("likely", metric=["perplexity", "acc"]), folder=folder)
    keys = keys_of(scorer)
    scored = scorer.score(bench.a, keys)
    for key in keys:
        row = bench.rows[key.replace("likely", "spell_search")]
        asked, right = map(bench.a.tokenizer.encode, (row["question"] + "=", row["answer"][:2] or "q"))
        with torch.no_grad():
            said = bench.a.model(torch.tensor([asked + right])).logits[0, len(asked) - 1 : -1].log_softmax(-1)
        nats = -sum(float(said[place, token]) for place, token in enumerate(right))
        assert scored.scores[key] == pytest.approx(-nats, abs=1e-4)  # less is better
        assert scored.measures["acc"][key] == float(said.argmax(-1).tolist() == right)
    assert set(scored.measures["acc"].values()) == {0.0, 1.0}


ROLLING = """
task: rolling
dataset_path: json
dataset_kwargs: {data_files: {test: data/spell_search.jsonl}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: question
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, {metric: bits_per_byte}]
"""


def test_likelihoods_of_whole_documents_are_scored_item_by_item(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(bench.folder / "data")
    (tmp_path / "rolling.yaml").write_text(ROLLING)
    scorer = made(bench, one("rolling", metric=["byte_perplexity", "bits_per_byte"]), folder=str(tmp_path))
    scored = scorer.score(bench.a, keys_of(scorer))
    for key, score in scored.scores.items():
        assert score < 0  # minus nats per byte
        assert scored.measures["bits_per_byte"][key] == pytest.approx(-score / math.log(2))


JUDGE = "def judge(doc, results):\n    return {'right': 1.0, 'pair': (1, 2)}\n"
OWN = ("doc_to_target: answer", "doc_to_target: answer\nprocess_results: !function odd.judge")


@pytest.mark.parametrize(
    ("metric", "says"),
    [
        ("exact_match", "has no metric 'exact_match', .* It reports pair, right."),
        ("pair", "exists only for a whole task, .*: name one of right"),
        ("right", "does not say whether more of 'right' is better: say direction"),
    ],
)
def test_a_task_is_asked_what_it_reports_before_anything_is_scored(
    bench: Bench, tmp_path: Path, metric: str, says: str
) -> None:
    (tmp_path / "odd.py").write_text(JUDGE)
    folder = folder_with(tmp_path, bench, "own", OWN)
    with pytest.raises(CampaignError, match=f"task 'one', task: .*{says}"):
        made(bench, one("own", metric=metric), folder=folder)
    assert made(bench, one("own", metric="right", direction="minimize"), folder=folder)


def test_one_task_is_cut_in_three_by_content(bench: Bench) -> None:
    scorer = made(bench, one())
    items = scorer.items()
    assert {split: len(items[split]) for split in SPLITS} == CUT
    assert len({item.text for split in SPLITS for item in items[split]}) == SIZES["search"]
    again = made(bench, one(), seed=1).items()
    assert again["holdout"] != items["holdout"]
    assert made(bench, one()).items() == items


def test_documents_may_come_from_another_part_of_the_data(bench: Bench, tmp_path: Path) -> None:
    parts = ("{test: data/spell_search.jsonl}}", "{test: data/spell_search.jsonl, train: data/spell_holdout.jsonl}}")
    folder = folder_with(
        tmp_path, bench, "parts", parts, ("test_split: test", "test_split: test\ntraining_split: train")
    )
    scorer = made(bench, one("parts", docs="train", split={"search": 4, "selection": 2, "holdout": 2}), folder=folder)
    assert sum(len(scorer.items()[split]) for split in SPLITS) == SIZES["holdout"]
    with pytest.raises(
        CampaignError, match="docs: lm-eval task 'parts' has no validation documents; it has test, train"
    ):
        made(bench, one("parts", docs="validation"), folder=folder)


def test_generation_arguments_of_the_campaign_stand_over_those_of_the_task(bench: Bench, tmp_path: Path) -> None:
    short = made(bench, spell(gen_kwargs={"max_gen_toks": 1}))
    assert set(short.score(bench.a, keys_of(short)).measures["tokens"].values()) <= {0.0, 1.0}
    assert evaluation_key(short, {}) != evaluation_key(made(bench, spell()), {})
    folder = folder_with(tmp_path, bench, "odd", ("do_sample: false", "do_sample: true"))
    greedy = made(bench, one("odd", gen_kwargs={"do_sample": False}), folder=folder)
    assert greedy.score(bench.a, keys_of(greedy)[:2]).scores
    with pytest.raises(CampaignError, match="gen_kwargs: lm-eval task 'pick_search' generates nothing"):
        made(bench, pick(gen_kwargs={"max_gen_toks": 1}))


def test_few_shot_examples_show_neither_a_sealed_item_nor_the_item_itself(bench: Bench, tmp_path: Path) -> None:
    folder = shots_folder(bench, tmp_path)
    scorer = made(bench, one("shots", num_fewshot=2), folder=folder)
    rows = {
        item.key: bench.rows[item.key.replace("shots", "spell_search")] for s in SPLITS for item in scorer.items()[s]
    }
    sealed = {rows[item.key]["question"] for split in ("selection", "holdout") for item in scorer.items()[split]}
    for key, prompt in prompts(scorer).items():
        *examples, asked, _ = prompt.split("=")
        shown = {example.rpartition("\n\n")[2] for example in examples}
        assert len(examples) == 2
        assert asked.endswith(rows[key]["question"])
        assert not shown & (sealed | {rows[key]["question"]})
    with pytest.raises(CampaignError, match="num_fewshot: lm-eval task 'shots' has 6 examples"):
        made(bench, one("shots", num_fewshot=6), folder=folder)


def test_chat_template_and_system_instruction_shape_the_prompt_and_the_key(bench: Bench) -> None:
    import copy

    tokenizer = copy.deepcopy(bench.a.tokenizer)
    tokenizer.chat_template = CHAT
    plain, told = made(bench, spell()), made(bench, spell(chat_template=True, system_instruction="be"))
    keys = keys_of(told)[:1]
    told.score(Subject(bench.a.model, tokenizer), keys)
    loaded, index = told._places[keys[0]]
    question = bench.rows[keys[0]]["question"]
    assert loaded.requests[index][0].args[0] == f"sbeu{question}=a"
    assert evaluation_key(plain, {}) != evaluation_key(told, {})
    with pytest.raises(EvaluationError, match="chat_template: the candidates' tokenizer has none"):
        told.score(bench.a, keys)
    without = made(bench, spell(system_instruction="be"))
    assert next(iter(prompts(without).values())).startswith("be")


def shots_folder(bench: Bench, place: Path) -> str:
    """A task `shots` whose own documents are its examples."""
    return folder_with(place, bench, "shots", ("output_type:", "fewshot_split: test\noutput_type:"), ("\\n", ";"))


def test_another_tokenizer_is_shown_the_same_examples(bench: Bench, tmp_path: Path) -> None:
    import copy

    told = made(bench, one("shots", num_fewshot=2, chat_template=True), folder=shots_folder(bench, tmp_path))
    keys, seen = keys_of(told), []
    for template in (CHAT, CHAT, CHAT.replace("'role'][0]", "'role'][1]")):
        tokenizer = copy.deepcopy(bench.a.tokenizer)
        tokenizer.chat_template = template
        scores = told.score(Subject(bench.a.model, tokenizer), keys).scores
        loaded, _ = told._places[keys[0]]
        seen.append(([loaded.requests[index][0].args[0] for index in sorted(loaded.requests)], scores))
    assert seen[0] == seen[1]
    questions = [[line.partition("=")[0][1:] for line in prompt.splitlines()] for prompt in seen[0][0]]
    assert questions == [[line.partition("=")[0][1:] for line in prompt.splitlines()] for prompt in seen[2][0]]


def test_scores_are_shared_only_with_who_was_shown_the_same_examples(bench: Bench, tmp_path: Path) -> None:
    folder, data, settings = shots_folder(bench, tmp_path), tmp_path / "data", []
    data.unlink()  # a link to the bench's
    shutil.copytree(bench.folder / "data", data)
    file = data / "spell_search.jsonl"
    for lines in (file.read_text().splitlines(), file.read_text().splitlines()[::-1]):
        file.write_text("\n".join(lines) + "\n")
        few, none = (made(bench, one("shots", num_fewshot=shots), folder=folder) for shots in (2, 0))
        settings.append((few.settings(), none.settings()))
    assert len({*settings[0][0].values()}) == len(settings[0][0])
    assert settings[0][0].keys() == settings[1][0].keys()
    assert {*settings[0][0].values()}.isdisjoint(settings[1][0].values())
    assert settings[0][1] == settings[1][1]


def test_one_lm_eval_task_in_two_entries_is_refused(bench: Bench) -> None:
    with pytest.raises(CampaignError, match="lm-eval task 'spell_search' is named in 'spell', too"):
        made(bench, spell(), one())


def test_a_search_on_a_public_test_set_is_refused_unless_it_is_allowed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"spell_search": "GSM8K", "spell_holdout": "MATH"}
    monkeypatch.setattr("search.evaluators.lm_eval.public_set", lambda task, docs: known.get(task.config.task))
    with pytest.raises(CampaignError, match=r"task 'spell', search: .* is the public test set GSM8K: .*allow_public"):
        made(bench, spell())
    assert made(bench, spell(), allow_public=True).notes() == ["search used items of the public test set GSM8K"]
