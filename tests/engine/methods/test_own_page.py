"""docs/own-methods.md for real: its package is installed by pip, its recipe merged by the command."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from method_blocks import call_of, merged
from own_packages import Installer

from bench.arrays import decode, from_bf16, read_model, to_bf16
from bench.families import Shape, make_family
from engine.methods import methods_for

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "own-methods.md").read_text()


def example(language: str) -> str:
    """The page's first block of this language."""
    found = re.search(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)
    assert found is not None
    return found[1]


def test_the_package_of_the_page_installs_and_its_recipe_merges(tmp_path: Path) -> None:
    source, site, work = tmp_path / "source", tmp_path / "site", tmp_path / "work"
    for folder in (source, work / "models"):
        folder.mkdir(parents=True)
    (source / "soft_swap.py").write_text(example("python"))
    (source / "pyproject.toml").write_text(example("toml"))
    (work / "recipe.yml").write_text(example("yaml"))
    shape = Shape(hidden=16, layers=2, mlp=32, heads=2, kv_heads=1, vocab=32)
    family = make_family(tmp_path / "family", shape, dtype="BF16", seed=1, tunes=2)
    for name, path in zip(("base", "code", "math"), family.models, strict=True):
        path.rename(work / "models" / name)
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*install, "--target", site, source], check=True, capture_output=True)
    command = [sys.executable, "-c", "from cluster.main import run; run()"]
    made = subprocess.run(
        [*command, "merge", "recipe.yml", "out", "--quiet"],
        cwd=work,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{site}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    base, code, math, out = (read_model(work / path) for path in ("models/base", "models/code", "models/math", "out"))
    for name, (dtype, stored) in out.items():
        b, x, y = (decode(np.asarray(model[name][1]), "BF16").astype(np.float64) for model in (base, code, math))
        changes = [np.where(np.abs(d) <= np.float32(0.002), d, share * d) for d, share in ((x - b, 0.7), (y - b, 0.4))]
        wanted = from_bf16(to_bf16((b + sum(changes) / 2).astype(np.float32)))
        assert dtype == "BF16"
        np.testing.assert_allclose(decode(np.asarray(stored), dtype), wanted, rtol=2**-7)


def test_the_row_wise_example_of_the_page_runs(install: Installer) -> None:
    code = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)[1]
    install(code, shorter_row="mine_code:shorter_row")
    method = methods_for("shorter_row", "r.yml")["shorter_row"]
    first, second = np.array([[3, 4], [6, 8]], np.float32), np.array([[0, 6], [5, 0]], np.float32)
    call = call_of(method, 2, (2, 2), np.random.default_rng(0))
    result = merged(method, call, [first, second])
    np.testing.assert_array_equal(result, call.options["length"] * np.array([[3, 4], [5, 0]], np.float32))
