"""Ray nodes with addresses of their own: one network namespace each, joined by a bridge; links may be cut and slowed.

The namespaces share the file system (as nodes share a volume), processes and the processor. Needs root. Nothing of it
touches the machine's own network, and all of it goes with the namespaces.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[1]
PORT = 6379
_SUBNET = "10.213.0"
BESIDE = f"{_SUBNET}.100"
_STORE_BYTES = 80 << 20
# A node that says nothing is dead after 9 s instead of 64 (measured)
_HEALTH = {"initial_delay_ms": "2000", "period_ms": "1000", "timeout_ms": "2000", "failure_threshold": "3"}


class NetNodes:
    """A head (node 0, which lends no processor) and worker nodes 1, 2, ... that lend one each."""

    def __init__(self) -> None:
        self._name = f"mf{os.getpid() % 100_000}"
        self._nodes: dict[int, subprocess.Popen[str]] = {}
        self._environment = {
            **os.environ,
            **{f"RAY_health_check_{name}": value for name, value in _HEALTH.items()},
            "PYTHONPATH": str(ROOT),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(16),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        self._own: Mapping[int, Mapping[str, str]] = {}
        self._environment.pop("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", None)  # tests set it: loopback only

    def open(self, workers: int, environments: Mapping[int, Mapping[str, str]]) -> None:
        """Make the network and start Ray on every node."""
        self._own = environments
        self._make_network(workers)
        self._start(0)
        self._await(0)
        for node in range(1, workers + 1):
            self._start(node)
            self._await(node)

    @property
    def address(self) -> str:
        return f"{ip_of(0)}:{PORT}"

    def pids(self, node: int, name: str = "") -> list[int]:
        """Processes of a node; those whose command line begins with `name`."""
        found = []
        for pid in _ip("netns", "pids", self._space(node)).split():
            with contextlib.suppress(OSError):  # it ended
                if Path(f"/proc/{pid}/cmdline").read_text().startswith(name):
                    found.append(int(pid))
        return found

    def popen(self, node: int, *command: str, environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """A process on that node, which sees what its Ray sees."""
        enter = ["nsenter", "-t", str(self._inside(node)), "-m", "-n"]
        return subprocess.Popen(
            [*enter, *command],
            env={**self._environment, **self._own.get(node, {}), **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def beside(self, *command: str) -> subprocess.Popen[bytes]:
        """A process at the bridge, whose own link is not limited; nodes find it at `BESIDE`."""
        return subprocess.Popen(["ip", "netns", "exec", self._space("switch"), *command])

    def logs(self, node: int) -> str:
        """What the processes of a node that hold Ray's core, drivers included, have logged."""
        place = Path(f"/proc/{self._inside(node)}/root/tmp/ray")
        return "".join(path.read_text(errors="replace") for path in place.glob("session_2*/logs/python-core-*.log"))

    def cut(self, node: int) -> None:
        """Pull the cable."""
        _ip("-n", self._space("switch"), "link", "set", f"port{node}", "down")

    def limit(self, node: int, *, mbit: int) -> None:
        """Cap a node's link, in both directions."""
        shape = ["root", "tbf", "rate", f"{mbit}mbit", "burst", "256kb", "latency", "100ms"]
        _run("tc", "-n", self._space("switch"), "qdisc", "replace", "dev", f"port{node}", *shape)
        _run("tc", "-n", self._space(node), "qdisc", "replace", "dev", "eth0", *shape)

    def signal(self, node: int, what: signal.Signals) -> None:
        """To every process of a node."""
        for pid in self.pids(node):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, what)

    def ask_to_end(self, node: int) -> None:
        """SIGTERM to the node's first process, as a kubelet sends it to a pod."""
        os.kill(self._inside(node), signal.SIGTERM)

    def close(self) -> None:
        for node in self._nodes:
            self.signal(node, signal.SIGKILL)
        for process in self._nodes.values():
            process.wait()
        for space in _ip("netns", "list").split("\n"):
            if space.startswith(f"{self._name}-"):
                _ip("netns", "delete", space.split()[0])

    def _space(self, node: object) -> str:
        return f"{self._name}-{node}"

    def _inside(self, node: int) -> int:
        """The pid of `ray start` itself."""
        return self._nodes[node].pid

    def _make_network(self, workers: int) -> None:
        switch = self._space("switch")
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "address", "add", f"{BESIDE}/24", "dev", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
        for node in range(workers + 1):
            space, port = self._space(node), f"port{node}"
            _ip("netns", "add", space)
            _ip("-n", switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", space)
            _ip("-n", switch, "link", "set", port, "master", "bridge", "up")
            _ip("-n", space, "address", "add", f"{ip_of(node)}/24", "dev", "eth0")
            _ip("-n", space, "link", "set", "eth0", "up")
            _ip("-n", space, "link", "set", "lo", "up")

    def _start(self, node: int) -> None:
        place = ["--head", f"--port={PORT}", "--include-dashboard=false"] if node == 0 else ["--address", self.address]
        ray = [str(Path(sys.executable).parent / "ray"), "start", *place, f"--node-ip-address={ip_of(node)}"]
        ray += [f"--num-cpus={int(node > 0)}", f"--object-store-memory={_STORE_BYTES}", "--block"]
        private = 'mkdir -p /tmp/ray && mount -t tmpfs tmpfs /tmp/ray && mount -t tmpfs tmpfs /dev/shm && exec "$@"'
        self._nodes[node] = subprocess.Popen(
            ["ip", "netns", "exec", self._space(node), "sh", "-c", private, "sh", *ray],
            env={**self._environment, **self._own.get(node, {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def _await(self, node: int) -> None:
        """Until `ray start` says so; on a busy machine the half minute that Ray allows may not be enough."""
        for last in (False, False, True):
            process, said = self._nodes[node], []
            assert process.stdout is not None
            for line in process.stdout:
                said.append(line)
                if "Ray runtime started" in line:
                    threading.Thread(target=_read_away, args=[process.stdout], daemon=True).start()
                    return
            if last:
                raise AssertionError(f"node {node} did not start: {''.join(said)}")
            self.signal(node, signal.SIGKILL)
            process.wait()
            self._start(node)


def ip_of(node: int) -> str:
    return f"{_SUBNET}.{node + 1}"


def refusal() -> str | None:
    """Why there can be no such nodes here; None: there can."""
    if os.geteuid() != 0:
        return "needs root, to make network namespaces"
    if shutil.which("ip") is None or subprocess.run(["unshare", "-n", "-m", "true"], capture_output=True).returncode:
        return "network namespaces cannot be made here"
    return None


@contextlib.contextmanager
def net_nodes(workers: int, environments: Mapping[int, Mapping[str, str]] | None = None) -> Iterator[NetNodes]:
    """Nodes for the time of a `with` block; `refusal` must have found nothing."""
    nodes = NetNodes()
    try:
        nodes.open(workers, environments or {})
        yield nodes
    finally:
        nodes.close()


def _ip(*arguments: str) -> str:
    return _run("ip", *arguments)


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _read_away(stream: IO[str]) -> None:
    for _ in stream:
        pass
