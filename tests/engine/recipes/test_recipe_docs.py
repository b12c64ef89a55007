"""The examples of docs and configs: each is merged on tiny models, and every error is the one that is shown."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from adapters import factors, write_adapter
from safetensors.numpy import save_file
from tiny_vlm import make_vlm

from bench.families import Shape, make_family
from engine import load_recipe, make_plan, merge, open_checkpoints
from engine.errors import RecipeError
from engine.methods import METHODS
from engine.models.checkpoint import open_checkpoint
from engine.recipes.check import check_parameters
from engine.recipes.recipe import ModelRef

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "recipes.md").read_text()
PAGES = PAGE + (ROOT / "docs" / "sources.md").read_text()
BLOCKS = re.findall(r"```yaml\n(.*?)```\n(?:```text\n(.*?)\n```)?", PAGES, flags=re.DOTALL)
EXAMPLES = [text for text, error in BLOCKS if not error]
MISTAKES = [(text, error) for text, error in BLOCKS if error]
SHIPPED = sorted((ROOT / "configs" / "recipes").glob("*.yml"))


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """models/base, code and math, of four layers each, two models of three modules, an adapter, files of tensors."""
    folder = tmp_path_factory.mktemp("workplace")
    shape = Shape(hidden=16, layers=4, mlp=32, heads=2, kv_heads=1, vocab=32)
    family = make_family(folder / "family", shape, dtype="BF16", seed=1, tunes=2)
    (folder / "models").mkdir()
    (folder / "importance").mkdir()
    for name, path in zip(("base", "code", "math"), family.models, strict=True):
        path.rename(folder / "models" / name)
        shutil.copy(folder / "models" / name / "model.safetensors", folder / "importance" / f"{name}.safetensors")
    for tune, name in enumerate(("vision-base", "vision-charts")):
        make_vlm(folder / "models" / name, tune=tune)
    write_adapter(folder / "loras" / "poems", factors("model.layers.3.self_attn.q_proj", 16, 16))
    for number, name in enumerate(("base", "style", "faces")):
        (folder / "files").mkdir(exist_ok=True)
        save_file({"conv.weight": np.full((3, 4), number, np.float32)}, folder / "files" / f"{name}.safetensors")
    return folder


def layers_of(directory: Path) -> int:
    config = open_checkpoint(ModelRef(str(directory))).config
    return int(config.get("text_config", config)["num_hidden_layers"])


@pytest.mark.parametrize(
    "text",
    [*EXAMPLES, *(path.read_text() for path in SHIPPED)],
    ids=[*(f"page-{n}" for n in range(len(EXAMPLES))), *(path.name for path in SHIPPED)],
)
def test_every_example_merges_without_a_warning(
    text: str, workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workplace)
    (tmp_path / "recipe.yml").write_text(text)
    recipe = load_recipe(tmp_path / "recipe.yml")
    assert check_parameters(recipe, METHODS) == []
    warnings = make_plan(recipe, open_checkpoints(recipe.opened)).warnings
    assert [text for text in warnings if "chat_template" not in text] == []  # the toy tokenizer has no such tokens
    merge(recipe, tmp_path / "out")
    if recipe.donor.path.endswith(".safetensors"):  # a file of tensors has no layers
        assert not (tmp_path / "out" / "config.json").exists()
        return
    [text_layers] = [module for module in recipe.parts if module.name in ("", "text_decoder")]
    ranges = [part.sources[0].layers or (0, 4) for part in text_layers.slices]
    assert layers_of(tmp_path / "out") == sum(end - start for start, end in ranges)


def test_the_recipe_that_a_published_model_carries_makes_the_same_weights_again(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workplace)
    first = merge(ROOT / "configs" / "recipes" / "dare-ties.yml", tmp_path / "first")
    again = merge(tmp_path / "first" / "recipe.json", tmp_path / "again")
    assert again.weights_digest == first.weights_digest


@pytest.mark.parametrize(("text", "error"), MISTAKES, ids=[error for _, error in MISTAKES])
def test_every_mistake_on_the_page_gives_the_error_shown(
    text: str, error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipe.yml").write_text(text)
    with pytest.raises(RecipeError) as caught:
        check_parameters(load_recipe("recipe.yml"), METHODS)
    assert str(caught.value) == error


def test_the_page_has_examples_and_mistakes() -> None:
    assert len(EXAMPLES) >= 3
    assert len(MISTAKES) >= 4


@pytest.mark.parametrize("name", sorted(METHODS))
def test_the_table_of_parameters_names_every_method_with_its_parameters_and_defaults(name: str) -> None:
    section = PAGE.split("## Parameters")[1].split("\n## ")[0]
    row = next(line for line in section.splitlines() if line.startswith("|") and f"`{name}`" in line.split("|")[1])
    per_model, whole = row.split("|")[2:4]
    for parameter in METHODS[name].parameters.values():
        cell = per_model if parameter.scope == "model" else whole
        default = parameter.default
        said = (
            "" if parameter.required else f" ({str(default).lower() if isinstance(default, bool) else f'{default:g}'})"
        )
        assert f"`{parameter.name}`{'' if parameter.name == 'int8_mask' else said}" in cell
    named = set(re.findall(r"`(\w+)`", per_model + whole))
    assert named == set(METHODS[name].parameters)
