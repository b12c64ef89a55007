"""Chat templates: the built-in formats render as published, `auto` counts, and the merged tokenizer uses the result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_models import vocabulary_model

from engine import make_plan, merge, open_checkpoints, parse_recipe
from engine.models.chat_templates import BUILTIN, own_template
from engine.recipes.reader import CHAT_TEMPLATES

TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Ho"},
    {"role": "user", "content": "Why?"},
]
TASK = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
RENDERED = {
    "alpaca": (
        "Be brief.\n\n### Instruction:\nHi\n\n### Response:\nHo</s>\n\n### Instruction:\nWhy?\n\n### Response:\n",
        f"{TASK}\n\n### Instruction:\nHi\n\n",
    ),
    "chatml": (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHo<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>user\nHi<|im_end|>\n",
    ),
    "exaone": (
        "[|system|]Be brief.[|endofturn|]\n[|user|]Hi\n[|assistant|]Ho[|endofturn|]\n[|user|]Why?\n[|assistant|]",
        "[|system|][|endofturn|]\n[|user|]Hi\n",
    ),
    "llama3": (
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nHo<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        "<s><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>",
    ),
    "mistral": (
        "<s>[INST] Be brief.\n\nHi [/INST] Ho</s>[INST] Why? [/INST]",
        "<s>[INST] Hi [/INST]",
    ),
}
"""By name: the conversation with a prompt to go on, and its first question alone without."""


def write_tokenizer(directory: Path, *tokens: str, template: str | None = None) -> Path:
    """A word tokenizer with these tokens after <unk>, <s> and </s>."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    ids = {token: number for number, token in enumerate(("<unk>", "<s>", "</s>", *tokens))}
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(ids, "<unk>")), unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    made.chat_template = template
    made.save_pretrained(directory)
    return directory


def recipe(models: list[Path], **top: Any) -> dict[str, Any]:
    entries = [{"model": str(model), "parameters": {"weight": 1}} for model in models]
    return {"merge_method": "linear", "models": entries, **top}


def test_every_name_that_recipes_may_use_is_built_in() -> None:
    assert {*BUILTIN, "auto"} == set(CHAT_TEMPLATES)


@pytest.mark.parametrize("name", sorted(BUILTIN))
def test_a_built_in_template_renders_the_published_format_from_the_merged_model(name: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    model = write_tokenizer(vocabulary_model(tmp_path / "model", rows=8), template="{{ 'old' }}")
    out = merge(parse_recipe(recipe([model], chat_template=name)), tmp_path / "out").out
    tokenizer = AutoTokenizer.from_pretrained(out)
    whole, first = RENDERED[name]
    assert tokenizer.apply_chat_template(TURNS, tokenize=False, add_generation_prompt=True) == whole
    assert tokenizer.apply_chat_template(TURNS[1:2], tokenize=False) == first


def family(folder: Path, *templates: str | None) -> list[Path]:
    models = []
    for number, template in enumerate(templates):
        models.append(vocabulary_model(folder / str(number), rows=8))
        if template is not None:
            (models[-1] / "chat_template.jinja").write_text(template)
    return models


@pytest.mark.parametrize(
    ("templates", "chosen"),
    [(("a", "b", "b", None, None, None), "b"), (("a", "b"), "a"), ((None, "b", "a"), "b"), ((None, None), None)],
)
def test_auto_is_the_most_common_template_and_the_earliest_of_equals(
    templates: tuple[str | None, ...], chosen: str | None, tmp_path: Path
) -> None:
    data = parse_recipe(recipe(family(tmp_path, *templates), chat_template="auto"), origin="r.yml")
    plan = make_plan(data, open_checkpoints(data.models))
    assert plan.chat_template == chosen
    warned = "r.yml: chat_template: auto, but no model has a chat template: none is written."
    assert plan.warnings == (() if chosen else (warned,))


def test_without_the_key_the_tokenizers_own_template_stays(tmp_path: Path) -> None:
    models = family(tmp_path / "models", "a", "b")
    out = merge(parse_recipe(recipe(models, tokenizer_source=str(models[1]))), tmp_path / "out").out
    assert (out / "chat_template.jinja").read_text() == "b"


def test_a_template_in_jinja_is_written_as_it_is(tmp_path: Path) -> None:
    text = "{% for m in messages %}{{ m.content }}{% endfor %}\n"
    out = merge(parse_recipe(recipe(family(tmp_path / "models", None), chat_template=text)), tmp_path / "out").out
    assert (out / "chat_template.jinja").read_text() == text


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"tokenizer_config.json": {"chat_template": "x"}}, "x"),
        ({"tokenizer_config.json": {"chat_template": "x"}, "chat_template.json": {"chat_template": "y"}}, "x"),
        ({"tokenizer_config.json": {}, "chat_template.json": {"chat_template": "y"}}, "y"),
        ({"tokenizer_config.json": {"chat_template": [{"name": "rag", "template": "r"}]}}, "r"),
        (
            {"tokenizer_config.json": {"chat_template": [{"name": n, "template": n} for n in ("rag", "default")]}},
            "default",
        ),
        ({"tokenizer_config.json": {"chat_template": None}}, None),
        ({}, None),
    ],
)
def test_a_models_template_is_found_where_transformers_looks(files: dict[str, Any], found: Any, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert own_template(tmp_path) == found
    (tmp_path / "chat_template.jinja").write_text("z")
    assert own_template(tmp_path) == "z"


def test_markers_that_the_tokenizer_does_not_know_as_tokens_are_named(tmp_path: Path) -> None:
    models = [vocabulary_model(tmp_path / name, rows=8) for name in ("without", "with")]
    write_tokenizer(models[0], "<|im_start|>")
    write_tokenizer(models[1], "<|im_start|>", "<|im_end|>")
    said = []
    for model in models:
        data = parse_recipe(recipe([model], chat_template="chatml"), origin="r.yml")
        said.append(make_plan(data, open_checkpoints(data.models)).warnings)
    assert said[0] == (
        "r.yml: chat_template: chatml marks turns with <|im_end|>, which the tokenizer of "
        f"{models[0]} does not have as tokens of their own.",
    )
    assert said[1] == ()
