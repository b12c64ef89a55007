"""Whether engine hf can score a model: told by config.json and tensors' names, before anything is loaded.

What cannot be scored can be merged to files all the same: a classifier, a body without a head, or a multimodal model
that transformers makes by another class than AutoModelForCausalLM.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from engine.models.architecture import has_head
from search import collector

_OTHER_HEADS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice")


def why_unscorable(config: Mapping[str, Any], names: Iterable[str]) -> str | None:
    """What is in the way of scoring a model of this config.json and these tensors; None where nothing is known to be.

    AutoModelForCausalLM's own question: has it a class for this config? And whether that class would find its head.
    """
    with collector.importing():
        from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    kind = str(config.get("model_type"))
    if kind not in CONFIG_MAPPING:
        return f"config.json: transformers has no model_type {kind!r}"
    said = config.get("architectures") or []
    named = f"config.json says {', '.join(map(str, said)) or 'no architecture'} (model_type {kind})"
    with collector.importing():
        found = AutoModelForCausalLM._model_mapping.get(CONFIG_MAPPING[kind], None)
    if found is None:
        return f"{named}, for which transformers' AutoModelForCausalLM has no class"
    made = {each.__name__ for each in (found if isinstance(found, (list, tuple)) else [found])}
    if not said or made.intersection(said) or has_head(names):
        return None
    if any(str(name).endswith(_OTHER_HEADS) for name in said) or not _ties(config, CONFIG_MAPPING[kind]):
        return f"{named}, and there is no head among its tensors that would predict tokens"
    return None


def _ties(config: Mapping[str, Any], settings: Any) -> bool:
    """Whether the token embedding serves as the head; where config.json does not say so, its class does."""
    text = settings.from_dict(dict(config)).get_text_config()
    return bool(text.tie_word_embeddings)
