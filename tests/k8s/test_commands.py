"""Each job's command line, as the manifest has it, on this machine: other paths, a Ray started here, tiny models."""

from __future__ import annotations

import hashlib
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_tasks import Bench, make_bench, make_model, make_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.ray]

COMMAND = Path(sys.executable).with_name("mergefleet")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(tmp_path_factory.mktemp("bench") / "tasks")


@pytest.fixture(scope="module")
def models(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Directories of a base and two models beside it, with a tokenizer."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = make_tokenizer()
    for name, model in (("base", make_model(3, tokenizer)), ("a", bench.a.model), ("b", bench.b.model)):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return [str(folder / name) for name in ("base", "a", "b")]


@pytest.fixture
def pod(tmp_path: Path) -> Path:
    """Stands for the root of a pod's file system: /config and /out."""
    (tmp_path / "config").mkdir()
    (tmp_path / "out").mkdir()
    return tmp_path


def entrypoint(documents: list[dict[str, Any]], job: str) -> list[str]:
    (found,) = (each for each in documents if (each["kind"], each["metadata"]["name"]) == ("RayJob", job))
    return shlex.split(found["spec"]["entrypoint"])


def example(documents: list[dict[str, Any]], name: str) -> dict[str, Any]:
    (found,) = (each for each in documents if each["kind"] == "ConfigMap")
    content: dict[str, Any] = yaml.safe_load(found["data"][name])
    return content


def run(words: list[str], pod: Path) -> subprocess.CompletedProcess[str]:
    """Run a pod's command line here, in its working directory: paths lie under `pod`, Ray is this machine's own."""
    assert words[0] == "mergefleet"
    here = [{"auto": "local"}.get(word, word) for word in words[1:]]
    local = [str(pod / word[1:]) if word.startswith("/") else word for word in here]
    return subprocess.run(
        [str(COMMAND), *local], cwd=pod / "out", capture_output=True, text=True, timeout=400, check=False
    )


def digest(folder: Path) -> str:
    hashed = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        hashed.update(path.name.encode() + path.read_bytes())
    return hashed.hexdigest()


def test_the_merge_jobs_command_merges_the_example_recipe(
    documents: list[dict[str, Any]], pod: Path, models: list[str]
) -> None:
    recipe = example(documents, "recipe.yml")
    base, *others = models
    recipe["base_model"] = base
    for entry, model in zip(recipe["models"], others, strict=True):
        entry["model"] = model
    (pod / "config" / "recipe.yml").write_text(yaml.safe_dump(recipe))

    words = entrypoint(documents, "mergefleet-merge")
    done = run(words, pod)
    assert done.returncode == 0, done.stdout + done.stderr

    in_process = ["mergefleet", "merge", "/config/recipe.yml", "/out/in-process"]
    assert run(in_process, pod).returncode == 0
    assert digest(pod / "out" / "model") == digest(pod / "out" / "in-process")
    # A job that is applied again must not write over what it published.
    again = run(words, pod)
    assert again.returncode == 3
    assert str(pod / "out" / "model") in again.stderr


def test_the_campaign_jobs_command_runs_the_example_campaign(
    documents: list[dict[str, Any]], pod: Path, models: list[str], bench: Bench
) -> None:
    campaign = example(documents, "campaign.yml")
    base, *others = models
    tasks = [entry.model_dump() for entry in bench.entries]
    campaign |= {"base_model": base, "sources": others, "tasks": tasks, "include_path": str(bench.folder)}
    campaign["space"]["stages"][0]["candidates"] = 3
    campaign["items"] = {"window": {0: 2}}
    campaign["budget"] = {"candidates": 6}
    campaign["evaluator"]["threads"] = 1
    campaign["publish"]["to"] = str(pod / "out" / "winner")
    (pod / "config" / "campaign.yml").write_text(yaml.safe_dump(campaign))

    done = run(entrypoint(documents, "mergefleet-search"), pod)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (pod / "out" / "winner" / "provenance.json").is_file()
    assert (pod / "out" / "runs" / "example" / "campaign.sqlite").is_file()
    # The retry of a job whose campaign is over finds nothing left to do, and changes nothing.
    before = digest(pod / "out" / "winner")
    assert run(entrypoint(documents, "mergefleet-search"), pod).returncode == 0
    assert digest(pod / "out" / "winner") == before
