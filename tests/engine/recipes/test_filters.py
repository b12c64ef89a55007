"""Filters: parts of names, patterns, patterns that would take for ever, and what is said where nothing matches."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import RecipeError
from engine.recipes.filters import MAX_CHOICES, MAX_WIDE_REPEATS, matches, nearest, parse_filter, unmatched
from engine.recipes.keypath import KeyPath

PLACE = KeyPath("r.yml", "parameters.t[0].filter")
NAME = "model.layers.10.mlp.up_proj.weight"
names = st.text("ab1.", max_size=8)


@given(st.text("ab1.", min_size=1, max_size=3), names)
def test_a_filter_is_a_part_of_the_name(part: str, name: str) -> None:
    assert matches(part, name) == (part in name)


@given(st.from_regex(r"[ab1.]{1,3}[+?]?", fullmatch=True), names)
def test_a_pattern_is_searched_as_python_searches_it(pattern: str, name: str) -> None:
    assert matches(f"re:{pattern}", name) == bool(re.search(pattern, name))


@pytest.mark.parametrize("everything", [None, "", "*"])
def test_nothing_and_a_star_are_for_every_tensor(everything: str | None) -> None:
    assert parse_filter(everything, PLACE) == everything
    assert matches(everything, NAME)


@pytest.mark.parametrize(
    "pattern",
    [
        r"layers\.\d+\.mlp\.(up|down)_proj",
        r"^(?!.*norm).*\.layers\.\d+\..*proj",
        r"layers\.([0-9]|1[0-5])\.",
        r"experts\.\d{1,3}\.w[123]$",
        r"(?i)MLP",
        r"[(]a+[)]+|\(b\)",
        r"(?:layers\.)+\d",
    ],
)
def test_patterns_that_people_write_are_taken(pattern: str) -> None:
    assert parse_filter(f"re:{pattern}", PLACE) == f"re:{pattern}"


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (7, "got 7, text expected: write it in quotes."),
        ("re:", "got a pattern of 0 characters, 1 to 200 expected."),
        ("re:" + "a" * 201, "got a pattern of 201 characters, 1 to 200 expected."),
        ("re:[z-a]", "'[z-a]' is no regular expression: bad character range z-a at character 2."),
        ("re:a{99999999999}", "'a{99999999999}' is no regular expression: the repetition number is too large."),
        (r"re:(a+)+$", "'(a+)+$' repeats (+) a group that holds a repeat or a choice itself"),
        (r"re:(a|aa){2,}$", "'(a|aa){2,}$' repeats ({2,}) a group that holds a repeat or a choice itself"),
        (r"re:((a?)b)*$", "'((a?)b)*$' repeats (*) a group that holds a repeat or a choice itself"),
        (r"re:(.)\1", r"'(.)\\1' refers back to a group (\1)"),
        (r"re:(?P<x>.)(?P=x)", "'(?P<x>.)(?P=x)' refers back to a group ((?P=)"),
        ("re:.*a.*b.*c.*d", "'.*a.*b.*c.*d' has 4 repeats like .* (at most 3 are allowed)"),
        ("re:" + "a?" * 9, "'a?a?a?a?a?a?a?a?a?' has 9 choices (at most 8 are allowed)"),
    ],
)
def test_a_pattern_that_is_wrong_or_could_take_for_ever_is_refused(raw: object, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_filter(raw, PLACE)
    ending = "" if message.endswith(".") else ", which can take for ever: write it without."
    assert str(caught.value) == f"r.yml: parameters.t[0].filter: {message}{ending}"


@pytest.mark.parametrize(
    "pattern", [".*" * MAX_WIDE_REPEATS + "X", "(e|.)" * MAX_CHOICES + ".*" * (MAX_WIDE_REPEATS - 1) + "X"]
)
def test_the_slowest_patterns_that_are_taken_end_soon(pattern: str) -> None:
    assert parse_filter(f"re:{pattern}", PLACE) is not None
    before = time.process_time()
    assert not matches(f"re:{pattern}", "e" * 60)
    assert time.process_time() - before < 5


def test_filters_for_no_tensor_are_found_and_the_nearest_parts_of_names_named() -> None:
    assert unmatched(["mlp", None, "*", "self_atn", "re:q_proj$", "self_atn"], [NAME]) == ["self_atn", "re:q_proj$"]
    assert nearest("mpl", [NAME]) == "did you mean 'mlp'?"
    assert nearest("re:up_porj", [NAME]) == "did you mean 'up_proj'?"
    assert nearest("gate", [NAME]) == f"names look like {NAME!r}"
    assert nearest("mlp", []) == "there are no tensors to choose from"
