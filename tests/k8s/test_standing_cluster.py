"""What KubeRay would start, started here: head and worker with the manifests' flags and variables, and a job for them.

The one difference to the pods is paths and sizes: `ray job submit` carries the merge job's command line with
`--address auto` as it stands, under token authentication and PYTHONSAFEPATH, as in the image.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_tasks import make_model, make_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.ray]

RAY = Path(sys.executable).with_name("ray")
TOKEN = "0123456789abcdef0123456789abcdef"


@dataclass(frozen=True)
class Cluster:
    """Where jobs are submitted, and the environment that pods have."""

    dashboard: str
    environment: dict[str, str]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment_of(group: dict[str, Any], home: Path) -> dict[str, str]:
    """The variables of a group's container, with what KubeRay (the token) and the image (the rest) add."""
    (container,) = group["template"]["spec"]["containers"]
    written = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    image = {"PYTHONSAFEPATH": "1", "HOME": str(home), "HF_HUB_OFFLINE": "1"}
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    path = {"PATH": f"{RAY.parent}:{os.environ['PATH']}"}
    return written | {"HF_HOME": str(home / "hub")} | image | token | path


def flags(group: dict[str, Any]) -> list[str]:
    return [f"--{name}={value}" for name, value in group["rayStartParams"].items()]


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@pytest.fixture
def cluster(documents: list[dict[str, Any]]) -> Iterator[Cluster]:
    """A head and one worker on this machine, from the RayCluster document."""
    (spec,) = (each["spec"] for each in documents if each["kind"] == "RayCluster")
    head, (worker,) = spec["headGroupSpec"], spec["workerGroupSpecs"]
    # Ray's sockets lie in here, and a socket's path may have 107 characters: pytest's folders are too deep.
    home = Path(tempfile.mkdtemp(prefix="mf-", dir="/tmp"))
    port, dashboard = free_port(), free_port()
    local = ["--block", "--node-ip-address=127.0.0.1", "--disable-usage-stats"]
    ports = [f"--port={port}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={free_port()}"]
    starts = [
        (head, ["--head", *ports, f"--temp-dir={home}/ray"]),
        (worker, [f"--address=127.0.0.1:{port}", "--num-cpus=2"]),
    ]
    running = []
    try:
        for group, extra in starts:
            environment = environment_of(group, home)
            command = [str(RAY), "start", *flags(group), *extra, *local]
            running.append(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL))
            wait_for_gcs(f"127.0.0.1:{port}", environment)
        wait_for_nodes(len(starts), f"http://127.0.0.1:{dashboard}")
        yield Cluster(f"http://127.0.0.1:{dashboard}", environment_of(head, home))
    finally:
        for process in reversed(running):
            stop(process)
        shutil.rmtree(home, ignore_errors=True)


def wait_for_gcs(address: str, environment: dict[str, str]) -> None:
    """What KubeRay's init container does before a worker starts."""
    command = [str(RAY), "health-check", "--address", address]
    wait_until(lambda: subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0)


def wait_for_nodes(count: int, dashboard: str) -> None:
    """KubeRay submits a job once every pod is ready."""
    request = urllib.request.Request(f"{dashboard}/api/v0/nodes", headers={"Authorization": f"Bearer {TOKEN}"})

    def all_alive() -> bool:
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                nodes = json.load(answer)["data"]["result"]["result"]
        except OSError:  # the dashboard is not up yet
            return False
        return sum(node["state"] == "ALIVE" for node in nodes) == count

    wait_until(all_alive)


def wait_until(happened: Callable[[], bool]) -> None:
    for _ in range(240):
        if happened():
            return
        time.sleep(0.5)
    pytest.fail("Ray did not come up in 240 attempts")


def test_the_merge_jobs_command_works_as_a_submitted_job(
    documents: list[dict[str, Any]], cluster: Cluster, tmp_path: Path
) -> None:
    tokenizer = make_tokenizer()
    (config,) = (each["data"] for each in documents if each["kind"] == "ConfigMap")
    recipe = yaml.safe_load(config["recipe.yml"])
    folders = [tmp_path / "out" / name for name in ("base", "a", "b")]
    for seed, folder in enumerate(folders):
        make_model(seed, tokenizer).save_pretrained(folder)
    recipe["base_model"] = str(folders[0])
    for entry, folder in zip(recipe["models"], folders[1:], strict=True):
        entry["model"] = str(folder)
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "recipe.yml").write_text(yaml.safe_dump(recipe))

    (job,) = (each for each in documents if each["metadata"]["name"] == "mergefleet-merge")
    words = [f"{tmp_path}{word}" if word.startswith("/") else word for word in shlex.split(job["spec"]["entrypoint"])]
    assert words[-2:] == ["--address", "auto"]
    submit = [str(RAY), "job", "submit", "--address", cluster.dashboard, "--", *words]
    done = subprocess.run(submit, env=cluster.environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "out" / "model" / "provenance.json").is_file()
