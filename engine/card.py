"""README.md of a published model: front matter that the Hub reads, then what was merged, from what, and proof."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from engine.digest import of_json

if TYPE_CHECKING:
    from engine.model_ref import ModelRef


@dataclass(frozen=True)
class SourceFacts:
    """One source: its name in the recipe, the Hub commit where it came from the Hub, and its cheap identity."""

    name: str
    commit: str | None = None
    identity: str = ""

    @property
    def is_hub(self) -> bool:
        return self.commit is not None


def source_facts(ref: ModelRef, identity: Mapping[str, Any]) -> list[SourceFacts]:
    """What a card says of one source: a line, or two where it is a model with an adapter."""
    if ref.lora is not None:
        return [*source_facts(ref.bare, identity["model"]), *source_facts(ref.lora, identity["adapter"])]
    commit = identity.get("commit")
    return [SourceFacts(str(ref), commit, "" if commit else of_json(identity)[:16])]


@dataclass(frozen=True)
class ScoreTable:
    """Scores to print: one row per model, cells as text (`0.871 ± 0.012`), first the published one."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


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
    scores: ScoreTable | None = None
    tags: Sequence[str] = ()
    library: str | None = "transformers"


def model_card(facts: CardFacts) -> str:
    """The text of README.md: YAML front matter (https://huggingface.co/docs/hub/model-cards) and Markdown.

    Only sources on the Hub stand under `base_model`, which takes nothing but repository ids; a local path is
    named in the table of sources.
    """
    parts = [
        _front_matter(facts),
        f"# {_plain(facts.name)}",
        f"Merged with mergefleet {facts.version}, method `{facts.method}`, "
        f"from {len(facts.sources)} model{'s' * (len(facts.sources) != 1)}.",
    ]
    if facts.scores is not None:
        parts += ["## Scores", _table(facts.scores.columns, facts.scores.rows)]
        parts += [facts.scores.caption] if facts.scores.caption else []
    rows = [(_code(source.name), _code(source.commit or source.identity)) for source in facts.sources]
    parts += ["## Sources", _table(("model", "commit or identity"), rows)]
    parts += ["## Recipe", _fenced(facts.recipe_yaml, "yaml")]
    if facts.digests:
        digests = [(name, _code(digest)) for name, digest in facts.digests.items()]
        parts += ["## Digests", _table(("of", "hex"), digests), "`provenance.json` holds them in full."]
    return "\n\n".join(parts) + "\n"


def _front_matter(facts: CardFacts) -> str:
    data: dict[str, object] = {}
    base_models = list(dict.fromkeys(source.name.partition("@")[0] for source in facts.sources if source.is_hub))
    if base_models:
        data["base_model"] = base_models
        data["base_model_relation"] = "merge"
    if facts.library:
        data["library_name"] = facts.library
    data["tags"] = list(dict.fromkeys(("mergefleet", "merge", *facts.tags)))
    return f"---\n{yaml.safe_dump(data, sort_keys=False, allow_unicode=True)}---"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
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


def _fenced(text: str, language: str) -> str:
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"
