"""What became of the files beside the weights: altered, missing, added, or no part of the model at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.planning.beside import Beside, compare, digest_of, digests_in, held_in, shown, written

FILES = {
    "config.json": b"{}",
    "tokenizer.json": b"{}",
    "generation_config.json": b"{}",
    "chat_template.jinja": b"x",
    "additional_chat_templates/tool.jinja": b"y",
    "modeling_x.py": b"",
    "mergekit_config.yml": b"a: 1",
    "README.md": b"# a card",
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    for name, data in FILES.items():
        write(tmp_path / name, data)
    write(tmp_path / "model.safetensors", b"weights")
    write(tmp_path / "provenance.json", b"{}")
    return tmp_path


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def facts(model: Path, *, old: bool = False) -> dict[str, Any]:
    """As a merge writes them; `old`: as it did before it noted digests."""
    known = {"files": sorted(path.name for path in model.iterdir())}
    return known if old else known | {"small_files": digests_in(model, but={"model.safetensors", "provenance.json"})}


def test_all_that_is_written_has_a_digest_but_weights_and_provenance(model: Path) -> None:
    assert written(facts(model)) == set(FILES)
    assert compare(held_in(model), facts(model), None) == Beside()


@pytest.mark.parametrize("name", FILES)
def test_any_file_that_is_altered_or_removed_is_named_and_a_card_makes_no_other_model(name: str, model: Path) -> None:
    was, model_is_other = facts(model), () if name == "README.md" else (name,)
    (model / name).write_bytes(FILES[name] + b" ")
    found = compare(held_in(model), was, None)
    assert (found.altered, found.wrong) == ((name,), model_is_other)
    (model / name).unlink()
    found = compare(held_in(model), was, None)
    assert (found.missing, found.altered, found.wrong) == ((name,), (), model_is_other)


@pytest.mark.parametrize(
    ("name", "is_loaded"),
    [
        ("tokenizer_config.json", True),
        ("adapter_config.json", True),
        ("model-00001-of-00002.safetensors", True),
        ("model.safetensors.index.json", True),
        ("additional_chat_templates/mine.jinja", True),
        ("configuration_x.py", True),
        ("notes.txt", False),
        ("model.gguf", False),
        ("eval/results.json", False),
        (".gitattributes", None),
        (".cache/huggingface/x", None),
    ],
)
def test_an_added_file_makes_it_another_model_only_where_loaders_read_it(
    name: str, is_loaded: bool | None, model: Path
) -> None:
    was = facts(model)
    write(model / name, b"?")
    found = compare(held_in(model), was, None)
    said = name if is_loaded else name.replace("eval/results.json", "eval/")
    assert found.added == ((said,) if is_loaded else ())
    assert found.others == ((said,) if is_loaded is False else ())
    assert bool(found.wrong) == bool(is_loaded)


def test_without_digests_what_is_made_again_is_compared_and_the_rest_is_said_to_be_unknown(model: Path) -> None:
    was = facts(model, old=True)
    again = {"config.json": digest_of(b"{}"), "tokenizer.json": digest_of(b"{}"), "vocab.json": digest_of(b"{}")}
    found = compare(held_in(model), was, again)
    assert (found.changes, found.wrong) == ([], ())
    assert {"README.md", "mergekit_config.yml"} <= set(found.unknown)
    assert "older mergefleet" in found.notes[0]
    write(model / "config.json", b'{"rms_norm_eps": 0.5}')
    write(model / "special_tokens_map.json", b"{}")
    (model / "tokenizer.json").unlink()
    found = compare(held_in(model), was, again)
    assert (found.altered, found.missing, found.added) == (
        ("config.json",),
        ("tokenizer.json",),
        ("special_tokens_map.json",),
    )


def test_digests_that_were_altered_with_the_file_are_not_those_of_what_is_made_again(model: Path) -> None:
    again = digests_in(model, but={"README.md", "mergekit_config.yml"})
    write(model / "config.json", b'{"rms_norm_eps": 0.5}')
    (model / "tokenizer.json").unlink()
    write(model / "vocab.json", b"{}")
    was = facts(model)
    assert compare(held_in(model), was, None) == Beside()
    assert compare(held_in(model), was, again).remade == ("config.json", "vocab.json")
    assert compare(None, was, again).remade == ("config.json", "vocab.json")


def test_names_elsewhere_are_shown_as_those_of_a_directory(model: Path) -> None:
    write(model / "eval" / "results.json", b"{}")
    names = (path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file())
    assert shown(names) == held_in(model).names
    assert held_in(model).read("eval/") is None


@pytest.mark.parametrize("said", [[], "x", {"config.json": 1}])
def test_digests_that_are_none_are_no_facts(said: Any, model: Path) -> None:
    with pytest.raises(TypeError):
        compare(held_in(model), facts(model) | {"small_files": said}, None)
