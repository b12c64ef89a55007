"""The command as a user types it: exit codes, one-line errors, JSON, and what is left on disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

COMMAND = Path(sys.executable).parent / "mergefleet"


def mergefleet(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(COMMAND), *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def model(directory: Path, *, fill: float = 1.0, rows: int = 5) -> None:
    tensors = {
        "model.embed_tokens.weight": np.full((8, 4), fill, np.float32),
        "model.layers.0.mlp.up_proj.weight": np.full((rows, 4), fill, np.float32),
        "model.norm.weight": np.full(4, fill, np.float32),
    }
    directory.mkdir()
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps({"model_type": "llama", "num_hidden_layers": 1}))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A working directory with three models and a recipe, `r.yml`."""
    for name, fill in (("base", 1.0), ("a", 2.0), ("b", 4.0)):
        model(tmp_path / name, fill=fill)
    write(tmp_path, recipe())
    return tmp_path


def recipe(**changed: Any) -> dict[str, Any]:
    entries = [{"model": name, "parameters": {"weight": 0.5}} for name in ("a", "b")]
    return {"merge_method": "task_arithmetic", "base_model": "base", "models": entries, **changed}


def write(place: Path, data: Any, name: str = "r.yml") -> None:
    (place / name).write_text(yaml.safe_dump(data, sort_keys=False))


def assert_refused(result: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    for word in words:
        assert word in result.stderr


def test_merge_plan_and_refusal_to_overwrite(place: Path) -> None:
    planned = mergefleet("plan", "r.yml", "--scan", "--json", cwd=place)
    facts = json.loads(planned.stdout)
    assert (planned.returncode, facts["nonfinite"], facts["tensors"]) == (0, [], 3)
    merged = mergefleet("merge", "r.yml", "out", "--json", cwd=place)
    assert merged.returncode == 0, merged.stderr
    assert json.loads(merged.stdout)["plan"] == facts["digest"]
    assert sorted(path.name for path in (place / "out").iterdir()) == [
        "README.md",
        "config.json",
        "mergekit_config.yml",
        "model.safetensors",
        "provenance.json",
        "recipe.json",
    ]
    assert not (place / "out.partial").exists()
    assert_refused(mergefleet("merge", "r.yml", "out", cwd=place), 3, "is there already")


def test_plain_output_says_what_was_made_and_what_a_plan_holds(place: Path) -> None:
    merged = mergefleet("merge", "r.yml", "out", cwd=place)
    assert "weights" in merged.stdout
    planned = mergefleet("plan", "r.yml", cwd=place)
    for word in ("task_arithmetic (kernel)", "reads", "writes", "memory", "digest"):
        assert word in planned.stdout


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"paramters": {}}, ("r.yml", "paramters", "did you mean 'parameters'?")),
        ({"merge_method": "tise"}, ("r.yml", "'tise'", "did you mean 'ties'?")),
        ({"models": [{"model": "a"}]}, ("r.yml", "weight")),
        ({"dtype": "float12"}, ("r.yml", "dtype", "float12")),
        ({"models": [{"model": "nowhere", "parameters": {"weight": 1}}]}, ("nowhere",)),
    ],
)
def test_recipes_that_cannot_work_are_refused_in_one_line(
    changed: dict[str, Any], words: tuple[str, ...], place: Path
) -> None:
    write(place, recipe(**changed))
    before = sorted(path.name for path in place.iterdir())
    assert_refused(mergefleet("merge", "r.yml", "out", cwd=place), 2, *words)
    assert sorted(path.name for path in place.iterdir()) == before


def test_models_of_different_shape_are_named_with_both_shapes(place: Path) -> None:
    model(place / "wide", rows=9)
    entries = [{"model": name, "parameters": {"weight": 1}} for name in ("a", "wide")]
    write(place, recipe(models=entries))
    assert_refused(mergefleet("merge", "r.yml", "out", cwd=place), 2, "up_proj", "[5, 4]", "[9, 4]")


def test_a_truncated_model_is_refused_by_name(place: Path) -> None:
    file = place / "a" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-20])
    assert_refused(mergefleet("merge", "r.yml", "out", cwd=place), 2, "a/model.safetensors", "truncated")


def test_nan_in_a_source_is_found_by_scan_and_stops_a_merge(place: Path) -> None:
    bad = {"model.norm.weight": np.array([1, np.nan, np.inf, 1], np.float32)}
    tensors = {"model.embed_tokens.weight": (8, 4), "model.layers.0.mlp.up_proj.weight": (5, 4)}
    ones = {name: np.ones(size, np.float32) for name, size in tensors.items()}
    save_file({**ones, **bad}, place / "a" / "model.safetensors", metadata={"format": "pt"})
    scanned = mergefleet("plan", "r.yml", "--scan", "--json", cwd=place)
    assert scanned.returncode == 1
    assert json.loads(scanned.stdout)["nonfinite"] == [{"source": "a", "tensor": "model.norm.weight", "count": 2}]
    assert_refused(mergefleet("merge", "r.yml", "out", cwd=place), 1, "model.norm.weight", "2 NaN or Inf", "a:")
    assert not (place / "out").exists()
    assert mergefleet("merge", "r.yml", "out", "--allow-nan", cwd=place).returncode == 0


def test_clean_removes_what_a_dead_run_left_and_nothing_else(place: Path) -> None:
    (place / "out.partial").mkdir()
    (place / "out.partial" / "mine.txt").write_text("keep")
    assert_refused(mergefleet("clean", "out", cwd=place), 3, "out.partial")
    assert (place / "out.partial" / "mine.txt").exists()
    assert "nothing to remove" in mergefleet("clean", "other", cwd=place).stdout


def test_errors_are_json_too_where_asked_for(place: Path) -> None:
    write(place, recipe(merge_method="tise"))
    result = mergefleet("merge", "r.yml", "out", "--json", cwd=place)
    assert json.loads(result.stdout)["exit_code"] == result.returncode == 2


@pytest.mark.parametrize("arguments", [("mrge",), ("merge", "r.yml"), ("merge", "r.yml", "out", "--thread", "2")])
def test_a_mistyped_command_line_is_exit_2_without_a_traceback(arguments: tuple[str, ...], place: Path) -> None:
    result = mergefleet(*arguments, cwd=place)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


def test_memory_and_sizes_are_read_with_units_and_refused_without_sense(place: Path) -> None:
    assert_refused(mergefleet("merge", "r.yml", "out", "--memory", "lots", cwd=place), 2, "--memory", "512MiB")
    assert_refused(mergefleet("merge", "r.yml", "out", "--memory", "1KiB", cwd=place), 2, "too small", "Give --memory")


def test_doctor_finds_this_machine_fit_and_says_what_was_never_run(place: Path) -> None:
    result = mergefleet("doctor", "--json", cwd=place)
    checks = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
    assert result.returncode == 0
    assert checks["kernels"]["status"] == "ok"
    assert checks["GPU"]["status"] == "untested"


def test_ray_client_addresses_are_refused_with_the_command_that_does_it(place: Path) -> None:
    result = mergefleet("merge", "r.yml", "out", "--address", "ray://head:10001", cwd=place)
    assert_refused(result, 2, "ray job submit")


def campaign(place: Path, **changed: Any) -> dict[str, Any]:
    root = Path(__file__).parents[2]
    data: dict[str, Any] = yaml.safe_load((root / "configs" / "campaigns" / "demo.yml").read_text())
    data["base_model"] = str(root / data["base_model"])
    data["sources"] = [str(root / source) for source in data["sources"]]
    data["include_path"] = str(root / data["include_path"])
    return {**data, **changed}


@pytest.mark.parametrize(
    ("changed", "code", "words"),
    [
        ({"sources": ["a", "nowhere"]}, 2, ("c.yml", "sources[1]", "nowhere")),
        ({"publish": {"to": "a"}}, 3, ("a: a directory is there already", "publish.to")),
        ({"publish": {"to": "hf://me/x"}}, 2, ("c.yml", "publish.to", "hf://me/x")),
        ({"evaluator": {"device": "cuda"}}, 2, ("c.yml", "evaluator.device", "no GPU")),
        ({"smapler": "auto"}, 2, ("c.yml", "smapler", "did you mean 'sampler'?")),
        (
            {"tasks": [{"name": "x", "search": "demo_x", "selection": "demo_y", "holdout": "demo_z"}]},
            2,
            ("c.yml", "demo_x"),
        ),
    ],
)
def test_campaigns_that_cannot_work_are_refused_before_a_run_exists(
    changed: dict[str, Any], code: int, words: tuple[str, ...], place: Path
) -> None:
    write(place, campaign(place, **changed), "c.yml")
    assert_refused(mergefleet("search", "c.yml", cwd=place), code, *words)
    assert not (place / "runs").exists()


def test_a_report_without_a_run_and_a_run_that_has_no_place_are_said_in_one_line(place: Path) -> None:
    write(place, campaign(place), "c.yml")
    assert_refused(mergefleet("report", "c.yml", cwd=place), 2, "runs/demo", "mergefleet search")
    assert_refused(mergefleet("search", "c.yml", "--run-dir", "/proc/x", cwd=place), 2, "/proc/x")
    assert_refused(mergefleet("merge", "r.yml", "out", "--workers", "2", cwd=place), 2, "--address")
