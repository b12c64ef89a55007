"""A user's own function as a scorer."""

import json
import math
import os
import random
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from tiny_tasks import make_tokenizer

from engine.errors import CampaignError, EvaluationError
from search.evaluators.contract import Places, Subject, Unreachable
from search.evaluators.entries import TaskEntry
from search.evaluators.python import PythonScorer, read_rows
from search.ports import SPLITS

SUBJECT = Subject("model", "tokenizer")


def half_of(model, tokenizer, rows):
    assert (model, tokenizer) == ("model", "tokenizer")
    return [row["n"] / 2 for row in rows]


def at_random(model, tokenizer, rows):
    return [random.random() for _ in rows]


def writes_into_rows(model, tokenizer, rows):
    for row in rows:
        row["n"] += 1
    return [row["n"] for row in rows]


def one_too_few(model, tokenizer, rows):
    return [0.0] * (len(rows) - 1)


def one_for_all(model, tokenizer, rows):
    return [0.5]


def a_number(model, tokenizer, rows):
    return 0.5


def no_number(model, tokenizer, rows):
    return [{"score": row["n"], "seconds": math.nan if row["n"] == 1 else 0.0} for row in rows]


def counts_tokens(model, tokenizer, rows):
    return [{"score": row["n"], "tokens": 0} for row in rows]


def counts_forwards(model, tokenizer, rows):
    return [{"score": row["n"], "forwards": 3} for row in rows]


def misspells(model, tokenizer, rows):
    return [row["m"] for row in rows]  # misspells


def goes_elsewhere(model, tokenizer, rows):
    os.chdir("/")
    return [row["n"] for row in rows]


def gets_lost(model, tokenizer, rows):
    os.chdir("/")
    raise ValueError("lost")


def cuts_short(model, tokenizer, rows):
    tokenizer.model_max_length, tokenizer.mine, tokenizer.chat_template = 2, 1, "{{ messages }}"
    tokenizer.pad_token = "<unk>"
    return [0.0] * len(rows)


def cuts_short_and_fails(model, tokenizer, rows):
    raise ValueError(cuts_short(model, tokenizer, rows))


def trains(model, tokenizer, rows):
    model[0].train()
    return [0.0] * len(rows)


def nothing(model, tokenizer, rows):
    return None


def leaves(model, tokenizer, rows):
    sys.exit(3)  # leaves


class Odd(Exception):
    """Of no class that anybody foresaw."""


def tells_secrets(model, tokenizer, rows):
    deeper()


def deeper():
    raise Odd("no sk-secret-of-mine at https://me:you@h/v1?key=1\nsecond line")  # tells_secrets


def has_no_file(model, tokenizer, rows):
    Path("/none").read_text()  # has_no_file


def has_no_judge(model, tokenizer, rows):
    raise TimeoutError("no answer")  # has_no_judge


def with_measures(model, tokenizer, rows):
    return [{"score": row["n"], "seconds": row["n"] / 4} | ({"odd": 1} if row["n"] % 2 else {}) for row in rows]


def without_score(model, tokenizer, rows):
    return [{"seconds": 1.0} for _ in rows]


def says_words(model, tokenizer, rows):
    return ["good"] * len(rows)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """JSONL files of every split, and this module importable under a name of its own."""
    for place, split in enumerate(SPLITS):
        rows = [{"id": f"{split}-{n}", "n": n + 10 * place} for n in range(4)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    (tmp_path / "user_scores.py").write_text(Path(__file__).read_text())
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def entry(function: str = "half_of", **changes: str) -> TaskEntry:
    files = {split: f"{split}.jsonl" for split in SPLITS}
    return TaskEntry(**{"name": "numbers", "metric": f"user_scores:{function}", **files} | changes)


def test_each_item_gets_the_number_the_function_returns_for_its_row(folder):
    scorer = PythonScorer([entry()], Places(str(folder)))
    keys = [item.key for item in scorer.items()["selection"]]
    assert keys == [f"numbers/selection/selection-{n}" for n in range(4)]
    assert scorer.score(SUBJECT, keys[::-1]).scores == dict(zip(keys, [5.0, 5.5, 6.0, 6.5], strict=True))


def test_two_functions_share_a_block(folder):
    entries = [entry(), entry("writes_into_rows", name="more")]
    scorer = PythonScorer(entries, Places(str(folder)))
    keys = [item.key for item in scorer.items()["search"]]
    assert list(scorer.score(SUBJECT, keys).scores.values()) == [0.0, 0.5, 1.0, 1.5, 1, 2, 3, 4]


def test_a_function_that_changes_the_working_directory_does_not_move_the_run(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "moves.py").write_text("import os\nos.chdir('/')\ndef f(model, tokenizer, rows):\n    return [0] * 4\n")
    scorer = PythonScorer([entry("goes_elsewhere"), entry("gets_lost", name="lost"), entry(metric="moves:f", name="m")])
    assert Path.cwd() == folder
    of_task = {name: [i.key for i in scorer.items()["search"] if i.task == name] for name in ("numbers", "lost")}
    scorer.score(SUBJECT, of_task["numbers"])
    assert Path.cwd() == folder
    with pytest.raises(EvaluationError, match="raised ValueError: lost"):
        scorer.score(SUBJECT, of_task["lost"])
    assert Path.cwd() == folder


def test_a_function_that_leaves_the_model_in_training_mode_leaves_it_in_none(folder):
    model = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(2, 2)).eval()
    scorer = PythonScorer([entry("trains")], Places(str(folder)))
    scorer.score(Subject(model, "tokenizer"), [item.key for item in scorer.items()["search"]])
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("function", ["cuts_short", "cuts_short_and_fails"])
def test_what_a_function_sets_on_the_tokenizer_is_put_back(folder, function):
    tokenizer = make_tokenizer()
    whole, pad = tokenizer("2 2 2 2")["input_ids"], tokenizer.pad_token
    scorer = PythonScorer([entry(function)], Places(str(folder)))
    with suppress(EvaluationError):
        scorer.score(Subject(None, tokenizer), [item.key for item in scorer.items()["search"]])
    assert tokenizer("2 2 2 2", truncation=True)["input_ids"] == whole
    assert (tokenizer.pad_token, tokenizer.chat_template) == (pad, None)
    assert not hasattr(tokenizer, "mine")


def test_a_function_that_writes_into_its_rows_scores_the_same_twice(folder):
    scorer = PythonScorer([entry("writes_into_rows")], Places(str(folder)))
    keys = [item.key for item in scorer.items()["search"]]
    assert scorer.score(SUBJECT, keys) == scorer.score(SUBJECT, keys)


def test_a_function_that_returns_too_few_scores_is_an_error_that_counts_them(folder):
    scorer = PythonScorer([entry("one_too_few")], Places(str(folder)))
    with pytest.raises(EvaluationError, match="returned 3 scores for 4 items"):
        scorer.score(SUBJECT, [item.key for item in scorer.items()["search"]])


def test_a_function_may_return_measures_beside_the_score(folder):
    scorer = PythonScorer([entry("with_measures")], Places(str(folder)))
    keys = [item.key for item in scorer.items()["search"]]
    scored = scorer.score(SUBJECT, keys)
    assert scored.scores == dict(zip(keys, [0, 1, 2, 3], strict=True))
    assert scored.measures["seconds"] == {key: score / 4 for key, score in scored.scores.items()}
    assert scored.measures["odd"] == {keys[1]: 1.0, keys[3]: 1.0}


def test_a_rehearsal_tells_what_a_function_measures(folder):
    scorer = PythonScorer([entry("with_measures")], Places(str(folder)))
    assert scorer.measures() is None
    scorer.rehearse(SUBJECT)
    assert scorer.measures() == {"seconds", "odd"}


def test_a_function_that_samples_is_told_of_at_the_start(folder):
    scorer = PythonScorer([entry("half_of"), entry("at_random", name="dice")], Places(str(folder)))
    scorer.rehearse(SUBJECT)
    (note,) = scorer.notes()
    assert note.startswith("task 'dice': user_scores:at_random scores the same rows of the same model otherwise")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("one_too_few", "user_scores:one_too_few returned 2 scores for 3 items (user_scores.py:LINE)"),
        ("one_for_all", "user_scores:one_for_all returned 1 scores for 3 items (user_scores.py:LINE)"),
        ("a_number", "user_scores:a_number returned a float (user_scores.py:LINE), want a list of 3 scores"),
        ("nothing", "user_scores:nothing returned None (user_scores.py:LINE), want a list of 3 scores"),
        ("leaves", "user_scores:leaves called sys.exit(3) (user_scores.py:LINE)"),
        (
            "tells_secrets",
            "user_scores:tells_secrets raised Odd: no *** at https://h/v1 second line (user_scores.py:LINE)",
        ),
        (
            "has_no_file",
            "user_scores:has_no_file raised FileNotFoundError: [Errno 2] No such file or directory: '/none' "
            "(user_scores.py:LINE)",
        ),
        ("says_words", "its function returned a str for 'score', a number expected"),
        (
            "no_number",
            "user_scores:no_number returned nan as seconds of item 'ITEM' (user_scores.py:LINE), a number "
            "within ±1e+18 expected",
        ),
        ("misspells", "user_scores:misspells raised KeyError: 'm' (user_scores.py:LINE)"),
    ],
)
def test_a_function_that_would_fail_every_candidate_fails_the_start(folder, function, message, monkeypatch):
    monkeypatch.setenv("MY_API_KEY", "sk-secret-of-mine")
    lines = Path(__file__).read_text().splitlines()
    failing = next((n for n, line in enumerate(lines, start=1) if line.endswith(f"# {function}")), None)
    line = failing or next(n for n, line in enumerate(lines, start=1) if line.startswith(f"def {function}("))
    message = message.replace("LINE", str(line))
    scorer = PythonScorer([entry(function)], Places(str(folder), origin="c.yml"))
    message = message.replace("ITEM", scorer.items()["search"][1].key)
    with pytest.raises(CampaignError) as caught:
        scorer.rehearse(SUBJECT)
    assert caught.value.message == (
        f"c.yml: task 'numbers', metric: tried on the base with the first rows of its search items: {message}"
    )


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("without_score", "a dict without 'score'"),
        ("says_words", "returned a str for 'score', a number expected"),
        ("leaves", r"called sys\.exit\(3\)"),
    ],
)
def test_what_is_no_score_is_an_error_that_names_the_task(folder, function, message):
    scorer = PythonScorer([entry(function)], Places(str(folder)))
    with pytest.raises(EvaluationError, match=f"task 'numbers': .*{message}"):
        scorer.score(SUBJECT, [item.key for item in scorer.items()["search"]])


def test_where_forwards_count_a_function_tells_of_what_it_takes_at_its_first_return(folder):
    scorer = PythonScorer([entry("half_of")], Places(str(folder), origin="c.yml"), counts_forwards=True)
    with pytest.raises(CampaignError) as caught:
        scorer.rehearse(SUBJECT)
    told = caught.value.message
    assert told.startswith("c.yml: task 'numbers', metric: tried on the base with the first rows")
    assert "user_scores:half_of returned neither 'tokens' nor 'forwards' of item 'numbers/" in told
    assert "a dict with 'score' and 'tokens' expected" in told
    for function in ("counts_tokens", "counts_forwards"):
        PythonScorer([entry(function)], Places(str(folder)), counts_forwards=True).rehearse(SUBJECT)


def test_what_a_function_cannot_reach_is_an_outage_and_a_file_that_is_missing_is_none(folder):
    for function, error in (("has_no_judge", Unreachable), ("has_no_file", OSError)):
        scorer = PythonScorer([entry(function)], Places(str(folder)))
        with pytest.raises(error, match=f"task 'numbers': user_scores:{function} raised") as caught:
            scorer.score(SUBJECT, [item.key for item in scorer.items()["search"]])
        assert isinstance(caught.value, Unreachable) == (function == "has_no_judge")


def test_one_file_may_be_cut_in_three(folder):
    rows = [{"n": n} for n in range(20)]
    (folder / "all.jsonl").write_text("\n".join(map(json.dumps, rows)))
    cut = {"search": 10, "selection": 4, "holdout": 6}
    whole = TaskEntry(name="numbers", metric="user_scores:half_of", task="all.jsonl", split=cut)
    items = PythonScorer([whole], Places(str(folder))).items()
    assert {split: len(found) for split, found in items.items()} == cut
    assert len({item.content for split in SPLITS for item in items[split]}) == 20


def test_a_module_beside_the_campaign_is_found_and_never_takes_the_place_of_an_installed_one(folder, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    (home / "beside_helper.py").write_text("FACTOR = 3\n")
    body = "    from beside_helper import FACTOR\n    return [FACTOR * row['n'] for row in rows]\n"
    code = f"def f(model, tokenizer, rows):\n{body}"
    (home / "beside.py").write_text(code)
    (home / "json.py").write_text("raise RuntimeError('not the json of the standard library')\n")
    before = list(sys.path)
    places = Places(str(folder), origin=str(home / "c.yml"))
    scorer = PythonScorer([entry(metric="beside:f")], places)
    keys = [item.key for item in scorer.items()["search"]]
    assert list(scorer.score(SUBJECT, keys).scores.values()) == [0, 3, 6, 9]
    assert sys.path == before
    with pytest.raises(CampaignError, match="json has no function 'f'"):
        PythonScorer([entry(metric="json:f")], places)


def test_a_line_ends_where_json_ends_it(folder):
    rows = [{"n": 1, "text": "a\u2028b\u2029c\x85d"}, {"n": 2}]
    (folder / "odd.jsonl").write_bytes("\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode())
    assert read_rows(folder / "odd.jsonl", "c.yml") == rows


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": "user_scores:half_off"}, "no function 'half_off', did you mean 'half_of'"),
        ({"metric": "user_score:half_of"}, "task 'numbers', metric: cannot import 'user_score'"),
        ({"search": "absent.jsonl"}, "cannot read .*absent.jsonl: No such file"),
        ({"search": "broken.jsonl"}, "broken.jsonl, line 2 is not JSON"),
        ({"search": "list.jsonl"}, "list.jsonl, line 1 is a list, want an object"),
        ({"search": "half.jsonl"}, r"half.jsonl, line 3 holds half a surrogate pair, '\\ud83d', which is no text"),
        ({"search": "empty.jsonl"}, "empty.jsonl has no rows"),
        ({"metric": "wrong_syntax:f"}, "task 'numbers', metric: cannot import 'wrong_syntax'"),
        ({"search": "twice.jsonl"}, "^<campaign>: task 'numbers', search: .*twice.jsonl: two rows with id '1'"),
    ],
)
def test_what_cannot_be_used_is_refused_by_file_and_name(folder, changes, message):
    (folder / "broken.jsonl").write_text('{"n": 1}\n{"n": \n')
    (folder / "empty.jsonl").write_text("\n")
    (folder / "wrong_syntax.py").write_text("def f(:\n")
    (folder / "list.jsonl").write_text("[1]\n")
    (folder / "half.jsonl").write_text('{"n": "\\ud83d\\ude00"}\n\n{"n": ["cut: \\ud83d"]}\n')
    (folder / "twice.jsonl").write_text('{"id": 1, "n": 1}\n{"id": 1, "n": 2}\n')
    with pytest.raises(CampaignError, match=message):
        PythonScorer([entry(**changes)], Places(str(folder)))
