"""The tokenizer's files arrive byte for byte; weights and code do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import MergefleetError, SourceError
from engine.tokenizer import TOKENIZER_FILES, copy_tokenizer


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    return tmp_path / "source"


def test_every_file_of_the_list_that_exists_is_copied_byte_for_byte(source: Path, out: Path) -> None:
    names = ["tokenizer.json", "tokenizer_config.json", "merges.txt", "chat_template.jinja", "generation_config.json"]
    for name in names:
        (source / name).write_bytes(name.encode() + b"\r\n\x00\xff")
    assert sorted(copy_tokenizer(source, out)) == sorted(names)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        name: name.encode() + b"\r\n\x00\xff" for name in names
    }


def test_weights_configuration_and_code_stay_behind(source: Path, out: Path) -> None:
    for name in ("model.safetensors", "pytorch_model.bin", "config.json", "tokenization_x.py", "README.md"):
        (source / name).write_text("x")
    assert copy_tokenizer(source, out) == []
    assert list(out.iterdir()) == []


def test_links_into_a_cache_become_files(source: Path, out: Path, tmp_path: Path) -> None:
    (tmp_path / "blob").write_text("{}")
    (source / "tokenizer.json").symlink_to(tmp_path / "blob")
    (source / "vocab.json").symlink_to(tmp_path / "gone")
    assert copy_tokenizer(source, out) == ["tokenizer.json"]
    assert not (out / "tokenizer.json").is_symlink()


def test_a_tokenizer_that_transformers_saved_is_loaded_from_the_copy(source: Path, out: Path) -> None:
    from tokenizers import Tokenizer, models
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    vocabulary = {"[UNK]": 0, "a": 1, "b": 2}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, "[UNK]")), unk_token="[UNK]"
    )
    tokenizer.chat_template = "{{ messages }}"
    tokenizer.save_pretrained(source)
    saved = {path.name for path in source.iterdir()}
    assert set(copy_tokenizer(source, out)) == saved <= set(TOKENIZER_FILES)
    loaded = AutoTokenizer.from_pretrained(out)
    assert loaded.get_vocab() == vocabulary
    assert loaded.chat_template == "{{ messages }}"


def test_a_file_that_cannot_be_read_or_written_is_named(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source / "tokenizer.json").write_text("{}")

    def fail(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    with pytest.raises(MergefleetError, match=r"nowhere/tokenizer\.json: cannot be written: No such file"):
        copy_tokenizer(source, out / "nowhere")
    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(SourceError, match=r"source/tokenizer\.json: cannot be read: Input/output error"):
        copy_tokenizer(source, out)
