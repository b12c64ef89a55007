"""The coordinator's side of trackers: a process for each, a bounded queue before it, and one warning at most.

`tell` takes microseconds, whatever the trackers do: a line goes into a queue, a thread writes it to the process. A
process that does not read any more (stopped, or hanging so long that `QUEUE` commits wait for it) is left behind; what
it has not been told it is told at the campaign's next start, from the rows. At the end it has `CLOSE_S` to finish.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from engine.errors import CampaignError
from search.campaign_file import Campaign
from search.trackers.contract import Ended, News, Tell, to_plain
from search.trackers.entries import PACKAGES, TrackerEntry

_LOG = logging.getLogger(__name__)
_ROOT = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-m", "search.trackers.process")
FOLDER = "trackers"
QUEUE = 1000
CLOSE_S = 30.0
LATER = "the campaign goes on; what is missing is told at its next start (--resume)"


def refuse_missing(campaign: Campaign) -> None:
    """CampaignError where the package of a tracker is not installed here, or MLflow would refuse its place."""
    for index, entry in enumerate(campaign.trackers):
        if find_spec(entry.kind) is None:
            raise CampaignError(
                f"{campaign.origin}: trackers[{index}]: {entry.kind} is not installed: "
                f"pip install 'mergefleet[{entry.kind}]' (the package {PACKAGES[entry.kind]})"
            )
        if entry.mlflow is not None:
            _refuse_files(entry.mlflow.uri, f"{campaign.origin}: trackers[{index}].mlflow.uri")


def _refuse_files(uri: str | None, key: str) -> None:
    """CampaignError for a store of plain files: MLflow 3.17 opens it only where MLFLOW_ALLOW_FILE_STORE says so."""
    where = key if uri else "MLFLOW_TRACKING_URI"
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    files = uri.startswith("file:") or (uri != "" and ":" not in uri and uri != "databricks")
    if files and os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() not in ("true", "1"):
        raise CampaignError(
            f"{where}: got {uri!r}, a folder: MLflow has given up its file store. Name a server (http://HOST:PORT) or "
            "a database (sqlite:///runs/mlflow.db; `mlflow migrate-filestore` brings old runs there)."
        )


def make_outlet(campaign: Campaign, root: Path) -> Tell | None:
    """What the coordinator of a run in `root` tells its news to; None where nobody wants them. Nothing is started
    before the first news."""
    if not campaign.trackers:
        return None
    lines: list[Line] = []

    def tell(news: Sequence[News]) -> None:
        over = any(isinstance(entry, Ended) for entry in news)
        if not lines and over:
            return  # nobody was told of a beginning
        if not lines:
            lines.extend(line_of(entry, root) for entry in campaign.trackers)
        for line in lines:
            line.tell(news)
        if over:
            for line in lines:
                line.close()
            lines.clear()

    return tell


def forget_told(root: Path) -> None:
    """Let trackers follow the next start of the run in `root` as a run of its own."""
    for state in (root / FOLDER).glob("*.json"):
        state.unlink()


def line_of(entry: TrackerEntry, root: Path) -> Line:
    """Start the process of a tracker of the run in `root`."""
    state = root.absolute() / FOLDER / f"{entry.kind}.json"
    return Line(entry.kind, {"settings": entry.settings, "state": str(state)})


class Line:
    """To one tracker's process."""

    def __init__(
        self,
        name: str,
        facts: dict[str, object],
        *,
        command: Sequence[str] = COMMAND,
        warn: Callable[[str], None] = _LOG.warning,
    ) -> None:
        self._name = name
        self._warn = warn
        self._warned = False
        self._left_behind = False
        self._queue: queue.Queue[str | None] = queue.Queue(QUEUE)
        self._queue.put(json.dumps({"tracker": name, **facts}))
        paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # libraries' chatter, which may hold what is secret
            text=True,
            start_new_session=True,  # ctrl-C pauses the campaign, and that is news
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._write, self._listen)]
        for thread in self._threads:
            thread.start()

    def tell(self, news: Sequence[News]) -> None:
        """Put it into the queue, or leave the tracker behind where that is full. Never waits."""
        if self._left_behind:
            return  # a hole in what it knows could not be filled later
        try:
            self._queue.put_nowait(json.dumps([to_plain(entry) for entry in news]))
        except queue.Full:
            self._leave_behind("does not keep up")

    def close(self, *, within_s: float = CLOSE_S) -> None:
        """Wait for the process to tell the rest, for so long; then end it."""
        if not self._left_behind:
            until = time.monotonic() + within_s
            try:
                self._queue.put(None, timeout=within_s)
                self._process.wait(until - time.monotonic())
            except (queue.Full, subprocess.TimeoutExpired):
                self._leave_behind(f"did not finish within {within_s:g} s")
        if self._left_behind:
            self._process.kill()
        self._process.wait()
        for thread in self._threads:
            thread.join(1.0)

    def _write(self) -> None:
        assert self._process.stdin is not None
        try:
            while (line := self._queue.get()) is not None:
                self._process.stdin.write(line + "\n")
                self._process.stdin.flush()
            self._process.stdin.close()
        except OSError:  # it ended
            self._leave_behind("ended early")

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                self._say(str(json.loads(line)["trouble"]))
            except (ValueError, KeyError, TypeError):  # a library that prints
                continue

    def _leave_behind(self, why: str) -> None:
        self._left_behind = True
        self._say(why)

    def _say(self, trouble: str) -> None:
        if not self._warned:
            self._warned = True
            self._warn(f"tracker {self._name}: {trouble}; {LATER}")
