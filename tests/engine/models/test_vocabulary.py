"""Vocabularies: read from every kind of file as the libraries read them, compared, and refused where they differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import vocabulary_model

from engine import make_plan, merge, open_checkpoint, open_checkpoints, parse_recipe
from engine.errors import PlanError, SourceError
from engine.models.vocabulary import Vocabulary, compare, find_vocabulary
from engine.recipes.model_ref import ModelRef

TOKENS = ("<unk>", "a", "ä", "<|im_end|>")


def ids_of(directory: Path) -> dict[str, int]:
    found = find_vocabulary(directory)
    assert found is not None
    return dict(found.ids)


def tokenizer_json(model: dict[str, Any], **added: int) -> str:
    entries = [{"id": number, "content": token, "special": True} for token, number in added.items()]
    return json.dumps({"model": model, "added_tokens": entries})


@pytest.mark.parametrize("kind", ["WordLevel", "BPE", "Unigram", "WordPiece"])
def test_tokenizer_json_is_read_as_the_tokenizers_library_reads_it(kind: str, tmp_path: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, models

    ids = {token: number for number, token in enumerate(TOKENS)}
    made = {
        "WordLevel": lambda: models.WordLevel(ids, "<unk>"),
        "BPE": lambda: models.BPE(ids, [], unk_token="<unk>"),
        "Unigram": lambda: models.Unigram([(token, -1.0) for token in TOKENS], unk_id=0),
        "WordPiece": lambda: models.WordPiece(ids, unk_token="<unk>"),
    }
    tokenizer = Tokenizer(made[kind]())
    tokenizer.add_special_tokens([AddedToken("<|new|>"), AddedToken("<|im_end|>")])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert ids_of(tmp_path) == tokenizer.get_vocab(with_added_tokens=True)


def varint(number: int) -> bytes:
    low, rest = number & 127, number >> 7
    return bytes([low | 128]) + varint(rest) if rest else bytes([low])


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


@given(st.lists(st.text(max_size=200), unique=True, max_size=20))
def test_a_sentencepiece_model_is_read_whatever_its_pieces(pieces: list[str]) -> None:
    from engine.models.vocabulary import _sentencepiece

    score, kind = varint(2 << 3 | 5) + b"\0\0\x80\xbf", varint(3 << 3) + varint(300)
    data = b"".join(field(1, field(1, piece.encode()) + score + kind) for piece in pieces)
    trainer = field(2, field(1, b"a name") + varint(5 << 3 | 1) + b"12345678")
    assert list(_sentencepiece(data + trainer)) == [(piece, number) for number, piece in enumerate(pieces)]


def test_added_tokens_come_from_files_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "b": 1}))
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<x>": 2}))
    decoder = {"3": {"content": "<y>"}, "1": {"content": "<never>"}, "0": {"content": "a"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))
    assert ids_of(tmp_path) == {"a": 0, "b": 1, "<x>": 2, "<y>": 3}


def test_a_list_of_words_is_numbered_by_lines(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes(b"[PAD]\r\n[UNK]\r\n##s\r\n")
    assert ids_of(tmp_path) == {"[PAD]": 0, "[UNK]": 1, "##s": 2}


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("tokenizer.json", b"{"),
        ("tokenizer.json", b'{"model": {}}'),
        ("tokenizer.json", b'{"model": {"vocab": [1, 2]}}'),
        ("tokenizer.json", b'{"model": {"vocab": {"a": 0}}, "added_tokens": [7]}'),
        ("vocab.json", b"[1]"),
        ("tokenizer.model", b"\x0a\xff\xff"),
        ("tokenizer.model", b"\x0b"),
        ("tokenizer.model", b"\xff" * 40),
    ],
)
def test_a_damaged_file_is_named(name: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SourceError, match=rf"{name}: is no vocabulary that can be read"):
        ids_of(tmp_path)


def test_equal_files_are_equal_without_being_parsed(tmp_path: Path) -> None:
    for directory in ("a", "b"):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "tokenizer.json").write_text("no JSON at all")
    first, second = (Vocabulary(tmp_path / name / "tokenizer.json") for name in ("a", "b"))
    assert not compare(first, second).moved


def with_vocabulary(directory: Path, ids: dict[str, int] | None, *, rows: int = 8) -> Path:
    model = vocabulary_model(directory, rows=rows, seed=rows)
    if ids is not None:
        (model / "tokenizer.json").write_text(tokenizer_json({"type": "WordLevel", "vocab": ids}))
    return model


def warnings_of(models: list[Path], **top: Any) -> list[str]:
    entries = [{"model": str(model), "parameters": {"weight": 1}} for model in models]
    recipe = parse_recipe({"merge_method": "linear", "models": entries, **top}, origin="r.yml")
    plan = make_plan(recipe, open_checkpoints(recipe.models))
    folder = f"{models[0].parent}/"
    return [warning.replace(folder, "") for warning in plan.warnings]


EQUAL = ({"a": 0, "b": 1}, {"b": 1, "a": 0})
GROWN = ({"a": 0, "b": 1}, {"a": 0, "b": 1, "<c>": 2, "<d>": 3})
RENAMED = ({"a": 0, "<r>": 1}, {"a": 0, "<c>": 1})
MOVED = ({"a": 0, "b": 1, "c": 2}, {"a": 0, "b": 2, "c": 1})
UNREAD = ({"a": 0}, None)
SAYS_GROWN = "token '<c>', id 2 in B, is not known to A (2 such tokens)."
SAYS_RENAMED = "token '<r>', id 1 in A, is not known to B. token '<c>', id 1 in B, is not known to A."
SAYS_MOVED = "token 'b' has id 1 in A and 2 in B (2 such tokens)."
NO_UNION = " A union of different vocabularies is not supported yet: name the model whose tokenizer the output gets."
NO_ROWS = " Their rows cannot be merged: models of one vocabulary are needed."


@pytest.mark.parametrize(
    ("vocabularies", "source", "said"),
    [
        (EQUAL, None, []),
        (EQUAL, "union", []),
        (EQUAL, "B", []),
        (GROWN, None, [f"r.yml: {SAYS_GROWN}"]),
        (GROWN, "base", [f"r.yml: tokenizer_source: {SAYS_GROWN}"]),
        (GROWN, "B", [f"r.yml: tokenizer_source: {SAYS_GROWN}"]),
        (RENAMED, None, [f"r.yml: {SAYS_RENAMED}"]),
        (MOVED, None, [f"r.yml: {SAYS_MOVED} Rows are merged by id, so such tokens are mixed up."]),
        (UNREAD, None, []),
        (
            UNREAD,
            "union",
            ["r.yml: tokenizer_source: B has no vocabulary that can be read: taken to have the same one."],
        ),
    ],
)
def test_differences_of_vocabulary_are_said(vocabularies: Any, source: Any, said: list[str], tmp_path: Path) -> None:
    models = [with_vocabulary(tmp_path / name, ids) for name, ids in zip("AB", vocabularies, strict=True)]
    top = {} if source is None else {"tokenizer_source": str(models[1]) if source == "B" else source}
    assert warnings_of(models, **top) == said


@pytest.mark.parametrize(
    ("vocabularies", "source", "rows", "message"),
    [
        (GROWN, "union", 8, f"tokenizer_source: {SAYS_GROWN}{NO_UNION}"),
        (RENAMED, "union", 8, f"tokenizer_source: token '<r>', id 1 in A, is not known to B.{NO_UNION}"),
        (MOVED, "union", 8, f"tokenizer_source: {SAYS_MOVED}{NO_UNION}"),
        (MOVED, "base", 8, f"tokenizer_source: {SAYS_MOVED}{NO_ROWS}"),
        (MOVED, None, 9, f"{SAYS_MOVED}{NO_ROWS}"),
    ],
)
def test_tokens_that_would_be_mixed_up_are_refused(
    vocabularies: Any, source: Any, rows: int, message: str, tmp_path: Path
) -> None:
    first, second = vocabularies
    models = [with_vocabulary(tmp_path / "A", first), with_vocabulary(tmp_path / "B", second, rows=rows)]
    with pytest.raises(PlanError) as caught:
        warnings_of(models, **({} if source is None else {"tokenizer_source": source}))
    assert str(caught.value).replace(f"{tmp_path}/", "") == f"r.yml: {message}"


def test_a_union_of_equal_vocabularies_has_the_bases_files(tmp_path: Path) -> None:
    models = [with_vocabulary(tmp_path / name, ids) for name, ids in zip("AB", EQUAL, strict=True)]
    entries = [{"model": str(model), "parameters": {"weight": 1}} for model in models]
    recipe = {
        "merge_method": "linear",
        "models": entries,
        "base_model": str(models[1]),
        "tokenizer": {"source": "union"},
    }
    out = merge(parse_recipe(recipe), tmp_path / "out").out
    assert (out / "tokenizer.json").read_bytes() == (models[1] / "tokenizer.json").read_bytes()


def test_an_adapter_that_brings_a_tokenizer_lends_it(tmp_path: Path) -> None:
    from adapters import factors, write_adapter

    model = with_vocabulary(tmp_path / "model", {"a": 0})
    adapter = write_adapter(tmp_path / "lora", factors("model.layers.0.self_attn.q_proj", 4, 4))
    ref = ModelRef(str(model), lora=ModelRef(str(adapter)))
    assert open_checkpoint(ref).tokenizer_directory == model
    (adapter / "tokenizer.json").write_text(tokenizer_json({"vocab": {"a": 0}}, b=1))
    out = merge(parse_recipe({"merge_method": "passthrough", "models": [{"model": str(ref)}]}), tmp_path / "out").out
    assert ids_of(out) == {"a": 0, "b": 1}
