"""Nodes with addresses of their own, cut off, drained, ended and stopped in the midst of a merge: the same bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from backends import bytes_of
from disturbed import Case, case_of, merge_command
from fault_places import on_disk

from bench.net_nodes import NetNodes, ip_of, net_nodes, refusal
from engine.audit import read_starts

_REFUSAL = refusal()
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.skipif(_REFUSAL is not None, reason=str(_REFUSAL))]
long = pytest.mark.skipif("MERGEFLEET_FAULTS" not in os.environ, reason="takes a minute: make faults")
RPC_FAILURES = {
    "CoreWorkerService.grpc_client.PushTask": {
        "num_failures": 20,
        "req_failure_prob": 20,
        "resp_failure_prob": 20,
        "in_flight_failure_prob": 0,
    }
}
WAIT_S = 180.0


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    place = tmp_path_factory.mktemp("case")
    with on_disk(place, 0) as storage:
        return case_of("ties", storage, place)


def start(case: Case, out: Path, nodes: NetNodes, *flags: str) -> subprocess.Popen[str]:
    """The merge, its driver on the head."""
    command = merge_command(case, str(out), *flags, address=nodes.address)
    return nodes.popen(0, *command, environment={"MERGEFLEET_AUDIT": str(audit_of(out))})


def audit_of(out: Path) -> Path:
    return out.with_name("audit")


def wait_for(condition: Callable[[], bool], driver: subprocess.Popen[str]) -> None:
    """Until the condition holds; fails where the driver fails, or it takes too long."""
    end = time.monotonic() + WAIT_S
    while not condition():
        assert driver.poll() in (None, 0), driver.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def finished(out: Path, driver: subprocess.Popen[str]) -> str:
    """The bytes of the merge when it has ended well, and nothing lies beside it."""
    said = driver.communicate(timeout=WAIT_S)
    assert driver.returncode == 0, said
    assert sorted(path.name for path in out.parent.iterdir()) == ["OUT", "audit"]
    return bytes_of(out)


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def begun_by(out: Path, pid: int) -> int:
    return sum(start.pid == pid for start in read_starts(audit_of(out)))


def test_a_worker_that_was_cut_off_and_writes_on_after_all_is_published_changes_nothing(
    case: Case, tmp_path: Path
) -> None:
    out = tmp_path / "OUT"
    with net_nodes(2, {2: {"MERGEFLEET_FAILPOINT": "tile.written:3:STOP"}}) as nodes:
        driver = start(case, out, nodes)
        wait_for(lambda: any(map(is_stopped, nodes.pids(2, "ray::MergeWorker"))), driver)
        (zombie,) = nodes.pids(2, "ray::MergeWorker")
        nodes.cut(2)
        assert finished(out, driver) == case.expected
        again = [start for start in read_starts(audit_of(out)) if start.attempt > 1]
        assert len(again) >= 3, "what the lost worker had in hand was not made by another"
        before = begun_by(out, zombie)
        os.kill(zombie, signal.SIGCONT)
        wait_for(lambda: begun_by(out, zombie) > before, driver)
        time.sleep(1.0)
        assert bytes_of(out) == case.expected


@long
def test_a_drained_node_may_be_taken_away_at_its_deadline(case: Case, tmp_path: Path) -> None:
    out = tmp_path / "OUT"
    with net_nodes(2) as nodes:
        driver = start(case, out, nodes, "--definition")
        wait_for(lambda: any(begun_by(out, pid) for pid in nodes.pids(2, "ray::MergeWorker")), driver)
        drain(nodes, 2)
        nodes.signal(2, signal.SIGKILL)
        assert finished(out, driver) == case.expected


def drain(nodes: NetNodes, node: int) -> None:
    """`ray drain-node`, as an autoscaler does before it takes a spot machine away."""
    code = "import ray, json; ray.init('auto', logging_level='ERROR'); print(json.dumps(ray.nodes()))"
    found = json.loads(nodes.popen(0, sys.executable, "-c", code).communicate()[0].splitlines()[-1])
    (node_id,) = (known["NodeID"] for known in found if known["NodeManagerAddress"] == ip_of(node))
    reason = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
    command = [str(Path(sys.executable).parent / "ray"), "drain-node", "--node-id", node_id, *reason]
    draining = nodes.popen(0, *command, "--address", nodes.address, "--deadline-remaining-seconds", "3")
    said = draining.communicate()
    assert draining.returncode == 0, said
    time.sleep(3)


@long
def test_a_node_that_is_asked_to_end_and_killed_after_thirty_seconds_is_done_without(
    case: Case, tmp_path: Path
) -> None:
    out = tmp_path / "OUT"
    with net_nodes(2) as nodes:
        driver = start(case, out, nodes, "--definition")
        wait_for(lambda: any(begun_by(out, pid) for pid in nodes.pids(2, "ray::MergeWorker")), driver)
        nodes.ask_to_end(2)
        deadline = time.monotonic() + 30
        while nodes.pids(2) and time.monotonic() < deadline:
            time.sleep(0.2)
        nodes.signal(2, signal.SIGKILL)
        assert finished(out, driver) == case.expected


@long
def test_a_node_that_hangs_is_given_up_and_may_wake_up_when_all_is_done(case: Case, tmp_path: Path) -> None:
    out = tmp_path / "OUT"
    with net_nodes(2) as nodes:
        driver = start(case, out, nodes, "--definition")
        wait_for(lambda: any(begun_by(out, pid) for pid in nodes.pids(2, "ray::MergeWorker")), driver)
        nodes.signal(2, signal.SIGSTOP)
        assert finished(out, driver) == case.expected
        nodes.signal(2, signal.SIGCONT)
        time.sleep(5)
        assert bytes_of(out) == case.expected


@long
def test_calls_of_ray_that_fail_at_random_change_nothing(case: Case, tmp_path: Path) -> None:
    out = tmp_path / "OUT"
    failures = {"RAY_testing_rpc_failure": json.dumps(RPC_FAILURES)}
    with net_nodes(2, dict.fromkeys(range(3), failures)) as nodes:
        assert finished(out, start(case, out, nodes)) == case.expected
        assert "Inject RPC re" in nodes.logs(0)
