"""The small files of a model beside weights and config.json: tokenizer, chat template, generation settings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from engine import failpoints
from engine.errors import MergefleetError, SourceError, after_disk_failure
from engine.models.chat_templates import FILE, JSON_FILE, SETTINGS
from engine.tensorfile.index import load_json_object

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "spiece.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tekken.json",
)
"""What is copied from the model whose tokenizer the output gets, where it exists, beside its chat templates."""
MODEL_FILES = (
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
)
"""What is copied from the model whose config.json the output gets. Code (*.py) and weights never are."""
NAMED_TEMPLATES = "additional_chat_templates"


def has_tokenizer(directory: Path) -> bool:
    """Whether any of its files is there."""
    return any(_present(directory, TOKENIZER_FILES))


def small_files(tokenizer: Path, donor: Path, *, templates: bool = True) -> list[Path]:
    """The files that `write_small_files` copies; without `templates`, but those that hold nothing but one."""
    files = [*_present(tokenizer, TOKENIZER_FILES), *_present(donor, MODEL_FILES)]
    return files + _templates(tokenizer) if templates else files


def write_small_files(out: Path, *, tokenizer: Path, donor: Path, chat_template: str | None = None) -> list[str]:
    """Copy the small files of two models into `out`, byte for byte; links become files. Returns the names written.

    A `chat_template` takes the place of the tokenizer's own, wherever it is kept: readers of chat_template.jinja and
    of tokenizer_config.json then see the same one.

    Raises SourceError where a file cannot be read, MergefleetError where one cannot be written.
    """
    written = [_write(out, file.name, _read(file)) for file in small_files(tokenizer, donor, templates=False)]
    if chat_template is None:
        return written + [_write(out, str(file.relative_to(tokenizer)), _read(file)) for file in _templates(tokenizer)]
    settings = load_json_object(out / SETTINGS) if SETTINGS in written else {}
    if "chat_template" in settings:
        text = json.dumps({**settings, "chat_template": chat_template}, indent=2, ensure_ascii=False)
        _write(out, SETTINGS, f"{text}\n".encode())
    return [*written, _write(out, FILE, chat_template.encode())]


def _present(directory: Path, names: tuple[str, ...]) -> Iterator[Path]:
    return (directory / name for name in names if (directory / name).is_file())


def _templates(directory: Path) -> list[Path]:
    """The files that hold nothing but chat templates: one, or one and further named ones."""
    named = sorted(path for path in (directory / NAMED_TEMPLATES).glob("*.jinja") if path.is_file())
    return [*_present(directory, (FILE, JSON_FILE)), *named]


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise SourceError(f"{file}: cannot be read: {error.strerror}.", path=str(file)) from error


def _write(out: Path, name: str, data: bytes) -> str:
    failpoints.reach("small_file.write")
    file = out / name
    try:
        if file.parent != out:
            file.parent.mkdir(exist_ok=True)
        file.write_bytes(data)
    except OSError as error:
        advice = after_disk_failure(error)
        raise MergefleetError(f"{file}: cannot be written: {error.strerror}. {advice}", path=str(file)) from error
    return name
