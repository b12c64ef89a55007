"""Text scored by its likelihood, against an oracle that reads one prefix at a time."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_tasks import Bench

from engine.errors import CampaignError, EvaluationError
from search.evaluators.contract import Places, Subject
from search.evaluators.entries import TaskEntry
from search.evaluators.perplexity import TextScorer, Window, cut_text, windows_of

TEXT = "a merge of two models is better than each of them and worse than both of them now and then " * 3
CUT = {"search": 0.5, "selection": 0.25, "holdout": 0.25}


def oracle(subject: Subject, text: str, *, context: int) -> float:
    """Nats of the whole text, every token given the `context - 1` tokens before it, one forward pass a token."""
    tokens = [subject.tokenizer.eos_token_id, *subject.tokenizer.encode(text, add_special_tokens=False)]
    total = 0.0
    for place in range(1, len(tokens)):
        seen = torch.tensor([tokens[max(0, place - context + 1) : place]])
        with torch.no_grad():
            logits = subject.model(seen).logits[0, -1].double()
        total -= float(logits.log_softmax(-1)[tokens[place]])
    return total


def scorer_of(folder: Path, **keys: object) -> TextScorer:
    (folder / "text.txt").write_text(TEXT)
    return TextScorer(
        [TaskEntry(**{"name": "t", "text": "*.txt", "split": CUT, "chunk": 40} | keys)], Places(str(folder))
    )


def all_keys(scorer: TextScorer) -> list[str]:
    return list(scorer.texts())


def test_each_chunk_scores_minus_its_nats_per_token_or_bits_per_byte(bench: Bench, tmp_path: Path) -> None:
    scorer = scorer_of(tmp_path, context=32, stride=1, metric=["perplexity", "bits_per_byte"])
    scored = scorer.score(bench.a, all_keys(scorer))
    assert scored.measures.keys() == scorer.measures()
    for key, text in scorer.texts().items():
        nats = oracle(bench.a, text, context=32)
        assert scored.measures["tokens"][key] == len(text)  # a token is a character here
        assert scored.scores[key] == pytest.approx(-nats / len(text), abs=1e-5)
        assert scored.measures["bits_per_byte"][key] == pytest.approx(nats / len(text) / math.log(2), abs=1e-5)


def test_a_wider_stride_predicts_every_token_once_with_at_least_the_rest_of_the_window_before_it(
    bench: Bench, tmp_path: Path
) -> None:
    exact, coarse = (scorer_of(tmp_path, context=32, stride=stride) for stride in (1, 16))
    one, two = (made.score(bench.a, all_keys(made)) for made in (exact, coarse))
    assert one.measures == two.measures
    assert one.scores == pytest.approx(two.scores, abs=0.2)
    assert one.scores != two.scores


@given(tokens=st.integers(0, 70), context=st.integers(2, 40), stride=st.integers(1, 50))
def test_windows_predict_every_token_once_and_no_window_is_longer_than_the_context(
    tokens: int, context: int, stride: int
) -> None:
    class Counting:
        bos_token_id, eos_token_id = 0, None

        def encode(self, text: str, **_: object) -> list[int]:
            return list(range(1, tokens + 1))

    class Model:
        class config:
            @staticmethod
            def get_text_config() -> object:
                return type("Text", (), {"max_position_embeddings": 64})

    entry = TaskEntry(name="t", text="x", split=CUT, context=context, stride=stride)
    windows = list(windows_of(Subject(Model(), Counting()), "", entry))
    assert all(0 < window.predicted < len(window.tokens) <= context for window in windows)
    predicted = [token for window in windows for token in window.tokens[-window.predicted :]]
    assert predicted == list(range(1, tokens + 1))


def test_a_tokenizer_without_a_token_to_begin_with_predicts_all_but_the_first(bench: Bench) -> None:
    class Bare:
        bos_token_id = eos_token_id = None

        def encode(self, text: str, **_: object) -> list[int]:
            return bench.a.tokenizer.encode(text)

    entry = TaskEntry(name="t", text="x", split=CUT, context=32)
    windows = list(windows_of(Subject(bench.a.model, Bare()), "abc", entry))
    assert windows == [Window(tuple(bench.a.tokenizer.encode("abc")), 2)]


def test_a_block_scores_the_same_in_any_order_and_a_context_beyond_the_model_is_an_error(
    bench: Bench, tmp_path: Path
) -> None:
    scorer = scorer_of(tmp_path, context=16)
    keys = all_keys(scorer)
    assert scorer.score(bench.a, keys) == scorer.score(bench.a, keys[::-1])
    assert scorer.score(bench.a, keys) != scorer.score(bench.b, keys)
    with pytest.raises(EvaluationError, match="context: got 64, the model reads 32 tokens at most"):
        scorer_of(tmp_path, context=64).score(bench.a, keys[:1])


@given(st.text(alphabet="ab \n", max_size=60), st.integers(0, 12))
def test_pieces_join_to_the_text_and_none_is_blank(text: str, size: int) -> None:
    pieces = cut_text(text, size)
    assert all(piece.strip() for piece in pieces)
    assert "".join(pieces).split() == text.split()


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("none-*.txt", "none-*.txt matches no file"),
        ("no.txt", "cannot read"),
        ("blank.txt", "no text in it"),
        ("raw.txt", "cannot read"),
    ],
)
def test_text_that_cannot_be_read_is_refused_by_name(pattern: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "blank.txt").write_text(" \n")
    (tmp_path / "raw.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CampaignError, match="<campaign>: task 't', text: ") as caught:
        scorer_of(tmp_path, text=pattern)
    assert says in str(caught.value)
