"""A crash at every single step of a merge: OUT is not there or complete, a rerun makes it, nothing else is left."""

from __future__ import annotations

import ast
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from backends import bytes_of
from deaths import dies
from safetensors.numpy import save_file

from engine import Options, failpoints, merge
from engine.outputs.publish import clean

ROOT = Path(__file__).parents[2]
MANY = 200
"""More steps of one kind than a merge of these models has."""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stage that measures, then one that does not; of one tensor of two blocks and two small ones."""
    place = tmp_path_factory.mktemp("models")
    for number, name in enumerate(("base", "one", "two")):
        rng = np.random.default_rng(number)
        shapes = {"model.embed_tokens.weight": (2, 150_000), "model.layers.0.mlp.up_proj.weight": (5, 4)}
        shapes["model.norm.weight"] = (4,)
        (place / name).mkdir()
        tensors = {key: rng.standard_normal(shape, np.float32) for key, shape in shapes.items()}
        save_file(tensors, place / name / "model.safetensors")
        (place / name / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}')
        (place / name / "tokenizer.json").write_text("{}")
    (place / "r.yml").write_text(_stages(place, density=0.4))
    (place / "older.yml").write_text(_stages(place, density=0.7))
    return place / "r.yml"


def _stages(place: Path, *, density: float) -> str:
    base, one, two = (place / name for name in ("base", "one", "two"))
    return (
        f"name: first\nmerge_method: ties\nbase_model: {base}\nmodels: [{{model: {one}}}, {{model: {two}}}]\n"
        f"parameters: {{weight: 1, density: {density}}}\n---\nmerge_method: linear\n"
        f"models: [{{model: first}}, {{model: {two}}}]\nparameters: {{weight: 0.5}}\n"
    )


@pytest.fixture(scope="module")
def expected(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return bytes_of(merge(recipe, tmp_path_factory.mktemp("expected") / "OUT", options=Options(threads=1)).out)


def begin_again(recipe: Path, out: Path) -> None:
    """Merge; where there are the stages of an older recipe, they are replaced."""
    merge(recipe, out, options=Options(threads=1, tile_bytes=1 << 20))


def finish(recipe: Path, out: Path) -> None:
    """What a user does after a crash."""
    if out.exists():
        clean(out)
    else:
        begin_again(recipe, out)


@pytest.mark.parametrize("step", failpoints.DIRECTORY)
def test_a_crash_at_every_occurrence_of_a_step_is_made_good_by_a_rerun(
    step: str, recipe: Path, expected: str, tmp_path: Path
) -> None:
    for count in range(1, MANY):
        out = tmp_path / str(count) / "OUT"
        out.parent.mkdir()
        if step == "publish.aside":  # needs a stage that is replaced, and OUT itself out of the way
            merge(recipe.with_name("older.yml"), out, options=Options(threads=1)).out.rename(tmp_path / f"old{count}")
        died = dies(f"{step}:{count}", lambda out=out: begin_again(recipe, out))  # type: ignore[misc]
        assert not out.exists() or bytes_of(out) == expected
        finish(recipe, out)
        assert bytes_of(out) == expected
        assert sorted(path.name for path in out.parent.iterdir()) == ["OUT", "OUT.stages"]
        assert [path.name for path in (out.parent / "OUT.stages").iterdir()] == ["first"]
        if not died:
            break
    assert count > 1, "no merge comes to this step"
    assert count < MANY - 1


def test_a_merge_that_dies_again_and_again_at_the_next_step_gets_there(
    recipe: Path, expected: str, tmp_path: Path
) -> None:
    """One output through all crashes: each rerun begins with what the crashes before it left."""
    for step in failpoints.DIRECTORY:
        dies(step, lambda: begin_again(recipe, tmp_path / "OUT"))
        dies(f"{step}:2", lambda: begin_again(recipe, tmp_path / "OUT"))
        if (tmp_path / "OUT").exists():
            break
    finish(recipe, tmp_path / "OUT")
    assert bytes_of(tmp_path / "OUT") == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["OUT", "OUT.stages"]


@pytest.mark.parametrize("step", ["remove.entry", "remove.entry:3", "remove.empty"])
def test_a_crash_of_clean_is_made_good_by_clean(step: str, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "OUT.stages" / "first"
    assert dies("tile.written", lambda: begin_again(recipe, tmp_path / "OUT"))
    assert dies(step, lambda: clean(out))
    clean(out)
    assert list(out.parent.iterdir()) == []


def test_every_step_of_the_table_stands_in_the_source_and_no_other() -> None:
    found = set()
    for folder in ("engine", "search", "cluster"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "failpoints.reach":
                    found.add(ast.literal_eval(node.args[0]))
    assert found == set(failpoints.STEPS)


def test_a_step_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match=r"got 'publish', known: partial\.made"):
        failpoints.arm("publish")


def test_a_process_may_be_stopped_at_a_step_and_go_on_later(recipe: Path, expected: str, tmp_path: Path) -> None:
    pid = os.fork()
    if pid == 0:
        failpoints.arm("publish.flushed::STOP")
        begin_again(recipe, tmp_path / "OUT")
        os._exit(0)
    assert os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])
    assert not (tmp_path / "OUT.stages" / "first").exists()
    os.kill(pid, signal.SIGCONT)
    assert os.waitpid(pid, 0)[1] == 0
    assert bytes_of(tmp_path / "OUT") == expected
