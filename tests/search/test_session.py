"""Two processes must not run one campaign: a live one is waited for and then named; a stopped or dead one is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from simulated import make_campaign

from engine.errors import Busy
from search import session
from search.run import RunDirectory, steady_clock
from search.store import takeover
from search.store.store import CampaignFacts, Store, store_url

FACTS = CampaignFacts(name="simulated", config={}, eval_key="k", items_digest="d", layers=2)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.fixture
def directory(sleeper: subprocess.Popen[bytes], tmp_path: Path) -> RunDirectory:
    """A run whose last epoch belongs to the sleeper."""
    started = Path(f"/proc/{sleeper.pid}/stat").read_text().rpartition(")")[2].split()[19]
    owner = takeover.ProcessIdentity(sleeper.pid, started, takeover.this_host())
    found = RunDirectory(tmp_path)
    with pytest.MonkeyPatch.context() as patch, closing(Store(store_url(None, default=found.database))) as store:
        patch.setattr(takeover, "this_process", lambda: owner)
        store.take_over(FACTS, now=1.0)
    return found


def test_a_running_process_is_named(
    sleeper: subprocess.Popen[bytes], directory: RunDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Busy, match=f"process {sleeper.pid} of this machine .* run the command"):
        session.wait_for_predecessor(make_campaign(), directory, resume=True, wait_s=0.3)
    (told,) = caplog.messages  # once, and before the wait
    assert told.endswith(
        f"process {sleeper.pid} of this machine is running campaign 'simulated'; waiting up to 0.3 s for it to end"
    )


def test_a_second_start_without_resume_waits_for_nobody(
    sleeper: subprocess.Popen[bytes],
    directory: RunDirectory,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("it waits"))
    with pytest.raises(Busy, match=f"process {sleeper.pid} of this machine is running .* go on with --resume"):
        session.wait_for_predecessor(make_campaign(), directory, resume=False)
    assert caplog.messages == []


def test_a_process_that_dies_meanwhile_is_waited_for(sleeper: subprocess.Popen[bytes], directory: RunDirectory) -> None:
    os.kill(sleeper.pid, signal.SIGKILL)
    session.wait_for_predecessor(make_campaign(), directory, resume=True, wait_s=5)
    assert not takeover.is_running(takeover.ProcessIdentity(sleeper.pid, "0", takeover.this_host()))


def test_a_stopped_process_is_no_obstacle(sleeper: subprocess.Popen[bytes], directory: RunDirectory) -> None:
    os.kill(sleeper.pid, signal.SIGSTOP)
    os.waitpid(sleeper.pid, os.WUNTRACED)
    session.wait_for_predecessor(make_campaign(), directory, resume=True, wait_s=0.3)
    assert sleeper.poll() is None


def test_a_run_that_was_never_started_waits_for_nobody(tmp_path: Path) -> None:
    session.wait_for_predecessor(make_campaign(), RunDirectory(tmp_path / "new"), resume=True, wait_s=0)
    assert not (tmp_path / "new").exists()


def test_a_campaign_does_not_notice_that_the_machines_clock_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"time": 5000.0, "monotonic": 10.0}
    for name in seconds:
        monkeypatch.setattr(f"search.run.time.{name}", lambda name=name: seconds[name])
    clock = steady_clock()
    assert clock() == 5000.0
    for later, wall in ((11.0, 9000.0), (12.5, 100.0)):
        seconds |= {"time": wall, "monotonic": later}
        assert clock() == 5000.0 + later - 10.0
