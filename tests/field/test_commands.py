"""Command lines as the field's documents tell people to type them, with `mergekit-yaml` read as `mergefleet merge`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.device import gpu_count

RECIPES = Path(__file__).parent / "recipes"
Run = Callable[[str], subprocess.CompletedProcess[str]]


@pytest.fixture
def typed(place: Path, tmp_path: Path) -> Run:
    """Runs a line in a directory that has the models, and F4 under the names that the lines give to their recipe."""
    (tmp_path / "org").symlink_to(place / "org")
    for name in ("mconf.yaml", "config.yaml"):
        (tmp_path / name).write_text((RECIPES / "F4.yml").read_text())

    def run(line: str) -> subprocess.CompletedProcess[str]:
        words = [str(Path(sys.executable).with_name("mergefleet")), *line.replace("mergekit-yaml", "merge").split()]
        return subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)

    return run


def test_c1_runs_and_explains_what_means_nothing_here_once(typed: Run, tmp_path: Path) -> None:
    result = typed(
        "mergekit-yaml mconf.yaml ./merged --allow-crimes --copy-tokenizer --out-shard-size 1B --low-cpu-memory "
        "--write-model-card --lazy-unpickle"
    )
    assert result.returncode == 0, result.stderr
    said = result.stderr.splitlines()
    assert [line.split()[1] for line in said] == ["--lazy-unpickle", "--low-cpu-memory"]
    assert all("has no effect" in line for line in said)
    names = {path.name for path in (tmp_path / "merged").iterdir()}
    assert names >= {"README.md", "mergekit_config.yml", "tokenizer.json", "config.json", "model.safetensors"}


def test_c2_without_a_gpu_names_the_flag_that_helps(typed: Run, tmp_path: Path) -> None:
    if gpu_count():
        pytest.skip("this machine has a GPU")
    result = typed("mergekit-yaml mconf.yaml merge --copy-tokenizer --cuda --low-cpu-memory")
    assert result.returncode == 2
    assert "no GPU" in result.stderr.splitlines()[-1]
    assert "--device cpu" in result.stderr.splitlines()[-1]
    assert not (tmp_path / "merge").exists()


def test_c3_runs_with_either_spelling_of_its_flags(typed: Run, tmp_path: Path) -> None:
    line = "mergekit-yaml config.yaml {} --copy-tokenizer --allow-crimes --out-shard-size 1B --lazy-unpickle {}"
    weights = []
    for out, flag in (("merge", "--trust-remote-code"), ("again", "--trust_remote_code")):
        result = typed(line.format(out, flag))
        assert result.returncode == 0, result.stderr
        weights.append(json.loads((tmp_path / out / "provenance.json").read_text())["weights"])
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    "line",
    [
        "legacy OUT --base-model org/base --cuda --merge org/one --weight 0.3 --density 0.5",
        "assemble config.yml OUT",
        "moe config.yml OUT --device cuda",
    ],
)
def test_c4_to_c6_say_that_they_come_later(line: str, typed: Run) -> None:
    result = typed(line)
    assert result.returncode == 2
    assert "is not there yet" in result.stderr
    assert len(result.stderr.splitlines()) == 1
