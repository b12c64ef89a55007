"""The small files arrive byte for byte, each from the model it belongs to; a chosen template is the only one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.errors import MergefleetError, SourceError
from engine.models.tokenizer import MODEL_FILES, TOKENIZER_FILES, write_small_files

CHOSEN = "{{ messages[0]['content'] }}!"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    return tmp_path / "source"


def copied(source: Path, out: Path, *, donor: Path | None = None, chat_template: str | None = None) -> list[str]:
    return write_small_files(out, tokenizer=source, donor=donor or source, chat_template=chat_template)


def test_every_file_of_the_lists_that_exists_is_copied_byte_for_byte(source: Path, out: Path) -> None:
    names = [*TOKENIZER_FILES, *MODEL_FILES, "chat_template.jinja", "additional_chat_templates/tool_use.jinja"]
    (source / "additional_chat_templates").mkdir()
    for name in names:
        (source / name).write_bytes(name.encode() + b"\r\n\x00\xff")
    assert copied(source, out) == names
    assert all((out / name).read_bytes() == name.encode() + b"\r\n\x00\xff" for name in names)


def test_tokenizer_and_templates_are_of_one_model_and_generation_settings_of_the_donor(
    source: Path, out: Path, tmp_path: Path
) -> None:
    donor = tmp_path / "donor"
    donor.mkdir()
    for directory in (source, donor):
        for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json", "preprocessor_config.json"):
            (directory / name).write_text(directory.name)
    copied(source, out, donor=donor)
    assert {path.name: path.read_text() for path in out.iterdir()} == {
        "tokenizer.json": "source",
        "chat_template.jinja": "source",
        "generation_config.json": "donor",
        "preprocessor_config.json": "donor",
    }


def test_weights_configuration_and_code_stay_behind(source: Path, out: Path) -> None:
    for name in ("model.safetensors", "pytorch_model.bin", "config.json", "tokenization_x.py", "README.md"):
        (source / name).write_text("x")
    assert copied(source, out) == []
    assert list(out.iterdir()) == []


def test_links_into_a_cache_become_files(source: Path, out: Path, tmp_path: Path) -> None:
    (tmp_path / "blob").write_text("{}")
    (source / "tokenizer.json").symlink_to(tmp_path / "blob")
    (source / "vocab.json").symlink_to(tmp_path / "gone")
    assert copied(source, out) == ["tokenizer.json"]
    assert not (out / "tokenizer.json").is_symlink()


def saved_tokenizer(directory: Path, template: Any) -> dict[str, int]:
    """A tokenizer with this chat template (one, or several by name), as transformers saves it."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"[UNK]": 0, "a": 1, "b": 2}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, "[UNK]")), unk_token="[UNK]"
    )
    tokenizer.chat_template = template
    tokenizer.save_pretrained(directory)
    return vocabulary


@pytest.mark.parametrize("template", ["{{ messages }}", {"default": "{{ messages }}", "tool_use": "{{ tools }}"}])
def test_a_tokenizer_that_transformers_saved_is_loaded_from_the_copy(template: Any, source: Path, out: Path) -> None:
    from transformers import AutoTokenizer

    vocabulary = saved_tokenizer(source, template)
    assert set(copied(source, out)) == {str(file.relative_to(source)) for file in source.rglob("*") if file.is_file()}
    loaded = AutoTokenizer.from_pretrained(out)
    assert loaded.get_vocab() == vocabulary
    assert loaded.chat_template == template


@pytest.mark.parametrize("old_place", ["tokenizer_config.json", "list", "chat_template.jinja", "additional", "json"])
def test_a_chosen_template_is_what_every_reader_finds(old_place: str, source: Path, out: Path) -> None:
    from transformers import AutoTokenizer

    named = {"default": "{{ 'old' }}", "tool_use": "{{ 'old tools' }}"}
    saved_tokenizer(source, named if old_place == "additional" else named["default"])
    settings = json.loads((source / "tokenizer_config.json").read_text())
    if old_place in ("tokenizer_config.json", "list"):
        (source / "chat_template.jinja").unlink()
        listed = [{"name": name, "template": text} for name, text in named.items()]
        settings["chat_template"] = listed if old_place == "list" else named["default"]
        (source / "tokenizer_config.json").write_text(json.dumps(settings))
    if old_place == "json":
        (source / "chat_template.json").write_text(json.dumps({"chat_template": named["default"]}))
    copied(source, out, chat_template=CHOSEN)
    assert AutoTokenizer.from_pretrained(out).chat_template == CHOSEN
    assert "old" not in "".join(file.read_text() for file in out.rglob("*") if file.is_file())
    assert json.loads((out / "tokenizer_config.json").read_text()).get("chat_template", CHOSEN) == CHOSEN


def test_a_file_that_cannot_be_read_or_written_is_named(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source / "tokenizer.json").write_text("{}")

    def fail(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    with pytest.raises(MergefleetError, match=r"nowhere/tokenizer\.json: cannot be written: No such file"):
        copied(source, out / "nowhere")
    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(SourceError, match=r"source/tokenizer\.json: cannot be read: Input/output error"):
        copied(source, out)
