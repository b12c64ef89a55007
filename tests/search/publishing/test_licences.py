"""The licence of a merge: that of all, the strictest, `other` if none contains the rest, `unknown` if one is mute."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pytest
from made_results import make_campaign

from search.publishing.licences import Licence, merged_licence
from search.publishing.parents import Parent, front_matter
from search.publishing.publish import local_names, read_parents


@pytest.mark.parametrize(
    ("parents", "expected", "note"),
    [
        (["apache-2.0", "apache-2.0"], "apache-2.0", ""),
        (["mit", "apache-2.0"], "apache-2.0", "strictest"),
        (["cc0-1.0", "mit", "bsd-3-clause"], "bsd-3-clause", "strictest"),
        (["apache-2.0", "gpl-3.0"], "gpl-3.0", "strictest"),
        (["lgpl-3.0", "agpl-3.0", "mit"], "agpl-3.0", "strictest"),
        (["mit", "llama3"], "llama3", "strictest"),
        (["apache-2.0", "cc-by-nc-4.0"], "cc-by-nc-4.0", "strictest"),
        (["llama3", "cc-by-nc-4.0"], "other", "none contains the others"),
        (["llama2", "llama3"], "other", "none contains the others"),
        (["gpl-3.0", "openrail"], "other", "none contains the others"),
        (["cc-by-sa-4.0", "cc-by-nc-4.0"], "other", "none contains the others"),
        (["cc-by-nd-4.0", "mit"], "other", "a merge is a change"),
        (["mit", None], "unknown", "stated by model 1"),
        (["unknown", "mit"], "unknown", "stated by model 0"),
        (["my-own", "mit"], "other", "none contains the others"),
    ],
)
def test_the_table(parents: list[str | None], expected: str, note: str) -> None:
    named = [(f"model {n}", None if text is None else Licence(text)) for n, text in enumerate(parents)]
    for order in permutations(named):  # whoever is first does not decide
        verdict = merged_licence(order)
        assert verdict.licence.id == expected
        assert note in verdict.note


def test_two_licences_called_other_are_one_only_where_name_and_link_are_the_same() -> None:
    named = Licence("other", "research", "https://a.example")
    assert merged_licence([("a", named), ("b", named)]).licence == named
    assert merged_licence([("a", named), ("b", Licence("other", "trade"))]).licence == Licence("other")


def test_a_link_to_the_text_of_a_known_licence_makes_it_no_other_licence() -> None:
    linked = Parent("base", {"license": "apache-2.0", "license_link": "https://a.example/LICENSE"})
    plain, own = Parent("source", {"license": "apache-2.0"}), {"license": "other", "license_name": "research"}
    assert merged_licence([(p.name, p.licence) for p in (linked, plain)]).licence == Licence("apache-2.0")
    assert Parent("a", {**own, "license_link": "LICENSE"}).licence == Licence("other", "research", "LICENSE")


def test_an_adapter_is_a_parent_with_a_licence_of_its_own(tmp_path: Path) -> None:
    for name, stated in {"base": "mit", "poems": "cc-by-nc-4.0", "tales": "mit"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "README.md").write_text(f"---\nlicense: {stated}\n---\n")
    base = str(tmp_path / "base")
    changes = {"base_model": base, "sources": [f"{base}+{tmp_path / name}" for name in ("poems", "tales")]}
    campaign = make_campaign(**changes)
    merged = {"merge_method": "linear", "models": [{"model": name} for name in changes["sources"]]}
    parents = read_parents(campaign, local_names(campaign), merged)
    assert {parent.name: parent.licence for parent in parents} == {
        "base": Licence("mit"),
        campaign.source_names[0]: Licence("cc-by-nc-4.0"),
        campaign.source_names[1]: Licence("mit"),
    }
    assert merged_licence([(p.name, p.licence) for p in parents]).licence.id == "cc-by-nc-4.0"
    merged["models"] = merged["models"][1:]  # a source that a recipe leaves out is no parent of its merge
    without = read_parents(campaign, local_names(campaign), merged)
    assert merged_licence([(p.name, p.licence) for p in without]).licence.id == "mit"


def test_a_parents_card_is_read_as_far_as_it_can_be() -> None:
    assert Parent("a", front_matter("---\nlicense: MIT\nlanguage: en\n---\n# a")).licence == Licence("mit")
    assert Parent("a", front_matter("---\nlicense: [mit]\nlanguage: [en, de]\n---\n")).languages == ("en", "de")
    for text in ("# no front matter", "---\n: [\n---\n", "---\nlicense: 3\n---\n", ""):
        assert Parent("a", front_matter(text)).licence is None
