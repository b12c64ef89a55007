"""Stages are made once, remade exactly when what they are made from changed, and never at the cost of foreign files."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from adapters import factors, write_adapter

from bench.families import Shape, make_family
from engine import MergeResult, Options, merge, merging
from engine.errors import InputError, NotFinite, PlanError, RecipeError, Refused, SourceError
from engine.execution.execute import Executed
from engine.outputs.job import Job
from engine.planning.stage_plans import StagePlans
from engine.recipes.stages import load_stages

RECIPE = """
merge_method: linear
models:
  - {model: first, parameters: {weight: 0.25}}
  - {model: second, parameters: {weight: 0.75}}
---
name: first
merge_method: slerp
base_model: base
models: [{model: base}, {model: a}]
parameters: {t: 0.3}
---
name: second
merge_method: task_arithmetic
base_model: first
models: [{model: b, parameters: {weight: 0.5}}]
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with models base, a and b, and the recipe of three stages, r.yml."""
    shape = Shape(hidden=8, layers=1, mlp=8, heads=2, kv_heads=1, vocab=16)
    family = make_family(tmp_path / "family", shape, tunes=2)
    for name, model in zip(("base", "a", "b"), family.models, strict=True):
        model.rename(tmp_path / name)
    (tmp_path / "r.yml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def change(place: Path, old: str, new: str) -> None:
    text = (place / "r.yml").read_text()
    assert old in text
    (place / "r.yml").write_text(text.replace(old, new))


def made(result: MergeResult) -> list[str]:
    return [stage.name for stage in result.stages if stage.made]


def again(place: Path, **options: Any) -> MergeResult:
    """The output made once more, from the stages as they stand."""
    shutil.rmtree("out", ignore_errors=True)
    return merge("r.yml", "out", options=Options(**options))


def flip_a_bit(file: Path) -> bytes:
    """Change the last value of a model a little, as an editor would; the new content."""
    data = bytearray(file.read_bytes())
    data[-2] ^= 1
    file.write_bytes(data)
    touch(file)
    return bytes(data)


def touch(file: Path) -> None:
    """Make a file younger than all that were written with it."""
    os.utime(file, ns=(file.stat().st_mtime_ns + 10**9,) * 2)


def test_stages_give_what_the_recipes_give_one_by_one(place: Path) -> None:
    result = merge("r.yml", "out")
    documents = RECIPE.split("---\n")
    for number, text in enumerate((documents[1], documents[2], documents[0])):
        for name in ("first", "second"):
            text = text.replace(f"name: {name}\n", "").replace(f"model: {name}", f"model: single/{name}")
        (place / f"{number}.yml").write_text(text)
    (place / "single").mkdir()
    first, second = merge("0.yml", "single/first"), merge("1.yml", "single/second")
    assert [stage.weights_digest for stage in result.stages] == [first.weights_digest, second.weights_digest]
    assert result.weights_digest == merge("2.yml", "alone").weights_digest
    provenance = json.loads((place / "out" / "provenance.json").read_text())
    assert provenance["stages"]["second"]["weights"] == second.weights_digest
    assert (place / "out.stages" / "first" / "tokenizer.json").exists()


@pytest.mark.parametrize(
    ("old", "new", "remade"),
    [
        ("weight: 0.25", "weight: 0.5", []),
        ("weight: 0.5", "weight: 0.25", ["second"]),
        ("t: 0.3", "t: 0.4", ["first", "second"]),
        ("merge_method: linear", "# a comment\nmerge_method: linear", []),
    ],
)
def test_a_changed_recipe_remakes_its_stage_and_all_that_depend_on_it(
    old: str, new: str, remade: list[str], place: Path
) -> None:
    merge("r.yml", "out")
    assert made(again(place)) == []
    change(place, old, new)
    fresh = merge("r.yml", "fresh")
    result = again(place)
    assert made(result) == remade
    assert result.weights_digest == fresh.weights_digest
    assert sorted(path.name for path in (place / "out.stages").iterdir()) == ["first", "second"]


@pytest.mark.parametrize(("source", "remade"), [("a", ["first", "second"]), ("b", ["second"])])
def test_a_changed_source_remakes_what_is_made_from_it(source: str, remade: list[str], place: Path) -> None:
    merge("r.yml", "out")
    flip_a_bit(place / source / "model.safetensors")
    assert made(again(place)) == remade


def test_another_tokenizer_remakes_a_stage_though_its_weights_are_the_same(place: Path) -> None:
    before = merge("r.yml", "out")
    (place / "base" / "chat_template.jinja").write_text("{{ messages }}")
    after = again(place)
    assert made(after) == ["first", "second"]
    assert after.weights_digest == before.weights_digest
    assert (place / "out" / "chat_template.jinja").exists()


def test_an_interrupted_run_goes_on_where_it_was(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = merge("r.yml", "whole")

    def stop_in_the_second(job: Job, progress: Any = None) -> Executed:
        executed = merging.run_here(job, progress)
        if job.staging.out.name == "second":
            raise KeyboardInterrupt
        return executed

    with pytest.raises(KeyboardInterrupt):
        merging.merge_with(stop_in_the_second, "r.yml", "out", options=Options())
    assert (place / "out.stages" / "second.partial").is_dir()
    result = merge("r.yml", "out")
    assert made(result) == ["second"]
    assert result.weights_digest == whole.weights_digest
    assert not (place / "out.stages" / "second.partial").exists()


def test_what_another_recipe_began_of_a_stage_is_begun_anew(place: Path) -> None:
    change(place, "t: 0.3", "t: 0.4")
    planned = StagePlans(load_stages("r.yml"), place / "out.stages", Options())
    (place / "out.stages").mkdir()
    Job.prepare(planned.parts[0].stage.recipe, place / "out.stages" / "first").close()
    change(place, "t: 0.4", "t: 0.3")
    assert made(merge("r.yml", "out")) == ["first", "second"]


def test_killed_between_setting_the_old_stage_aside_and_publishing_the_new_one(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge("r.yml", "out")
    change(place, "t: 0.3", "t: 0.4")
    rename, seen = Path.rename, []

    def killed(self: Path, target: Path) -> Path:
        seen.append(target)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            again(place)
    assert not (place / "out.stages" / "first").exists()
    result = again(place)
    assert made(result) == ["first", "second"]
    assert result.weights_digest == merge("r.yml", "fresh").weights_digest
    assert sorted(path.name for path in (place / "out.stages").iterdir()) == ["first", "second"]


def test_a_directory_that_no_stage_made_is_refused_and_left_alone(place: Path) -> None:
    (place / "models" / "first").mkdir(parents=True)
    (place / "models" / "first" / "mine.txt").write_text("mine")
    with pytest.raises(Refused, match=r"models/first: is in the way of stage 'first'"):
        merge("r.yml", "out", options=Options(intermediate_dir=Path("models")))
    shutil.rmtree(place / "models" / "first")
    merge_of_another_kind = place / "models" / "second"
    (place / "one.yml").write_text("merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}]\n")
    merge("one.yml", merge_of_another_kind)
    with pytest.raises(Refused, match=r"models/second: is in the way"):
        merge("r.yml", "out", options=Options(intermediate_dir=Path("models")))
    assert (merge_of_another_kind / "model.safetensors").exists()
    assert not (place / "models" / "first").exists()


def test_a_stage_that_somebody_put_a_file_into_is_used_but_not_replaced(place: Path) -> None:
    merge("r.yml", "out")
    (place / "out.stages" / "first" / "notes.txt").write_text("mine")
    assert made(again(place)) == []
    change(place, "t: 0.3", "t: 0.4")
    with pytest.raises(Refused, match=r"out.stages/first: .*holds notes.txt"):
        again(place)
    assert (place / "out.stages" / "first" / "notes.txt").exists()


def test_a_stage_whose_weights_were_changed_is_refused_and_one_that_was_only_touched_is_used(place: Path) -> None:
    merge("r.yml", "out")
    file = place / "out.stages" / "first" / "model.safetensors"
    touch(file)
    assert made(again(place)) == ["second"]  # for whom it is another source: size, mtime, header
    data = flip_a_bit(file)
    with pytest.raises(Refused, match=r"out.stages/first: its weights were changed"):
        again(place)
    change(place, "t: 0.3", "t: 0.4")
    with pytest.raises(Refused, match=r"out.stages/first: .*model.safetensors was changed"):
        again(place)
    assert file.read_bytes() == data


def test_a_stage_whose_config_or_tokenizer_was_changed_is_refused(place: Path) -> None:
    merge("r.yml", "out")
    stage = place / "out.stages" / "first"
    (stage / "README.md").write_text("mine")
    assert made(again(place)) == []
    for name in ("config.json", "tokenizer.json"):
        kept = (stage / name).read_bytes()
        (stage / name).write_bytes(kept + b"\n")
        with pytest.raises(Refused, match=rf"out.stages/first: {name} was changed, added or removed after it was made"):
            again(place)
        (stage / name).write_bytes(kept)
    assert made(again(place)) == []


def test_every_stage_is_planned_before_any_is_made(place: Path) -> None:
    change(place, "weight: 0.75", "weight: -0.25")
    with pytest.raises(PlanError, match=r"the stage without a name"):
        merge("r.yml", "out")
    change(place, "model: b,", "model: nowhere/at/all,")
    with pytest.raises(SourceError, match="nowhere"):
        merge("r.yml", "out")
    change(place, "model: nowhere/at/all,", "model: frist,")
    with pytest.raises(RecipeError, match=r"stage second: 'frist' is neither .* did you mean 'first'\?"):
        merge("r.yml", "out")
    assert not (place / "out.stages").exists()


def test_stages_need_a_place_of_their_own(place: Path) -> None:
    with pytest.raises(InputError, match=r"no such directory.*mkdir -p"):
        merge("r.yml", "out", options=Options(intermediate_dir=Path("not/there")))
    with pytest.raises(InputError, match=r"no such directory.*mkdir -p"):
        merge("r.yml", "not/there", options=Options(intermediate_dir=Path("st")))
    with pytest.raises(InputError, match=r"st/x lies in the output st"):
        merge("r.yml", "st", options=Options(intermediate_dir=Path("st/x")))


def test_an_adapter_may_be_put_on_a_stage(place: Path) -> None:
    write_adapter(place / "adapter", factors("model.layers.0.self_attn.q_proj", 8, 8))
    change(place, "model: second,", "model: second+./adapter,")
    result = merge("r.yml", "out")
    change(place, "model: second+./adapter,", "model: second,")
    plain = merge("r.yml", "without", options=Options(intermediate_dir=Path("out.stages")))
    assert made(plain) == []
    assert plain.weights_digest != result.weights_digest


def test_nan_in_a_stage_ends_the_run_with_the_stages_before_it_kept(place: Path) -> None:
    bits = (place / "b" / "model.safetensors").read_bytes()
    (place / "b" / "model.safetensors").write_bytes(bits[:-2] + b"\xc0\x7f")
    with pytest.raises(NotFinite, match="b"):
        merge("r.yml", "out")
    assert [path.name for path in (place / "out.stages").iterdir() if path.suffix != ".partial"] == ["first"]


def test_the_output_has_its_own_options_and_stages_keep_their_tokenizer(place: Path) -> None:
    merge("r.yml", "out", options=Options(copy_tokenizer=False, extra={"mark": 1}, intermediate_dir=Path("st")))
    assert not (place / "out" / "tokenizer.json").exists()
    assert (place / "st" / "first" / "tokenizer.json").exists()
    assert json.loads((place / "out" / "provenance.json").read_text())["mark"] == 1
    assert "mark" not in json.loads((place / "st" / "first" / "provenance.json").read_text())


def test_progress_runs_once_over_all_stages(place: Path) -> None:
    seen: list[tuple[int, int]] = []
    merge("r.yml", "out", progress=lambda done, total: seen.append((done, total)))
    assert len({total for _, total in seen}) == 1
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == seen[-1][1]
