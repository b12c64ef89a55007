"""Joining and leaving a Ray: what is wrong is one line, and only what was started here is ended here."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cluster import ray_session
from cluster.ray_session import Session, alive_nodes, log_tail, session, this_node
from engine.errors import ClusterError

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parents[2]
JOIN = """
import sys
{before}
from cluster import ray_session
from cluster.ray_session import session, alive_nodes
from engine.errors import ClusterError
try:
    with session({address!r}) as joined:
        print(joined.started, len(alive_nodes()))
except ClusterError as error:
    print(error.message)
"""


def joined(address: str, *, before: str = "", **environment: str) -> str:
    """What a process of its own prints that joins the Ray at `address`."""
    shown = subprocess.run(
        [sys.executable, "-c", JOIN.format(address=address, before=before)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert shown.returncode == 0, shown.stderr
    assert "Traceback" not in shown.stderr
    return shown.stdout.strip()


def test_a_local_ray_stays_on_this_machine(ray_here: Session) -> None:
    assert ray_here.started
    assert ray_here.address.startswith("127.")
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def test_a_token_that_ray_keeps_at_home_is_not_taken_along_to_a_ray_that_may_ask_for_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its workers die where the driver has a token and they have none."""
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("f" * 64)
    for given, mode in (({}, "disabled"), ({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "t")}, "token")):
        environment = {"HOME": str(tmp_path), **given}
        monkeypatch.setattr(os, "environ", environment)
        ray_session._set_environment("10.0.0.1:6379")
        assert environment["RAY_AUTH_MODE"] == mode


def test_what_raylets_say_stays_off_stdout_where_json_may_go(
    ray_here: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    from ray._private.worker import print_to_stdstream

    said = {"lines": ["(raylet) an actor died"], "pid": "raylet", "is_err": False}
    print_to_stdstream(said, ignore_prefix=False)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("address", ["local", "auto", "the same"])
def test_the_connection_that_is_there_is_used_again_and_left_alone(
    address: str, ray_here: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", ray_here.address)  # what `auto` means, however many Rays run on this machine
    before = signal.getsignal(signal.SIGTERM)
    with session(address if address != "the same" else ray_here.address) as inner:
        assert (inner.address, inner.logs, inner.started) == (ray_here.address, ray_here.logs, False)
    assert [node.id for node in alive_nodes()] == [this_node()]
    assert signal.getsignal(signal.SIGTERM) == before


def test_another_ray_cannot_be_joined_beside_it(ray_here: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.ray_session.check_address", lambda address: address)
    with pytest.raises(ClusterError, match=f"connected to another Ray already, at {ray_here.address}"), session("h:1"):
        pass


def test_another_process_joins_and_its_leaving_ends_nothing(ray_here: Session) -> None:
    assert joined(ray_here.address) == "False 1"
    assert [node.id for node in alive_nodes()] == [this_node()]


def test_another_version_of_ray_is_refused_with_both_versions(ray_here: Session) -> None:
    import ray

    said = joined(ray_here.address, before="import ray\nray.__version__ = '1.2.3'")
    assert ray.__version__ in said
    assert "1.2.3" in said
    assert said.count(platform.python_version()) == 2
    assert said.startswith(ray_here.address)
    assert len(said.splitlines()) == 1


def test_a_wrong_token_is_refused_with_the_variables_to_set(ray_here: Session) -> None:
    said = joined(ray_here.address, RAY_AUTH_TOKEN="0" * 64)
    assert "asks for a token" in said
    assert "RAY_AUTH_TOKEN_PATH" in said
    assert len(said.splitlines()) == 1


def test_the_last_lines_of_a_worker_are_found_by_its_pid(tmp_path: Path) -> None:
    (tmp_path / "worker-abc-01000000-42.err").write_text(
        ":job_id:01000000\n" + "".join(f"line {n}\n" for n in range(20))
    )
    (tmp_path / "worker-abc-01000000-420.err").write_text("somebody else\n")
    assert log_tail(tmp_path, 42, lines=2) == "line 18\nline 19"
    assert log_tail(tmp_path, 7) == ""
