"""kill −9 of a worker, a raylet and a driver in the midst of one merge; `make faults` does it a hundred times."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUNS = ROOT / "tests" / "support" / "kill_runs.py"


@pytest.mark.ray
@pytest.mark.slow
def test_a_merge_goes_through_the_deaths_of_a_worker_a_raylet_and_its_driver() -> None:
    path = os.pathsep.join([str(ROOT), str(RUNS.parent)])
    ended = subprocess.run(  # a Ray of its own needs a process of its own
        [sys.executable, str(RUNS), "--short", "--seed", "9"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    # one each, and more where a merge was through before the last was due
    assert re.search(r"\| kills \| \d+ \(worker [1-9]\d*, raylet [1-9]\d*, driver [1-9]\d*\) \|", ended.stdout)
