"""Whether engine hf can score a model: told by config.json and tensors' names, before anything is loaded.

What cannot be scored can be merged to files all the same: a classifier, a body without a head, or a multimodal model
that transformers makes by another class than AutoModelForCausalLM.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from engine.models.architecture import has_head, says_tied
from search import collector

_CAUSAL_HEADS = ("ForCausalLM", "LMHeadModel")
_OTHER_HEADS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice")


def why_unscorable(config: Mapping[str, Any], names: Iterable[str]) -> str | None:
    """What is in the way of scoring a model of this config.json and these tensors; None where nothing is known to be.

    AutoModelForCausalLM's own question: has it a class for this config? And whether that class would find its head.
    What is called a causal model is taken for one: the table of classes imports torch, 3 s more for a plan.
    """
    with collector.importing():
        from transformers.models.auto.auto_mappings import CONFIG_MAPPING_NAMES

    kind, given = str(config.get("model_type")), config.get("architectures") or []
    said = [str(name) for name in (given if isinstance(given, list) else [given])]
    if kind in CONFIG_MAPPING_NAMES and any(name.endswith(_CAUSAL_HEADS) for name in said):
        return None
    with collector.importing():
        from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    if kind not in CONFIG_MAPPING:
        return f"config.json: transformers has no model_type {kind!r}"
    named = f"config.json says {', '.join(said) or 'no architecture'} (model_type {kind})"
    with collector.importing():
        found = AutoModelForCausalLM._model_mapping.get(CONFIG_MAPPING[kind], None)
    if found is None:
        return f"{named}, for which transformers' AutoModelForCausalLM has no class"
    if any(name.endswith("ForMaskedLM") for name in said) and not config.get("is_decoder"):
        return f"{named}, which sees the token that it is to predict (without is_decoder)"
    made = {each.__name__ for each in (found if isinstance(found, (list, tuple)) else [found])}
    if not said or made.intersection(said) or has_head(names):
        return None
    tied = says_tied(config)
    if tied is None:  # where config.json does not say so, its class does
        tied = getattr(CONFIG_MAPPING[kind], "tie_word_embeddings", True)
    if not tied or any(name.endswith(_OTHER_HEADS) for name in said):
        return f"{named}, and there is no head among its tensors that would predict tokens"
    return None
