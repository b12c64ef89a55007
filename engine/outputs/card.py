"""README.md of a published model: front matter that the Hub reads, then what was merged, from what, and proof."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from engine.digest import of_json

if TYPE_CHECKING:
    from engine.recipes.model_ref import ModelRef


@dataclass(frozen=True)
class SourceFacts:
    """One source: what it is called, the Hub commit where it came from the Hub, else a digest that identifies it."""

    name: str
    commit: str | None = None
    identity: str = ""

    @property
    def is_hub(self) -> bool:
        return self.commit is not None


def source_facts(ref: ModelRef, identity: Mapping[str, Any], content: str | None = None) -> list[SourceFacts]:
    """What a card says of one source: a line, or two where it is a model with an adapter.

    `content` is the digest of its tensors, where it is known.
    """
    if ref.lora is not None:
        return [*source_facts(ref.bare, identity["model"]), *source_facts(ref.lora, identity["adapter"])]
    commit = identity.get("commit")
    return [SourceFacts(str(ref), commit, "" if commit else content or of_json(identity)[:16])]


@dataclass(frozen=True)
class Extras:
    """What a card says besides the merge: how the model was found and judged, say. All text is Markdown.

    Attributes:
        name: what the model is called; default: the last part of where it is.
        metadata: more front matter (license, model-index), after our own and stronger.
        lead: what stands first, below the name.
        sections: title and text, before the sources.
        closing: title and text, at the end.
    """

    name: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    lead: str = ""
    sections: Sequence[tuple[str, str]] = ()
    closing: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class CardFacts:
    """What a card says; `digests` maps what is digested (`weights`, `recipe`, `plan`) to hex."""

    name: str
    method: str
    recipe_yaml: str
    sources: Sequence[SourceFacts]
    version: str
    dtype: str | None = None
    digests: Mapping[str, str] = field(default_factory=dict)
    extras: Extras = field(default_factory=Extras)
    tags: Sequence[str] = ()
    library: str | None = "transformers"


def model_card(facts: CardFacts) -> str:
    """The text of README.md: YAML front matter (https://huggingface.co/docs/hub/model-cards) and Markdown.

    Only sources on the Hub stand under `base_model`, which takes nothing but repository ids; a local path is
    named in the table of sources.
    """
    extras = facts.extras
    parts = [_front_matter(facts), f"# {_plain(extras.name or facts.name)}"]
    parts += [extras.lead] if extras.lead else []
    parts += [
        f"Merged with mergefleet {facts.version}, method `{facts.method}`, "
        f"from {len(facts.sources)} model{'s' * (len(facts.sources) != 1)}.",
        *_titled(extras.sections),
    ]
    rows = [(_code(source.name), _code(source.commit or source.identity)) for source in facts.sources]
    parts += ["## Sources", table(("model", "commit or digest"), rows)]
    parts += ["## Recipe", fenced(facts.recipe_yaml, "yaml")]
    if facts.digests:
        digests = [(name, _code(digest)) for name, digest in facts.digests.items()]
        parts += ["## Digests", table(("of", "hex"), digests), "`provenance.json` holds them in full."]
    parts += _titled(extras.closing)
    return "\n\n".join(parts) + "\n"


def _titled(sections: Sequence[tuple[str, str]]) -> list[str]:
    return [part for title, text in sections for part in (f"## {_plain(title)}", text)]


def _front_matter(facts: CardFacts) -> str:
    data: dict[str, object] = {}
    base_models = list(dict.fromkeys(source.name.partition("@")[0] for source in facts.sources if source.is_hub))
    if base_models:
        data["base_model"] = base_models
        data["base_model_relation"] = "merge"
    if facts.library:
        data["library_name"] = facts.library
    data["tags"] = list(dict.fromkeys(("mergefleet", "merge", *facts.tags)))
    data |= facts.extras.metadata
    return f"---\n{yaml.safe_dump(data, sort_keys=False, allow_unicode=True)}---"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; whatever stands in a cell stays in it."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("\r", " ").replace("\n", " ").replace("|", "\\|")


def _plain(text: str) -> str:
    return " ".join(text.split())


def _code(text: str) -> str:
    """Inline code that may itself contain backticks (CommonMark 6.1: a longer run of them delimits)."""
    if not text:
        return ""
    ticks = "`" * (1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    pad = " " if len(ticks) > 1 else ""
    return f"{ticks}{pad}{text}{pad}{ticks}"


def fenced(text: str, language: str) -> str:
    """A block of code that no text in it can end."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"
