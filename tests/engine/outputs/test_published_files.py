"""What lies beside the weights of a published model: card, recipe, tokenizer and code, as the options say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.families import SHAPES, make_family
from engine import ModelRef, Options, load_recipe, merge, open_checkpoint, recipe_to_dict
from engine.errors import SourceError
from engine.models import hub
from engine.models.model_code import find_code

RECIPE = """# the winner of the summer
merge_method: linear
models:
  - model: {base}
    parameters: {{weight: 1}}   # all of it
"""
CODE = {
    "configuration_x.py": "class XConfig: ...\n",
    "modeling_x.py": "from .configuration_x import XConfig\nimport torch\ndef late():\n    from . import layers_x\n",
    "layers_x.py": "from .deeper.still import f\nfrom ..above import g\nraise SystemExit('was run')\n",
    "deeper.py": "",
    "tokenization_x.py": "",
    "unused.py": "",
}
AUTO_MAP = {"AutoConfig": "configuration_x.XConfig", "AutoModel": "modeling_x.XModel", "AutoProcessor": "org/x--m.P"}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return make_family(tmp_path / "family", SHAPES["tiny"], tunes=0).base


def published(base: Path, out: Path, text: str = RECIPE, **options: Any) -> set[str]:
    recipe = out.with_suffix(".yml")
    recipe.write_text(text.format(base=base))
    merge(recipe, out, options=Options(**options))
    return {path.name for path in out.iterdir()}


def bring_code(base: Path, auto_map: dict[str, Any], tokenizer: dict[str, Any] | None = None) -> None:
    """Make the model one that needs code: the auto_map of its config.json and of its tokenizer_config.json."""
    for name, text in CODE.items():
        (base / name).write_text(text)
    for name, said in (("config.json", auto_map), ("tokenizer_config.json", tokenizer)):
        (base / name).write_text(json.dumps({**json.loads((base / name).read_text()), "auto_map": said}))


def test_the_card_comes_with_the_recipe_as_given_and_both_can_be_left_out(base: Path, tmp_path: Path) -> None:
    names = published(base, tmp_path / "out")
    given = (tmp_path / "out" / "mergekit_config.yml").read_text()
    assert given == (tmp_path / "out.yml").read_text()
    card = (tmp_path / "out" / "README.md").read_text()
    assert given.replace(str(base), "base").strip() in card
    assert str(tmp_path) not in card  # others can do nothing with a path of this machine
    without = published(base, tmp_path / "plain", model_card=False)
    assert names - without == {"README.md", "mergekit_config.yml"}


def test_a_recipe_that_was_no_file_is_written_as_yaml_that_means_the_same(base: Path, tmp_path: Path) -> None:
    published(base, tmp_path / "out")
    again = load_recipe(tmp_path / "out" / "recipe.json")
    merge(again, tmp_path / "again")
    assert yaml.safe_load((tmp_path / "again" / "mergekit_config.yml").read_text()) == recipe_to_dict(again)


def test_the_tokenizer_is_left_out_unless_it_is_wanted_or_the_recipe_chooses_one(base: Path, tmp_path: Path) -> None:
    (base / "generation_config.json").write_text("{}")
    tokenizer = {"tokenizer.json", "tokenizer_config.json", "generation_config.json"}
    assert published(base, tmp_path / "with") >= tokenizer
    assert published(base, tmp_path / "without", copy_tokenizer=False).isdisjoint(tokenizer)
    chosen = RECIPE + "tokenizer_source: base\n"
    assert published(base, tmp_path / "chosen", chosen, copy_tokenizer=False) >= tokenizer


def test_code_is_copied_only_when_asked_for_and_then_all_that_is_needed(base: Path, tmp_path: Path) -> None:
    bring_code(base, AUTO_MAP, {"AutoTokenizer": ["tokenization_x.XTokenizer", None]})
    assert not any(name.endswith(".py") for name in published(base, tmp_path / "without"))
    names = published(base, tmp_path / "with", carry_code=True)
    assert {name for name in names if name.endswith(".py")} == set(CODE) - {"unused.py"}
    assert all((tmp_path / "with" / name).read_text() == CODE[name] for name in names & set(CODE))


def test_a_model_that_needs_code_is_warned_of_with_the_flag_that_copies_it(base: Path, tmp_path: Path) -> None:
    bring_code(base, AUTO_MAP)
    (tmp_path / "r.yml").write_text(RECIPE.format(base=base))
    (warning,) = merge(tmp_path / "r.yml", tmp_path / "without").warnings
    assert "configuration_x.py, modeling_x.py" in warning
    assert "--trust-remote-code" in warning
    assert merge(tmp_path / "r.yml", tmp_path / "with", options=Options(carry_code=True)).warnings == ()


@pytest.mark.parametrize("missing", ["modeling_x.py", "layers_x.py"])
def test_code_that_is_not_there_is_named_before_anything_is_merged(missing: str, base: Path, tmp_path: Path) -> None:
    bring_code(base, AUTO_MAP)
    (base / missing).unlink()
    with pytest.raises(SourceError, match=missing):
        published(base, tmp_path / "out", carry_code=True)
    assert not (tmp_path / "out.partial").exists()


def test_the_code_of_a_model_on_the_hub_is_downloaded_at_its_commit(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring_code(base, AUTO_MAP)
    code = {path.name: path.read_bytes() for path in base.glob("*.py")}
    for path in base.glob("*.py"):
        path.unlink()
    checkpoint = open_checkpoint(ModelRef(str(base)))
    checkpoint.identity = {"kind": "hub", "commit": "abc"}

    def download_file(ref: ModelRef, commit: str, name: str) -> None:
        assert (ref, commit) == (checkpoint.ref, "abc")
        (base / name).write_bytes(code[name])

    monkeypatch.setattr(hub, "download_file", download_file)
    wanted = set(CODE) - {"unused.py", "tokenization_x.py"}
    assert {path.name for path in find_code(checkpoint, checkpoint)} == wanted


@pytest.mark.parametrize("reference", ["../../secret.X", "/etc/x.X", "x/y.X", "modeling_x", 7, None])
def test_only_modules_beside_the_config_are_ever_copied(reference: Any, base: Path, tmp_path: Path) -> None:
    (base.parent.parent / "secret.py").write_text("")
    bring_code(base, {"AutoModel": reference})
    assert not any(name.endswith(".py") for name in published(base, tmp_path / "out", carry_code=True))
