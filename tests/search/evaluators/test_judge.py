"""Answers graded by another model, with a stand-in for its endpoint that fails on purpose."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from judge_server import Fault, JudgeServer, Reply, choice_of, serving
from pydantic import ValidationError
from tiny_tasks import Bench, greedy_answer, keys_of

from engine.errors import CampaignError, EvaluationError
from search.evaluators.contract import Places, Unreachable, digest, evaluation_key, former_key
from search.evaluators.entries import JudgeEntry, TaskEntry
from search.evaluators.judge import Judge, JudgeScorer
from search.evaluators.lm_eval import Answer, LmEvalScorer
from search.ports import SPLITS

SECRET = "sk-not-for-any-log"
PROMPT = "Q: {question}\nA: {answer}\nRight: {reference}\nGrade from 0 to 10."


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with serving(lambda prompt: f"I say {len(prompt) % 11}.") as state:
        yield state


def judge(server: JudgeServer, waits: list[float] | None = None, **changes: Any) -> Judge:
    entry = JudgeEntry(**{"base_url": server.url, "model": "m", "prompt": PROMPT} | changes)
    return Judge(entry, "t", origin="c.yml", sleep=[].append if waits is None else waits.append)


def answers(*texts: str) -> dict[str, Answer]:
    return {f"i/{text}": Answer("q", text, "r") for text in texts}


def test_answers_of_the_live_model_are_graded_in_the_campaigns_prompt(bench: Bench, server: JudgeServer) -> None:
    server.reply = lambda prompt: "10" if prompt.split("A: ")[1].startswith("x") else "4 of 10"
    entry = JudgeEntry(base_url=server.url, model="m", prompt="{question}A: {answer}|{reference}")
    task = TaskEntry(name="spell", judge=entry, **{split: f"spell_{split}" for split in SPLITS})
    scorer = JudgeScorer([task], LmEvalScorer([task], Places(str(bench.folder))))
    keys = keys_of(scorer)
    scored = scorer.score(bench.a, keys)
    expected = {key: greedy_answer(bench.a, bench.rows[key]["question"]) for key in keys}
    prompts = {body["messages"][0]["content"] for body in server.asked}
    rows = bench.rows
    assert prompts == {f"{rows[key]['question']}=A: {expected[key]}|{rows[key]['answer']}" for key in keys}
    assert scored.scores == {key: 1.0 if expected[key].startswith("x") else 0.4 for key in keys}
    assert scored.measures.keys() == scorer.measures() == {"exact_match", "tokens"}
    asked = len(server.asked)
    assert scorer.score(bench.a, keys) == scored
    assert len(server.asked) == asked  # nothing was asked twice
    assert scorer.notes() == ["answers were graded by m"]


def test_scores_are_shared_where_question_and_judge_are_the_same(bench: Bench, server: JudgeServer) -> None:
    def settings(**changes: Any) -> dict[str, str]:
        asked = JudgeEntry(**{"base_url": server.url, "model": "m", "prompt": PROMPT} | changes)
        task = TaskEntry(name="spell", judge=asked, **{split: f"spell_{split}" for split in SPLITS})
        plain = LmEvalScorer([task], Places(str(bench.folder)))
        found = JudgeScorer([task], plain).settings()
        assert found.keys() == plain.settings().keys()
        return dict(found)

    assert settings() == settings(timeout_s=1) == settings(base_url="http://elsewhere")
    assert {*settings().values()}.isdisjoint(settings(model="n").values())


def test_items_that_no_split_takes_have_no_settings(bench: Bench, server: JudgeServer) -> None:
    entry = JudgeEntry(base_url=server.url, model="m", prompt=PROMPT)
    task = TaskEntry(name="spell", judge=entry, task="spell_search", split={"search": 1, "selection": 1, "holdout": 1})
    scorer = JudgeScorer([task], LmEvalScorer([task], Places(str(bench.folder))))
    assert scorer.settings().keys() == {item.key for items in scorer.items().values() for item in items}


def test_a_grade_is_asked_once_and_kept_in_the_file_for_later_runs(server: JudgeServer, tmp_path: Path) -> None:
    cache = tmp_path / "grades.jsonl"
    first = judge(server, cache=str(cache)).grade(answers("a", "bb", "ccc"))
    with cache.open("a") as file:
        file.write('{"asked": "torn')
    assert judge(server, cache=str(cache)).grade(answers("ccc", "a", "bb")) == first
    assert len(server.asked) == 3
    judge(server, cache=str(cache), model="another").grade(answers("a"))
    assert len(server.asked) == 4


def test_braces_in_an_answer_stay_as_they_are(server: JudgeServer) -> None:
    judge(server).grade({"i": Answer("q", "{reference} {question}", "secret")})
    assert "A: {reference} {question}\n" in server.asked[0]["messages"][0]["content"]


@pytest.mark.parametrize("fault", [(429, {"Retry-After": "7"}), (500, {}), (503, {}), "drop", "garbage"])
def test_a_busy_endpoint_is_asked_again_after_growing_pauses(server: JudgeServer, fault: Any) -> None:
    waits: list[float] = []
    server.faults = [fault] * 3
    assert judge(server, waits, concurrency=1).grade(answers("a"))
    assert waits == ([7.0] * 3 if isinstance(fault, tuple) and fault[1] else [0.5, 1.0, 2.0])


def test_an_endpoint_that_stays_silent_is_a_passing_failure(server: JudgeServer) -> None:
    server.faults = ["slow", (500, {})]
    with pytest.raises(ConnectionError, match=f"judge at {server.url}: HTTP 500, 2 attempts"):
        judge(server, retries=1, timeout_s=0.2).grade(answers("a"))


@pytest.mark.parametrize(
    ("status", "error"), [(400, EvaluationError), (401, Unreachable), (404, Unreachable), (302, Unreachable)]
)
def test_a_refusal_of_the_answer_fails_it_any_other_is_an_outage_and_a_redirection_is_not_followed(
    server: JudgeServer, status: int, error: type[Exception]
) -> None:
    server.faults = [(status, {"Location": server.url})]
    with pytest.raises(error, match=f"HTTP {status} for model 'm'"):
        judge(server).grade(answers("a"))
    assert len(server.asked) == 1


def test_grades_that_came_before_an_outage_are_kept_and_nobody_is_asked_after_it(server: JudgeServer) -> None:
    made = judge(server, retries=0, concurrency=1)
    server.faults = [(500, {})]
    with pytest.raises(Unreachable):
        made.grade(answers("a", "b", "c"))
    assert len(server.asked) == 1
    server.reply = lambda prompt: server.faults.append((503, {})) or "5"  # type: ignore[func-returns-value]
    with pytest.raises(Unreachable, match="HTTP 503, 1 attempt"):
        made.grade(answers("a", "b", "c"))
    server.faults.clear()
    server.reply = lambda prompt: "5"
    assert made.grade(answers("a", "b", "c")) == dict.fromkeys(answers("a", "b", "c"), 0.5)
    assert len(server.asked) == 5


@pytest.mark.parametrize(
    ("faults", "says"),
    [
        ([(500, {})] * 2, "HTTP 500, 2 attempts"),
        ([(401, {})], "HTTP 401 for model 'm', 1 attempt"),
        (["slow", "slow"], "no answer in time, 2 attempts"),
        ([(500, {})], None),
        ([], None),
    ],
)
def test_a_judge_that_does_not_answer_is_found_at_the_start(
    server: JudgeServer, faults: list[Fault], says: str | None
) -> None:
    made = judge(server, retries=1, timeout_s=0.2)
    server.faults = list(faults)
    if says is None:
        made.probe()
        return
    with pytest.raises(
        CampaignError, match=f"c.yml: task 't': judge at {server.url}: {says}. Nothing is scored before"
    ):
        made.probe()


def test_a_campaign_that_is_repeated_from_its_grades_asks_for_no_judge(server: JudgeServer, tmp_path: Path) -> None:
    cache = str(tmp_path / "grades.jsonl")
    judge(server, cache=cache).grade(answers("a"))
    judge(server, cache=cache, base_url="http://127.0.0.1:1/v1").probe()
    with pytest.raises(CampaignError, match="Connection refused"):
        judge(server, base_url="http://127.0.0.1:1/v1").probe()


@pytest.mark.parametrize(
    ("reply", "keys", "score"),
    [
        ("Grade: 7/10", {}, 0.7),
        ("so: [[3]]", {"score": r"\[\[(\d+)\]\]", "low": 1, "high": 5}, 0.5),
        ('Well: {"why": "so", "grade": 2.5}', {"score_key": "grade"}, 0.25),
        ("none", {}, None),
        ("11", {}, None),
        ('{"grade": "high"}', {"score_key": "grade"}, None),
        ("{}", {"score_key": "grade"}, None),
    ],
)
def test_the_grade_is_read_from_the_reply_and_a_judge_that_grades_nothing_is_found_at_the_start(
    server: JudgeServer, reply: str, keys: dict[str, Any], score: float | None
) -> None:
    server.reply = lambda prompt: reply
    if score is not None:
        assert judge(server, **keys).grade(answers("a")) == {"i/a": pytest.approx(score)}
        return
    with pytest.raises(CampaignError, match=r"^c\.yml: .* no grade from 0 to 10 in .*, 3 attempts\. Nothing is scored"):
        judge(server, **keys).probe()


NOTHING = choice_of(None)
FILTERED = choice_of(None, finish_reason="content_filter")
THOUGHT = choice_of("", finish_reason="length")
CUT = choice_of("I would say 1", finish_reason="length")
NO_GRADES: dict[str, tuple[Reply, str, int]] = {
    "no": (lambda prompt: "none", "no grade from 0 to 10 in 'none'", 3),
    "null": (lambda prompt: NOTHING, "a reply without text", 5),
    "filter": (lambda prompt: FILTERED, "a reply without text, finish_reason 'content_filter'", 5),
    "thought": (lambda prompt: THOUGHT, "without text, .*cut at judge.max_tokens 256: raise that, --resume takes", 5),
    "cut": (lambda prompt: CUT, "no grade .* in 'I would say 1' .cut at judge.max_tokens 256: raise that", 3),
}


@pytest.mark.parametrize("kind", NO_GRADES)
def test_a_judge_that_grades_nobody_is_an_outage(server: JudgeServer, kind: str) -> None:
    server.reply, says, attempts = NO_GRADES[kind]
    with pytest.raises(Unreachable, match=f"judge at .*: .*{says}.*, {attempts} attempts, nor a grade for a made-up"):
        judge(server).grade(answers("a"))


@pytest.mark.parametrize("kind", NO_GRADES)
def test_an_answer_that_is_not_graded_by_a_judge_that_grades_others_fails(server: JudgeServer, kind: str) -> None:
    reply, says, attempts = NO_GRADES[kind]
    server.reply = lambda prompt: reply(prompt) if "A: bad" in prompt else "5"
    with pytest.raises(EvaluationError, match=f"judge m: .*{says}.*; a made-up answer is graded"):
        judge(server).grade(answers("bad"))
    assert len(server.asked) == attempts + 2  # the made-up one, and this one once more


@pytest.mark.parametrize("kind", NO_GRADES)
@pytest.mark.parametrize("bad", [1, 3, 6])
def test_a_judge_that_is_itself_again_fails_nobody(server: JudgeServer, kind: str, bad: int) -> None:
    reply, _, attempts = NO_GRADES[kind]
    server.reply = lambda prompt: reply(prompt) if len(server.asked) <= bad else "5"
    made = judge(server)
    if bad <= attempts:  # else the made-up answer met it, too
        assert made.grade(answers("a")) == {"i/a": 0.5}
    else:
        with pytest.raises(Unreachable):
            made.grade(answers("a"))
        assert made.grade(answers("a")) == {"i/a": 0.5}


def test_of_a_reply_that_was_cut_all_but_the_last_word_counts(server: JudgeServer) -> None:
    server.reply = lambda prompt: choice_of("7 of 10, for it is nearly ri", finish_reason="length")
    assert judge(server).grade(answers("a")) == {"i/a": 0.7}


def test_whose_answer_is_refused_is_asked_about_no_further(server: JudgeServer) -> None:
    server.reply = lambda prompt: "none" if "A: bad" in prompt else "5"
    with pytest.raises(EvaluationError):
        judge(server, concurrency=1).grade(answers("bad", "b", "c"))
    assert not any("A: b\n" in body["messages"][0]["content"] for body in server.asked)


def test_where_and_how_a_judge_is_asked_is_no_part_of_the_key_and_the_former_key_is_known(
    bench: Bench, server: JudgeServer
) -> None:
    def scorer(**changes: Any) -> JudgeScorer:
        entry = JudgeEntry(**{"base_url": server.url, "model": "m", "prompt": PROMPT} | changes)
        task = TaskEntry(name="spell", judge=entry, **{split: f"spell_{split}" for split in SPLITS})
        return JudgeScorer([task], LmEvalScorer([task], Places(str(bench.folder))))

    moved = scorer(base_url="http://other/v1", max_tokens=9, timeout_s=1, cache="c")
    assert evaluation_key(scorer(), {}) == evaluation_key(moved, {})
    assert evaluation_key(scorer(), {}) != evaluation_key(scorer(model="n"), {})
    former = former_key(scorer(), {})
    assert former not in (None, evaluation_key(scorer(), {}), former_key(moved, {}))
    assert former == former_key(scorer(timeout_s=1), {})


def test_grades_in_files_of_earlier_versions_count(server: JudgeServer, tmp_path: Path) -> None:
    """Their digests went over address and max_tokens as well."""
    cache = tmp_path / "grades.jsonl"
    entry = {"max_tokens": 256, "high": 10.0, "low": 0.0, "score_key": None, "score": r"(-?\d+(?:\.\d+)?)"}
    asked = digest(
        [{"base_url": server.url, "model": "m", "prompt": PROMPT, **entry}, "Q: q\nA: a\nRight: r\nGrade from 0 to 10."]
    )
    cache.write_text(json.dumps({"asked": asked, "score": 0.3}) + "\n")
    assert judge(server, cache=str(cache)).grade(answers("a")) == {"i/a": 0.3}
    assert not server.asked


def test_the_key_goes_to_the_endpoint_and_nowhere_else(
    server: JudgeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", SECRET)
    cache = tmp_path / "grades.jsonl"
    made = judge(server, api_key_env="JUDGE_KEY", cache=str(cache), retries=0)
    made.grade(answers("a"))
    assert server.headers[0]["Authorization"] == f"Bearer {SECRET}"
    server.faults = [(500, {})]
    with pytest.raises(ConnectionError) as caught:
        made.grade(answers("b"))
    assert SECRET not in repr(caught.value) + str(made.facts()) + cache.read_text() + repr(made.entry)
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(CampaignError, match=r"c\.yml: task 't': judge\.api_key_env: the environment has no JUDGE_KEY"):
        judge(server, api_key_env="JUDGE_KEY")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"base_url": f"https://me:{SECRET}@host/v1"}, "without name, password or query"),
        ({"base_url": f"https://host/v1?key={SECRET}"}, "without name, password or query"),
        ({"prompt": "{question}"}, "has no {answer}"),
        ({"low": 5, "high": 5}, "low < high"),
        ({"score": "("}, "no regular expression"),
        ({"score": "a"}, "got 'a', which has no group"),
        ({"prompt": "{answer} {foo}"}, r"\{foo\} stands for nothing; known: answer, question, reference"),
        ({"prompt": "{answer} {referenc}"}, r"did you mean 'reference'\?"),
        ({"retries": True}, "got true, a number expected"),
    ],
)
def test_a_judge_that_cannot_work_is_refused_without_saying_a_secret(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says) as caught:
        JudgeEntry(**{"base_url": "http://h/v1", "model": "m", "prompt": PROMPT} | changes)
    assert SECRET not in str(caught.value.errors()[0]["ctx"]["error"])


def test_braces_of_json_in_a_prompt_are_no_places() -> None:
    assert JudgeEntry(base_url="http://h/v1", model="m", prompt='{answer} → {"grade": 5} {} { x }')


def test_a_task_that_generates_nothing_cannot_be_judged_and_the_prompt_belongs_to_the_key(
    bench: Bench, server: JudgeServer
) -> None:
    def scorer(name: str, prompt: str = PROMPT) -> JudgeScorer:
        entry = JudgeEntry(base_url=server.url, model="m", prompt=prompt)
        metric = "acc" if name == "pick" else "exact_match"
        task = TaskEntry(name=name, judge=entry, metric=metric, **{split: f"{name}_{split}" for split in SPLITS})
        return JudgeScorer([task], LmEvalScorer([task], Places(str(bench.folder))))

    with pytest.raises(CampaignError, match="judge: lm-eval task 'pick_search' generates no answers"):
        scorer("pick")
    assert evaluation_key(scorer("spell"), {}) != evaluation_key(scorer("spell", PROMPT + "!"), {})
