"""Each job's command line, as the manifest has it, on a Ray started here as KubeRay would start it.

The differences to the pods are paths, sizes and models: `--address auto`, token authentication, the flags and
variables of head and workers, PYTHONSAFEPATH and the working directory are the manifests' and the image's.
"""

from __future__ import annotations

import hashlib
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from raypods import Pods, pods_of
from tiny_tasks import Bench, make_bench, make_model, make_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.ray]

COMMAND = Path(sys.executable).with_name("mergefleet")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stands for the root of the pods' file systems: /config and /out."""
    folder = tmp_path_factory.mktemp("root")
    (folder / "config").mkdir()
    (folder / "out").mkdir()
    return folder


@pytest.fixture(scope="module")
def pods(documents: list[dict[str, Any]], root: Path) -> Iterator[Pods]:
    (spec,) = (each["spec"] for each in documents if each["kind"] == "RayCluster")
    with pods_of(spec, root / "out") as running:
        yield running


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


def entrypoint(documents: list[dict[str, Any]], job: str, root: Path) -> list[str]:
    """The job's command line with its absolute paths under `root`."""
    (found,) = (each for each in documents if (each["kind"], each["metadata"]["name"]) == ("RayJob", job))
    words = shlex.split(found["spec"]["entrypoint"])
    return [f"{root}{word}" if word.startswith("/") else word for word in words]


def without_ray(words: list[str], root: Path) -> subprocess.CompletedProcess[str]:
    """The same command in this process's machine alone, without `--address auto`."""
    at = words.index("--address")
    command = [str(COMMAND), *words[1:at], *words[at + 2 :]]
    return subprocess.run(command, cwd=root / "out", capture_output=True, text=True, timeout=400, check=False)


def example(documents: list[dict[str, Any]], name: str) -> dict[str, Any]:
    (found,) = (each for each in documents if each["kind"] == "ConfigMap")
    content: dict[str, Any] = yaml.safe_load(found["data"][name])
    return content


def digest(folder: Path) -> str:
    hashed = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        hashed.update(path.name.encode() + path.read_bytes())
    return hashed.hexdigest()


def test_the_merge_job_merges_the_example_recipe(
    documents: list[dict[str, Any]], root: Path, pods: Pods, models: list[str]
) -> None:
    recipe = example(documents, "recipe.yml")
    recipe["base_model"], *others = models
    for entry, model in zip(recipe["models"], others, strict=True):
        entry["model"] = model
    (root / "config" / "recipe.yml").write_text(yaml.safe_dump(recipe))

    words = entrypoint(documents, "mergefleet-merge", root)
    done = pods.submit(words)
    assert done.returncode == 0, done.stdout + done.stderr

    elsewhere = [word.replace("/out/model", "/out/alone") for word in words]
    assert without_ray(elsewhere, root).returncode == 0
    assert digest(root / "out" / "model") == digest(root / "out" / "alone")
    # A job that is applied again does not write over what it published.
    again = without_ray(words, root)
    assert again.returncode == 3
    assert str(root / "out" / "model") in again.stderr


def test_the_campaign_job_runs_the_example_campaign_and_a_retry_scores_nothing_again(
    documents: list[dict[str, Any]], root: Path, pods: Pods, models: list[str], bench: Bench
) -> None:
    campaign = example(documents, "campaign.yml")
    campaign["base_model"], *campaign["sources"] = models
    campaign["tasks"] = [entry.model_dump() for entry in bench.entries]
    campaign["include_path"] = str(bench.folder)
    campaign["baselines"] = ["uniform"]
    campaign["items"] = {"window": {0: 2}}
    campaign["budget"] = {"candidates": 10}
    campaign["evaluator"]["threads"] = 1
    campaign["publish"]["to"] = str(root / "out" / "winner")
    (root / "config" / "campaign.yml").write_text(yaml.safe_dump(campaign))

    words = entrypoint(documents, "mergefleet-search", root)
    done = pods.submit(words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "winner" in done.stdout  # or "no significant winner": random models have nothing to win
    run = root / "out" / "runs" / "example"
    assert (run / "report.html").is_file()

    attempts = (run / "audit.jsonl").read_bytes()
    assert attempts.count(b"\n") >= 10
    retried = without_ray(words, root)
    assert retried.returncode == 0, retried.stdout + retried.stderr
    assert (run / "audit.jsonl").read_bytes() == attempts
