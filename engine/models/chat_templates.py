"""Chat templates: the built-in ones, those that models bring along, and the one that a recipe chooses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.errors import SourceError
from engine.models.checkpoint import Checkpoint
from engine.recipes.recipe import ModelRef, Recipe
from engine.tensorfile.index import load_json_object

FILE = "chat_template.jinja"
JSON_FILE = "chat_template.json"
SETTINGS = "tokenizer_config.json"

_ALPACA_TASK = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
)
_ALPACA = (
    "{%- if messages[0]['role'] == 'system' -%}"
    "{{- messages[0]['content'] + '\\n\\n' -}}"
    "{%- else -%}"
    "{{- '" + _ALPACA_TASK + "\\n\\n' -}}"
    "{%- endif -%}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'user' -%}"
    "{{- '### Instruction:\\n' + message['content'] + '\\n\\n' -}}"
    "{%- elif message['role'] == 'assistant' -%}"
    "{{- '### Response:\\n' + message['content'] + eos_token + '\\n\\n' -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '### Response:\\n' -}}{%- endif -%}"
)
_CHATML = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
_EXAONE = (
    "{%- if messages[0]['role'] != 'system' -%}{{- '[|system|][|endofturn|]\\n' -}}{%- endif -%}"
    "{%- for message in messages -%}"
    "{{- '[|' + message['role'] + '|]' + message['content'] -}}"
    "{{- '\\n' if message['role'] == 'user' else '[|endofturn|]\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '[|assistant|]' -}}{%- endif -%}"
)
_LLAMA3 = (
    "{{- bos_token -}}"
    "{%- for message in messages -%}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' -}}"
    "{{- message['content'] | trim + '<|eot_id|>' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}{%- endif -%}"
)
_MISTRAL = (
    "{{- bos_token -}}"
    "{%- set turn = namespace(lead='') -%}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}"
    "{%- set turn.lead = turn.lead + message['content'] + '\\n\\n' -%}"
    "{%- elif message['role'] == 'user' -%}"
    "{{- '[INST] ' + turn.lead + message['content'] + ' [/INST]' -}}"
    "{%- set turn.lead = '' -%}"
    "{%- else -%}"
    "{{- ' ' + message['content'] | trim + eos_token -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
)
BUILTIN: Mapping[str, str] = {
    "alpaca": _ALPACA,
    "chatml": _CHATML,
    "exaone": _EXAONE,
    "llama3": _LLAMA3,
    "mistral": _MISTRAL,
}
"""By mergekit's names, written anew from the public formats: Stanford Alpaca's prompt, ChatML, EXAONE 3.0, Llama 3,
Mistral 7B Instruct (which has no system role: its text leads the next instruction)."""
_MARKERS: Mapping[str, tuple[str, ...]] = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "exaone": ("[|system|]", "[|user|]", "[|assistant|]", "[|endofturn|]"),
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
}
"""What a model must have as single tokens for a format to work as intended."""


def own_template(directory: Path) -> str | None:
    """The chat template that transformers finds in a model's directory; of several named ones the default."""
    if (directory / FILE).is_file():
        try:
            return (directory / FILE).read_bytes().decode()
        except (OSError, UnicodeDecodeError) as error:
            raise SourceError(f"{directory / FILE}: cannot be read: {error}.") from error
    for name in (SETTINGS, JSON_FILE):
        said = load_json_object(directory / name).get("chat_template") if (directory / name).is_file() else None
        if said:
            return _default(said)
    return None


def choose_template(recipe: Recipe, checkpoints: Mapping[ModelRef, Checkpoint]) -> tuple[str | None, list[str]]:
    """The template to write, None where the tokenizer's files stay as they are; and warnings."""
    chosen = recipe.chat_template
    if chosen == "auto":
        return _most_common(recipe, checkpoints)
    if chosen is None or chosen not in BUILTIN:
        return chosen, []
    vocabulary = checkpoints[recipe.tokenizer_model].vocabulary
    markers = _MARKERS.get(chosen, ())
    missing = [marker for marker in markers if vocabulary is not None and marker not in vocabulary.ids]
    if not missing:
        return BUILTIN[chosen], []
    return BUILTIN[chosen], [
        f"{recipe.origin}: chat_template: {chosen} marks turns with {', '.join(missing)}, which the tokenizer of "
        f"{recipe.tokenizer_model} does not have as tokens of their own."
    ]


def _most_common(recipe: Recipe, checkpoints: Mapping[ModelRef, Checkpoint]) -> tuple[str | None, list[str]]:
    """The template that most of the models with one have; of equally common ones the earliest in the recipe."""
    models = dict.fromkeys(recipe.named())
    found = [own_template(checkpoints[ref].tokenizer_directory) for ref in models]
    counts = Counter(template for template in found if template is not None)
    if counts:
        return counts.most_common(1)[0][0], []  # in order of first appearance where counts are equal
    return None, [f"{recipe.origin}: chat_template: auto, but no model has a chat template: none is written."]


def _default(said: Any) -> str | None:
    """`chat_template` of a JSON file: text, or a list of {name, template} in older files."""
    if isinstance(said, str):
        return said
    named = {entry.get("name"): entry.get("template") for entry in said if isinstance(entry, dict)}
    default = named.get("default", next(iter(named.values()), None))
    return default if isinstance(default, str) else None
