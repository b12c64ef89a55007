"""Merges on a Ray of three nodes of this machine, in a process of its own: `python three_nodes.py WORK.json`.

A test process is connected to one Ray for all its life, and this is another one. Writes WORK.results: for every merge
the digest of the bytes that were made, and what the nodes did.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from backends import MIB, bytes_of, recipe_of
from bad_workers import UntilJoinedWorker, UntilSentHomeWorker
from processes import actor_pids

from cluster import ray_session, roster, sharding
from cluster.actors import MergeWorker
from cluster.merge_job import merge_on_ray
from cluster.merge_status import Status
from cluster.placement import Request
from cluster.ray_session import Session
from engine import Options

WORKERS = {"node_joined": UntilJoinedWorker, "node_drained": UntilSentHomeWorker}
NODE = {"num_cpus": 2, "object_store_memory": 80 * MIB, "include_dashboard": False}


class Nodes:
    """The cluster, and what happens to it in the middle of a merge."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(initialize_head=True, head_node_args=dict(NODE))
        self.others = [self.cluster.add_node(**NODE, labels={"side": side}) for side in ("left", "right")]
        self.session: Session

    def nothing(self, out: Path) -> None:
        pass

    def worker_killed(self, out: Path) -> None:
        os.kill(actor_pids(self.session, roster.MergeWorker.__name__)[0], signal.SIGKILL)

    def node_killed(self, out: Path) -> None:
        self.cluster.remove_node(self.others.pop(), allow_graceful=False)

    def node_joined(self, out: Path) -> None:
        self.others.append(self.cluster.add_node(**NODE, labels={"side": "late"}))

    def node_drained(self, out: Path) -> None:
        from ray._raylet import GcsClient
        from ray.core.generated import autoscaler_pb2

        out.with_name(f"{out.name}.drained").write_text(self.others[0].node_id)
        client = GcsClient(address=self.cluster.address)
        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        deadline_ms = int((time.time() + 30) * 1000)
        accepted, why = client.drain_node(self.others[0].node_id, reason, "the machine is needed", deadline_ms)
        assert accepted, why

    def merge(self, work: dict[str, Any]) -> dict[str, Any]:
        """One merge, with the event after the first tiles."""
        out, seen = Path(work["out"]), list[Status]()
        happened = out.with_name(f"{out.name}.happened")
        roster.MergeWorker = WORKERS.get(work["event"], MergeWorker)  # type: ignore[misc]

        def watch(status: Status) -> None:
            seen.append(status)
            if not happened.exists():
                happened.write_text("")
                getattr(self, work["event"])(out)

        made = merge_on_ray(
            recipe_of(work["method"], tuple(Path(model) for model in work["models"])),
            out,
            options=Options(threads=1, tile_bytes=MIB),
            address=self.cluster.address,
            request=Request(cpus=1, labels=work.get("labels", {}), workers=work.get("workers")),
            watch=watch,
        )
        counts = {node: asdict(count) for node, count in seen[-1].nodes.items()}
        return {"bytes": bytes_of(made.out), "nodes": counts}


def main(path: Path) -> None:
    works = json.loads(path.read_text())
    sharding.MIN_CHUNK_BYTES, roster.LOOK_AROUND_S = 3 * MIB, 0.2
    nodes = Nodes()
    try:
        with ray_session.session(nodes.cluster.address) as nodes.session:
            results = [nodes.merge(work) for work in works]
    finally:
        nodes.cluster.shutdown()
    path.with_suffix(".results").write_text(json.dumps(results))  # Ray prints what it likes


if __name__ == "__main__":
    main(Path(sys.argv[1]))
