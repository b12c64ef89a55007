"""YAML files: plain data out, and errors with file, line and column."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import CampaignError, RecipeError
from engine.recipes.yamlfile import MAX_BYTES, parse_yaml, read_yaml

scalars = st.one_of(st.integers(), st.floats(allow_nan=False), st.booleans(), st.none(), st.text(max_size=8))
documents = st.dictionaries(
    st.text(max_size=5),
    st.recursive(scalars, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(scalars, inner))),
    max_size=4,
)


@given(documents)
def test_what_a_yaml_library_writes_reads_back_as_it_was(data: dict[str, object]) -> None:
    assert parse_yaml(yaml.safe_dump(data, allow_unicode=False), origin="r.yml") == data


def refusal(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        parse_yaml(text, origin="r.yml")
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: b\n— c: d\n", "r.yml: line 2, column 1: found '—' (U+2014, em dash), '-' expected."),
        ("a:\n  – b\n  – c\n", "r.yml: line 2, column 3: found '–' (U+2013, en dash), '-' expected."),
        ("a:\n- b\n- – c\n", "r.yml: line 3, column 3: found '–' (U+2013, en dash), '-' expected."),
        ("- a\n- b\n  — c\n", "r.yml: line 3, column 3: found '—' (U+2014, em dash), '-' expected."),
        ("a: −0.5\n", "r.yml: line 1, column 4: found '−' (U+2212, minus sign), '-' expected."),
        ("a: “x”\n", "r.yml: line 1, column 4: found '“' (U+201C, left double quotation mark), '\"' expected."),
        ("a:\n\u00a0 b: 1\n", "r.yml: line 2, column 1: found '\\xa0' (U+00A0, no-break space), ' ' expected."),
        ("a: 1\nb: 2\na: 3\n", "r.yml: line 3, column 1: key 'a' is given twice (first on line 1)."),
        ("a: {b: 1, b: 2}\n", "r.yml: line 1, column 11: key 'b' is given twice (first on line 1)."),
        (
            "a: [1]b: 2\nc: 3\n",
            "r.yml: line 1, column 7: did not find expected key, found 'b: 2': "
            "is a line break or a comma missing before it?",
        ),
        ("a: {b: 1\n", "r.yml: line 2, column 1: did not find expected ',' or '}'."),
        (
            "a:\n\t- b\n",
            "r.yml: line 2, column 1: found character that cannot start any token, found a tab: indent with spaces.",
        ),
        (
            "filter: *\n",
            "r.yml: line 1, column 10: did not find expected alphabetic or numeric character: "
            "a lone * must be quoted: '*'.",
        ),
        ("a: *b\n", "r.yml: line 1, column 4: found undefined alias, found '*b'."),
        ("x: y\na: \x01\n", "r.yml: line 2, column 4: control character U+0001: delete it."),
        (
            "a: 1\n---\nb: 2\n",
            "r.yml: line 2, column 1: a second document starts here, only one is expected.",
        ),
        ("", "r.yml: the file is empty."),
        ("# only a comment\n", "r.yml: the file is empty."),
        ("? [1]\n: 2\n", "r.yml: line 1, column 3: found unhashable key, found '[1]'."),
        ("a: !!int x\n", "r.yml: a value does not fit its YAML tag: invalid literal for int() with base 10: 'x'."),
    ],
)
def test_what_cannot_be_read_is_refused_by_line_column_and_character(text: str, message: str) -> None:
    assert refusal(text) == message


@pytest.mark.parametrize("text", ["a: |\n  — x\n", "a: 'x\n  — y'\n", "# — x\na: 1\n", "a: 1 — 2 # — 3\n", '"—": 1\n'])
def test_typographic_characters_are_welcome_in_quotes_blocks_comments_and_inside_of_text(text: str) -> None:
    assert parse_yaml(text, origin="r.yml") == yaml.safe_load(text)


def test_python_objects_are_refused_and_never_made() -> None:
    assert "could not determine a constructor" in refusal("a: !!python/object/apply:os.getcwd []\n")


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 100_000, "- " * 100_000])
def test_nesting_that_would_overflow_the_parsers_stack_is_refused(text: str) -> None:
    assert "nested more than 64 levels deep" in refusal(text)


def test_merge_keys_work_and_cannot_be_made_into_a_bomb() -> None:
    assert parse_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n", origin="r.yml") == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 1, "y": 3},
    }
    assert "has a '<<' itself" in refusal("a: &a {x: 1}\nb: &b {<<: *a}\nc: {<<: *b}\n")
    assert "has a '<<' itself" in refusal("a: &a {<<: *a}\n")
    wide = "a: &a {" + ", ".join(f"k{i}: 1" for i in range(200)) + "}\nb: {<<: [" + "*a, " * 100 + "]}\n"
    assert "merges expand to 20_000 entries" in refusal(wide)


def test_dates_stay_text_because_no_recipe_has_dates() -> None:
    assert parse_yaml("name: 2024-01-01\n", origin="r.yml") == {"name": "2024-01-01"}


def test_a_file_with_a_byte_order_mark_reads_like_one_without(tmp_path: Path) -> None:
    (tmp_path / "r.yml").write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    assert read_yaml(tmp_path / "r.yml") == {"a": 1, "b": 2}


def test_files_that_are_missing_folders_huge_or_not_utf8_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none\.yml: there is no such file\."):
        read_yaml(tmp_path / "none.yml")
    with pytest.raises(RecipeError, match="cannot be read: Is a directory"):
        read_yaml(tmp_path)
    (tmp_path / "latin.yml").write_bytes(b"a: \xe9\n")
    with pytest.raises(RecipeError, match=r"latin\.yml: byte 3 is not UTF-8"):
        read_yaml(tmp_path / "latin.yml")
    (tmp_path / "huge.yml").write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(RecipeError, match="Is this a YAML file"):
        read_yaml(tmp_path / "huge.yml")


def test_the_caller_chooses_the_error_and_gets_the_place_as_facts() -> None:
    with pytest.raises(CampaignError) as caught:
        parse_yaml("a: 1\na: 2\n", origin="c.yml", error=CampaignError)
    assert caught.value.facts == {"file": "c.yml", "line": 2, "column": 1}


def test_a_json_file_is_read_as_json_where_small_numbers_need_no_dot(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({"a": 1e-05, "b": [1, None]}))
    assert "1e-05" in path.read_text()
    assert read_yaml(path) == {"a": 1e-05, "b": [1, None]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1,}', "line 1, column 9: not valid JSON: "),
        ('{"a": 1, "a": 2}', "key 'a' is given twice."),
        ("[" * 100_000, "cannot be read as JSON: "),
        ("9" * 5000, "cannot be read as JSON: "),
    ],
)
def test_broken_json_is_refused_like_broken_yaml(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        read_yaml(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_aliases_that_expand_without_measure_are_refused() -> None:
    lists = [f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]" for before, name in pairwise("abcdefghi")]
    assert "more than 200_000 entries" in refusal("\n".join(["a: &a [x]", *lists]))
    assert "one that holds itself" in refusal("a: &a [*a]")


def test_aliases_in_ordinary_number_are_written_out() -> None:
    assert parse_yaml("a: &a [1, 2]\nb: [*a, *a]\n", origin="r.yml") == {"a": [1, 2], "b": [[1, 2], [1, 2]]}
