"""The card is read by the Hub (front matter) and by people (Markdown): both are parsed here, not compared as text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import yaml
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from engine.outputs.card import CardFacts, Extras, SourceFacts, model_card, table

FACTS = CardFacts(
    name="winner",
    method="ties",
    recipe_yaml="merge_method: ties\nmodels:\n- model: org/a\n",
    sources=(
        SourceFacts("org/a", commit="0" * 40),
        SourceFacts("org/b@v1", commit="1" * 40),
        SourceFacts("/data/local", identity="3 files, 12 bytes"),
    ),
    version="0.1.0",
    digests={"weights": "ab" * 32},
)


def front_matter(text: str) -> dict[str, Any]:
    head, _, rest = text.removeprefix("---\n").partition("\n---\n")
    assert rest
    loaded = yaml.safe_load(head)
    assert isinstance(loaded, dict)
    return loaded


def test_the_front_matter_names_hub_sources_only_and_no_revision() -> None:
    assert front_matter(model_card(FACTS)) == {
        "base_model": ["org/a", "org/b"],
        "base_model_relation": "merge",
        "library_name": "transformers",
        "tags": ["mergefleet", "merge"],
    }


def test_the_hub_client_reads_the_front_matter() -> None:
    data = ModelCard(model_card(FACTS)).data.to_dict()
    assert data["base_model"] == ["org/a", "org/b"]
    assert data["library_name"] == "transformers"


def test_without_a_hub_source_there_is_no_base_model() -> None:
    local = replace(FACTS, sources=FACTS.sources[2:])
    assert front_matter(model_card(local)).keys() == {"library_name", "tags"}
    assert "from 1 model." in model_card(local)


def test_recipe_sources_and_digests_are_in_the_text() -> None:
    text = model_card(FACTS)
    assert "```yaml\nmerge_method: ties\nmodels:\n- model: org/a\n```" in text
    for part in ("`/data/local`", "3 files, 12 bytes", "1" * 40, "ab" * 32, "0.1.0", "# winner"):
        assert part in text


def test_a_table_keeps_what_stands_in_its_cells() -> None:
    text = table(("model", "sorting"), (("winner", "0.87 ± 0.01"), ("a|b", "0.5")))
    assert text == "| model | sorting |\n| --- | --- |\n| winner | 0.87 ± 0.01 |\n| a\\|b | 0.5 |"


def test_extras_stand_in_their_places_and_their_metadata_is_stronger() -> None:
    extras = Extras(
        name="better",
        metadata={"license": "mit", "library_name": "other"},
        lead="It won.",
        sections=[("Scores", "high")],
        closing=[("Again", "so")],
    )
    text = model_card(replace(FACTS, extras=extras))
    places = [
        text.index(part) for part in ("# better", "It won.", "Merged with", "## Scores", "## Sources", "## Again")
    ]
    assert places == sorted(places)
    assert front_matter(text)["license"] == "mit"
    assert front_matter(text)["library_name"] == "other"


visible = st.text(st.characters(exclude_categories=["C", "Z"]) | st.sampled_from(" `|#-*[]<>\\@"), max_size=12)


@given(visible, visible, st.lists(visible, max_size=5).map("\n".join), st.lists(visible, max_size=3))
def test_no_text_breaks_out_of_its_place(name: str, source: str, recipe: str, tags: list[str]) -> None:
    sources = (SourceFacts(f"org/{source}", commit="c"),)
    text = model_card(replace(FACTS, name=f"n {name}", sources=sources, recipe_yaml=recipe, tags=tags))
    assert front_matter(text)["base_model"] == [f"org/{source}".partition("@")[0]]
    assert set(tags) <= set(front_matter(text)["tags"])
    body = MarkdownIt("commonmark").enable("table").parse(text.removeprefix("---\n").partition("\n---\n")[2])
    headings = [body[i + 1].content for i, token in enumerate(body) if token.type == "heading_open"]
    assert headings[1:] == ["Sources", "Recipe", "Digests"]
    assert [token.content.rstrip() for token in body if token.type == "fence"] == [recipe.rstrip()]
    assert sum(token.type == "td_open" for token in body) == 4
