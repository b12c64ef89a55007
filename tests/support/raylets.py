"""A Ray of several raylets on this machine, each with processes of its own, which may be killed and replaced.

Start it in a process that has no other Ray: what Ray reads from the environment is read once.
"""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

from processes import actor_pids

from cluster.ray_session import Session

ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # loopback only
    "RAY_USAGE_STATS_ENABLED": "0",
}
FAST_HEALTH_CHECKS = {
    "health_check_initial_delay_ms": 2000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 3,
}
"""A node that says nothing is dead after 3 s instead of 14 (measured)."""
_STORE_BYTES = 80 << 20


class Raylets:
    """A head that lends no processor and nodes that lend one each: Ray's own rig for several nodes on one machine."""

    def __init__(self, nodes: int) -> None:
        os.environ.update(ENVIRONMENT | {"RAY_AUTH_TOKEN": secrets.token_hex(16)})
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "include_dashboard": False, "_system_config": FAST_HEALTH_CHECKS}
        self._cluster = Cluster(initialize_head=True, head_node_args=head | {"object_store_memory": _STORE_BYTES})
        self._nodes: list[Any] = []
        for _ in range(nodes):
            self.add()

    @property
    def address(self) -> str:
        return str(self._cluster.gcs_address)

    @property
    def environment(self) -> Mapping[str, str]:
        """For a driver."""
        return {name: os.environ[name] for name in (*ENVIRONMENT, "RAY_AUTH_TOKEN")}

    @property
    def _session(self) -> Session:
        return Session(self.address, Path(self._cluster.head_node.get_logs_dir_path()), started=True)

    def add(self) -> None:
        """Another node."""
        self._nodes.append(self._cluster.add_node(num_cpus=1, object_store_memory=_STORE_BYTES))

    def workers(self) -> list[int]:
        """Pids of the merge workers that live."""
        return sorted(actor_pids(self._session, "MergeWorker"))

    def kill_raylet(self, rng: Random) -> int:
        """SIGKILL to the raylet of a node, and to nothing else; returns its pid."""
        from ray._private.ray_constants import PROCESS_TYPE_RAYLET

        node = self._nodes.pop(rng.randrange(len(self._nodes)))
        pid = int(node.all_processes[PROCESS_TYPE_RAYLET][0].process.pid)
        os.kill(pid, signal.SIGKILL)
        self._cluster.remove_node(node, allow_graceful=False)  # its agents, which would end by themselves soon
        return pid

    def close(self) -> None:
        self._cluster.shutdown()
