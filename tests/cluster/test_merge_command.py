"""What `merge` and `plan` say, for people and for programs, of one recipe and of several stages."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from bench.families import Shape, make_family
from cluster.main import app
from engine.errors import InputError, MergefleetError, PlanError, RecipeError

STAGES = """
name: first
merge_method: ties
base_model: base
models:
  - {model: a, parameters: {weight: 0.5, density: [0.4, 0.9]}}
  - {model: b, parameters: {weight: 0.25, density: 0.5}}
parameters: {normalize: false}
---
merge_method: linear
models: [{model: first, parameters: {weight: 0.5}}, {model: base, parameters: {weight: 0.5}}]
dtype: float64
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with models base, a and b of two layers."""
    shape = Shape(hidden=8, layers=2, mlp=8, heads=2, kv_heads=1, vocab=16)
    family = make_family(tmp_path / "family", shape, tunes=2)
    for name, model in zip(("base", "a", "b"), family.models, strict=True):
        model.rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(*arguments: str, exit_code: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == exit_code, (result.output, result.exception)
    return result.stdout


def in_json(*arguments: str, exit_code: int = 0) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(said(*arguments, "--json", exit_code=exit_code))
    return facts


def write(place: Path, text: str, name: str = "r.yml") -> None:
    (place / name).write_text(text)


def test_a_plan_says_for_every_kind_of_tensor_what_is_done_to_it(place: Path) -> None:
    write(place, STAGES)
    facts = in_json("plan", "r.yml")
    (first,) = facts["stages"]
    groups = {group["tensors"]: group for group in first["groups"]}
    query = groups["model.layers.*.self_attn.q_proj.weight"]
    assert query["count"] == 2
    assert query["does"] == "ties of 3: weight 0.5, 0.25; density 0.4…0.9, 0.5; normalize False"
    assert (query["arithmetic"], query["dtype"]) == ("kernel", "BF16")
    assert query["bytes_read"] == 3 * query["bytes_written"] == 3 * 2 * 64 * 2
    assert first["arithmetic"] == "kernel"
    assert {group["arithmetic"] for group in facts["groups"]} == {"torch, float64"}
    for values in (first, facts):
        assert sum(group["count"] for group in values["groups"]) == values["tensors"]
        assert sum(group["bytes_read"] for group in values["groups"]) == values["bytes_read"]
        assert max(group["peak_bytes"] for group in values["groups"]) == values["least_memory_bytes"]


def test_a_copied_tensor_is_said_to_be_copied_from_its_model(place: Path) -> None:
    write(place, "merge_method: passthrough\nmodels: [{model: a}]\n")
    facts = in_json("plan", "r.yml")
    assert {(group["does"], group["arithmetic"]) for group in facts["groups"]} == {("copy of a", "copied")}


def test_a_plan_for_people_has_a_table_for_each_stage(place: Path) -> None:
    write(place, STAGES)
    shown = said("plan", "r.yml")
    assert shown.index("stage first") < shown.index("ties of 3") < shown.index("linear of 2: weight 0.5")
    assert shown.count("model.layers.*.self_attn.q_proj.weight") == 2


def test_a_plan_knows_which_stages_are_made_already(place: Path) -> None:
    write(place, STAGES)
    assert in_json("plan", "r.yml", "out")["stages"][0]["state"] == "to be made"
    merged = in_json("merge", "r.yml", "out", "--quiet")
    assert [(stage["name"], stage["made"]) for stage in merged["stages"]] == [("first", True)]
    planned = in_json("plan", "r.yml", "out")
    assert planned["stages"][0]["state"] == "made already"
    assert planned["digest"] == merged["plan"]
    assert in_json("plan", "r.yml", "--intermediate-dir", "out.stages")["stages"][0]["state"] == "made already"
    write(place, STAGES.replace("0.25", "0.75"))
    assert in_json("plan", "r.yml", "out")["stages"][0]["state"].startswith("to be made again")


def test_a_merge_says_of_every_stage_whether_it_was_there(place: Path) -> None:
    write(place, STAGES)
    assert said("merge", "r.yml", "out").splitlines()[0].startswith("out.stages/first: made, weights ")
    again = said("merge", "r.yml", "again", "-I", "out.stages").splitlines()
    assert again[0].startswith("out.stages/first: was there, weights ")
    assert again[1].startswith(f"{place}/again: ")


def test_a_plan_that_does_not_fit_the_memory_is_refused_as_its_merge_would_be(place: Path) -> None:
    write(place, STAGES)
    for command in (["plan", "r.yml"], ["merge", "r.yml", "out"]):
        error = CliRunner().invoke(app, [*command, "--memory", "1KiB"]).exception
        assert isinstance(error, PlanError)
        assert "--memory" in error.message
    assert not (place / "out.stages").exists()


def test_a_plan_for_nodes_says_time_memory_bytes_and_what_bounds_them(place: Path) -> None:
    write(place, STAGES)
    many = ("--nodes", "4", "--cpus-per-node", "2", "--memory", "1GiB", "--disk-gbps", "1e-6")
    facts = in_json("plan", "r.yml", *many)
    for values in (facts, facts["stages"][0]):
        assert values["threads"] == 2
        assert values["fleet"]["bottleneck"] == "disk"
        assert values["fleet"]["nodes"] == 4
        assert 0 < values["fleet"]["in_flight_bytes_per_node"] <= 1 << 30
        moved = 4 * values["fleet"]["bytes_per_node"]
        assert moved >= values["bytes_read"] + values["fleet"]["bytes_written_per_node"]
    shown = said("plan", "r.yml", *many)
    assert shown.count("bound by disk") == 2
    assert "disk 1e-06 Gbit/s" in shown


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--net-gbps", "10"), "--net-gbps: is for a merge on several nodes; give --nodes too."),
        (("--nodes", "2", "--disk-gbps", "0"), "--disk-gbps: got 0, a rate above 0 expected, in Gbit/s."),
        (("--nodes", "2", "--net-gbps", "nan"), "--net-gbps: got nan, a rate above 0 expected, in Gbit/s."),
    ],
)
def test_rates_without_nodes_or_sense_are_refused(place: Path, flags: tuple[str, ...], expected: str) -> None:
    write(place, STAGES)
    error = CliRunner().invoke(app, ["plan", "r.yml", *flags]).exception
    assert isinstance(error, InputError)
    assert error.message == expected


def test_a_seed_on_the_command_line_counts_for_every_stage(place: Path) -> None:
    text = STAGES.replace("merge_method: ties", "merge_method: dare_ties")
    write(place, text)
    write(place, text.replace("---", "seed: 7\n---") + "seed: 7\n", "seeded.yml")
    chosen = in_json("merge", "r.yml", "one", "--random-seed", "7")
    written = in_json("merge", "seeded.yml", "two")
    assert chosen["weights"] == written["weights"] != in_json("merge", "r.yml", "three")["weights"]
    assert "--random-seed 7" in (place / "one" / "mergekit_config.yml").read_text()


@pytest.mark.parametrize("seed", [-1, 1 << 63])
def test_a_seed_on_the_command_line_has_the_range_of_a_recipes(place: Path, seed: int) -> None:
    write(place, STAGES)
    error = CliRunner().invoke(app, ["plan", "r.yml", f"--random-seed={seed}"]).exception
    assert isinstance(error, RecipeError)
    assert error.message == f"--random-seed: got {seed}, a whole number from 0 to {(1 << 63) - 1} expected."


def test_a_scan_looks_at_the_models_that_are_there(place: Path) -> None:
    write(place, STAGES)
    weights = place / "b" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-2] + b"\xc0\x7f")
    facts = in_json("plan", "r.yml", "--scan", exit_code=1)
    assert [finding["source"] for finding in facts["stages"][0]["nonfinite"]] == ["b"]
    assert facts["nonfinite"] == []


def test_warnings_are_said_on_stderr_unless_quiet_and_are_data_too(place: Path) -> None:
    write(place, "merge_method: passthrough\nmodels: [{model: a, parameters: {density: 0.5}}]\n")
    loud = CliRunner().invoke(app, ["merge", "r.yml", "out", "--json"])
    (warning,) = json.loads(loud.stdout)["warnings"]
    assert "passthrough has no parameter 'density'" in warning
    assert loud.stderr == f"mergefleet: warning: {warning}\n"
    assert CliRunner().invoke(app, ["merge", "r.yml", "quiet", "--quiet"]).stderr == ""


def test_v_says_what_is_done_and_vv_every_tile(place: Path) -> None:
    write(place, STAGES)
    once = CliRunner().invoke(app, ["merge", "r.yml", "out", "-v"]).stderr.splitlines()
    assert [line.split(":")[1].strip() for line in once] == ["stage first", "first", "out"]
    again = CliRunner().invoke(app, ["merge", "r.yml", "again", "-vv"]).stderr
    assert "model.layers.1.mlp.up_proj.weight: 1 blocks from block 0 on are written" in again


def test_clean_removes_what_was_begun_of_stages_and_keeps_those_that_are_made(place: Path) -> None:
    write(place, STAGES)
    said("merge", "r.yml", "out")
    for name in ("out.stages/second.partial", "out.partial"):
        (place / name).mkdir()
    assert said("clean", "out").splitlines() == [
        f"removed {place}/out.partial",
        f"removed {place}/out.stages/second.partial",
    ]
    assert [path.name for path in (place / "out.stages").iterdir()] == ["first"]


def test_clean_leaves_no_empty_folder_of_stages(place: Path) -> None:
    (place / "out.stages" / "first.partial").mkdir(parents=True)
    removed = [f"removed {place}/out.stages/first.partial", f"removed {place}/out.stages"]
    assert said("clean", "out").splitlines() == removed
    assert not (place / "out.stages").exists()
    assert said("clean", "out") == f"nothing to remove beside {Path('out')}\n"


def test_the_recipe_of_a_published_model_is_its_part_of_the_file(place: Path) -> None:
    write(place, STAGES)
    said("merge", "r.yml", "out")
    stage = (place / "out.stages" / "first" / "mergekit_config.yml").read_text()
    assert yaml.safe_load(stage)["name"] == "first"
    assert yaml.safe_load((place / "out" / "mergekit_config.yml").read_text())["dtype"] == "float64"


def test_a_disk_that_is_full_when_small_files_are_written_names_the_file_and_the_merge_resumes(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(place, STAGES)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(Path, "write_text", full)
        error = CliRunner().invoke(app, ["merge", "r.yml", "out"]).exception
    assert isinstance(error, MergefleetError)
    assert "first.partial/out/" in error.message
    assert "cannot be written: No space left on device. Free some space" in error.message
    assert error.exit_code == 1
    said("merge", "r.yml", "out")
