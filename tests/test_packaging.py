"""The wheel, put into an environment that holds only what a merge needs, merges: no torch, no Ray, no lm-eval."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
# What `mergefleet merge` imports with local sources, all told; their own dependencies come along.
NEEDED_BY_A_MERGE = ("blake3", "numba", "numpy", "pyyaml", "rich", "typer")
CONFIG = (
    '{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": 1, "hidden_size": 8, '
    '"num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 16, "vocab_size": 32, '
    '"tie_word_embeddings": false}'
)


def run(*command: str | Path, cwd: Path) -> str:
    """Output of `command`; its error text is part of the failure."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PIP_", "VIRTUAL_ENV"))}
    done = subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree, built from a copy so that no build folder is left behind."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for folder in ("engine", "search", "cluster"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist", ".", cwd=source)
    (built,) = (source / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel and `NEEDED_BY_A_MERGE`, linked from this one: the pinned versions."""
    home = tmp_path_factory.mktemp("bare")
    venv.create(home, with_pip=False, symlinks=True)
    (packages,) = home.glob("lib/python*/site-packages")
    for entry in files_of(closure(NEEDED_BY_A_MERGE)):
        (packages / entry.name).symlink_to(entry)
    python = home / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=home)
    return home


def closure(names: tuple[str, ...]) -> set[str]:
    """`names` and everything they require, extras left out."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += required_by(name)
    return found


def required_by(name: str) -> Iterator[str]:
    for line in importlib.metadata.requires(name) or []:
        requirement, _, marker = line.partition(";")
        wanted = re.match(r"[\w.-]+", requirement)
        # Markers name other platforms, older Pythons or extras; what does not apply here is not installed here.
        if wanted and "extra" not in marker and is_installed(wanted[0]):
            yield wanted[0].lower()


def is_installed(name: str) -> bool:
    return any(importlib.metadata.distributions(name=name))


def files_of(names: set[str]) -> set[Path]:
    """The top-level files and folders in site-packages that belong to the distributions `names`."""
    entries: set[Path] = set()
    for name in names:
        distribution = importlib.metadata.distribution(name)
        for file in distribution.files or []:
            if file.parts[0] not in ("..", "__pycache__"):
                entries.add(Path(str(distribution.locate_file(file.parts[0]))))
    return entries


@pytest.fixture
def family(tmp_path: Path) -> Path:
    """Two one-layer models, `a` and `b`, and the recipe that averages them."""
    generator = np.random.default_rng(7)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(CONFIG)
        shapes = {
            "model.embed_tokens.weight": (32, 8),
            "model.layers.0.mlp.up_proj.weight": (16, 8),
            "model.norm.weight": (8,),
            "lm_head.weight": (32, 8),
        }
        tensors = {tensor: generator.standard_normal(shape, dtype=np.float32) for tensor, shape in shapes.items()}
        save_file(tensors, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
    models = "".join(f"  - model: ./{name}\n    parameters: {{weight: 0.5}}\n" for name in ("a", "b"))
    (tmp_path / "recipe.yml").write_text(f"merge_method: linear\nmodels:\n{models}dtype: float32\n")
    return tmp_path


def test_the_wheel_holds_the_three_folders_the_licence_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    version = importlib.metadata.version("mergefleet")
    assert {name.split("/")[0] for name in names} == {"engine", "search", "cluster", f"mergefleet-{version}.dist-info"}
    assert f"mergefleet-{version}.dist-info/licenses/LICENSE" in names
    sources = {
        path.relative_to(ROOT).as_posix()
        for folder in ("engine", "search", "cluster")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert {name for name in names if name.endswith(".py")} == sources


@pytest.mark.parametrize("absent", ["torch", "ray", "lm_eval", "optuna", "transformers", "fastapi"])
def test_the_bare_environment_is_bare(bare: Path, absent: str) -> None:
    found = run(bare / "bin" / "python", "-c", f"import importlib.util as u; print(u.find_spec('{absent}'))", cwd=bare)
    assert found.strip() == "None"


def test_the_wheel_merges_in_a_bare_environment(bare: Path, family: Path) -> None:
    run(bare / "bin" / "mergefleet", "merge", "recipe.yml", "out", cwd=family)
    a, b, merged = (load_file(family / name / "model.safetensors") for name in ("a", "b", "out"))
    assert set(merged) == set(a)
    for name, tensor in merged.items():
        np.testing.assert_allclose(tensor, (a[name].astype(np.float64) + b[name]) / 2, rtol=1e-6, atol=1e-7)
    assert (family / "out" / "provenance.json").is_file()
    assert not (family / "out.partial").exists()


@pytest.mark.parametrize(
    ("options", "method", "said"),
    [([], "linaer", "did you mean 'linear'"), (["--treads", "2"], "linear", "--threads")],
    ids=["unknown method", "unknown option"],
)
def test_bad_input_is_an_error_with_a_suggestion_and_exit_2_there_too(
    bare: Path, family: Path, options: list[str], method: str, said: str
) -> None:
    recipe = family / "recipe.yml"
    recipe.write_text(recipe.read_text().replace("merge_method: linear", f"merge_method: {method}"))
    command = [bare / "bin" / "mergefleet", "merge", "recipe.yml", "out", *options]
    done = subprocess.run(command, cwd=family, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (family / "out").exists()
