"""What KubeRay would start from a RayCluster document, started on this machine: its flags, its variables, its token."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RAY = Path(sys.executable).with_name("ray")
TOKEN = "0123456789abcdef0123456789abcdef"


@dataclass(frozen=True)
class Pods:
    """A running head and workers; `environment` is what the head's container has."""

    dashboard: str
    environment: dict[str, str]

    def submit(self, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """`ray job submit -- WORDS`, as KubeRay's submitter does it, until the job has ended."""
        command = [str(RAY), "job", "submit", "--address", self.dashboard, "--", *words]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=400, check=False)


@contextmanager
def pods_of(spec: dict[str, Any], workdir: Path) -> Iterator[Pods]:
    """A head and one worker of the RayCluster `spec`, both working in `workdir`, stopped on leaving."""
    head, (worker,) = spec["headGroupSpec"], spec["workerGroupSpecs"]
    # Ray's sockets lie in here, and a socket's path may have 107 characters: pytest's folders are too deep.
    home = Path(tempfile.mkdtemp(prefix="mf-", dir="/tmp"))
    port, dashboard = free_port(), free_port()
    ports = [f"--port={port}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={free_port()}"]
    starts = [
        (head, ["--head", *ports, f"--temp-dir={home}/ray"]),
        (worker, [f"--address=127.0.0.1:{port}", "--num-cpus=2"]),
    ]
    running: list[subprocess.Popen[bytes]] = []
    agents: list[int] = []
    try:
        for group, place in starts:
            agents.append(free_port())  # its default, 52365, would be taken where another Ray runs
            flags = [f"--{name}={value}" for name, value in group["rayStartParams"].items()]
            command = [str(RAY), "start", *flags, *place, "--block", "--node-ip-address=127.0.0.1"]
            command.append(f"--dashboard-agent-listen-port={agents[-1]}")
            environment = environment_of(group, home)
            running.append(subprocess.Popen(command, env=environment, cwd=workdir, stdout=subprocess.DEVNULL))
            wait_for_gcs(f"127.0.0.1:{port}", environment)
        for agent in agents:
            wait_until_ready(agent)
        yield Pods(f"http://127.0.0.1:{dashboard}", environment_of(head, home))
    finally:
        for process in reversed(running):
            stop(process)
        shutil.rmtree(home, ignore_errors=True)


def environment_of(group: dict[str, Any], home: Path) -> dict[str, str]:
    """The variables of a group's container, with what KubeRay (the token) and the image (the rest) add."""
    (container,) = group["template"]["spec"]["containers"]
    written = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    here = {
        "HF_HOME": str(home / "hub"),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
    }
    image = {"PYTHONSAFEPATH": "1", "HOME": str(home), "PATH": f"{RAY.parent}:{os.environ['PATH']}"}
    return written | here | image | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_gcs(address: str, environment: dict[str, str]) -> None:
    """What KubeRay's init container does before a worker starts."""
    command = [str(RAY), "health-check", "--address", address]
    wait_until(lambda: subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0)


def wait_until_ready(agent: int) -> None:
    """KubeRay's readiness probe; it submits a job once every pod is ready."""

    def ready() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{agent}/api/healthz", timeout=10) as answer:
                return bool(answer.status == 200)
        except OSError:  # not listening yet, or not healthy yet
            return False

    wait_until(ready)


def wait_until(happened: Callable[[], bool]) -> None:
    for _ in range(240):
        if happened():
            return
        time.sleep(0.5)
    raise TimeoutError("Ray did not come up in 240 attempts")


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
