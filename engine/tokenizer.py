"""The small files of a model beside weights and config.json: tokenizer, chat template, generation settings."""

from __future__ import annotations

from pathlib import Path

from engine.errors import MergefleetError, SourceError

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
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
)
"""What is copied where it exists. Code (*.py) and weights never are: the list is explicit."""


def copy_tokenizer(source: Path, out: Path) -> list[str]:
    """Copy those of TOKENIZER_FILES that exist in `source` into `out`, byte for byte; links become files.

    Returns the names copied, in the order of the list: empty where the source has no tokenizer.

    Raises SourceError where one cannot be read, MergefleetError where it cannot be written.
    """
    copied = []
    for name in TOKENIZER_FILES:
        path = source / name
        if not path.is_file():
            continue
        try:
            data = path.read_bytes()
        except OSError as error:
            raise SourceError(f"{path}: cannot be read: {error.strerror}.", path=str(path)) from error
        try:
            (out / name).write_bytes(data)
        except OSError as error:
            raise MergefleetError(
                f"{out / name}: cannot be written: {error.strerror}.", path=str(out / name)
            ) from error
        copied.append(name)
    return copied
