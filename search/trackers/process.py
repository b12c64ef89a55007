"""The process in which a tracker runs: `python -m search.trackers.process`, one per tracker of a campaign.

Standard input brings lines of JSON: first what to open, then news. A tracker may fail, and hang: here it holds up
nobody. What it has been told is noted in a state file after every batch, with its run's id, so that the next start of
the campaign continues the same run and repeats nothing. Trouble goes to standard output, once, for the coordinator.
The process ends by itself when its input does, `END_S` later at the latest: also where the coordinator was killed.
"""

from __future__ import annotations

import fcntl
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from search.masking import masked
from search.trackers.contract import Ended, News, Opener, Opening, Started, Told, Tracker, from_plain

GATHER_S = 2.0
"""News of so long go in one batch: fewer calls, and fewer moments of CPU taken from the evaluators."""
RETRY_S = (5.0, 20.0, 60.0)
END_S = 60.0


@dataclass(frozen=True)
class Task:
    """What to open. `state` is the file that says how far the tracker has come."""

    tracker: str
    settings: Mapping[str, Any]
    state: Path


def openers() -> Mapping[str, Opener]:
    """The table of trackers."""
    from search.trackers.mlflow_runs import open_mlflow
    from search.trackers.wandb_runs import open_wandb

    return {"mlflow": open_mlflow, "wandb": open_wandb}


def read_state(path: Path) -> tuple[str | None, int]:
    """(run, up to which news it knows); (None, 0) before the first."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        return (str(facts["run"]), int(facts["told"])) if facts["run"] is not None else (None, 0)
    except (OSError, ValueError, KeyError, TypeError):
        return None, 0


class Follower:
    """Hands a tracker what it does not know yet, batch by batch; what failed is tried again with the next batch."""

    def __init__(self, task: Task, opener: Opener, *, say: Callable[[str], None]) -> None:
        self._task, self._opener, self._say = task, opener, say
        self._run, self._known = read_state(task.state)
        self._heard = self._known  # a coordinator that was opened anew (lasting.py) says everything again
        self._started: Started | None = None
        self._tracker: Tracker | None = None
        self._waiting: list[Told | Ended] = []
        self._failures = 0
        self._trouble = ""
        self._try_again = 0.0

    def take(self, news: Sequence[News], *, now: float, last: bool = False) -> bool:
        """Tell what is new; False where that failed and will be tried again. `last`: there is no later."""
        for entry in news:
            if isinstance(entry, Started):
                self._started = entry
            elif isinstance(entry, Ended):
                self._waiting.append(entry)
            elif entry.at > self._heard:
                self._waiting.append(entry)
                self._heard = entry.at
        new = self._run is None or any(not isinstance(entry, Ended) for entry in self._waiting)
        if self._started is None or (self._tracker is None and not new):
            return True  # a campaign that was over already: its run is left alone
        if now < self._try_again and not last:
            return False
        try:
            self._tell(self._started)
        except Exception as failure:  # noqa: BLE001  a foreign library, in the outermost frame of a process of its own
            self._fail(failure, now=now)
            return False
        if self._failures:
            self._failures, self._trouble = 0, ""
            self._note()
        return True

    def _tell(self, started: Started) -> None:
        if self._tracker is None:
            place = self._task.state.parent
            self._run, self._tracker = self._opener(Opening(self._task.settings, self._run, place, started))
            self._note()
        if self._waiting:
            self._tracker(self._waiting)
            self._known = max([self._known, *(entry.at for entry in self._waiting if not isinstance(entry, Ended))])
            self._waiting = []
            self._note()

    def _fail(self, failure: Exception, *, now: float) -> None:
        said = " ".join(str(failure).split()).rstrip(".") or type(failure).__name__
        self._trouble = masked(said)[:300]
        if not self._failures:
            self._say(self._trouble)
        self._note()
        self._tracker = None  # opened anew, under the same id
        self._try_again = now + RETRY_S[min(self._failures, len(RETRY_S) - 1)]
        self._failures += 1

    def _note(self) -> None:
        partial = self._task.state.with_suffix(".partial")
        facts = {"run": self._run, "told": self._known, "trouble": self._trouble}
        partial.write_text(json.dumps(facts) + "\n", encoding="utf-8")
        partial.replace(self._task.state)


def main() -> int:
    """Follow the campaign whose news come in; returns the exit code."""
    os.nice(10)  # evaluators come first
    lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_read, args=(sys.stdin, lines), daemon=True).start()
    first = lines.get()
    if first is None:
        return 0
    told = json.loads(first)
    task = Task(told["tracker"], told["settings"], Path(told["state"]))
    with _alone(task.state):
        follower = Follower(task, openers()[task.tracker], say=_say)
        done = True
        for batch, last in ended_once(_batches(lines)):
            done = follower.take(batch, now=time.monotonic(), last=last)
    return 0 if done else 1


def _read(source: IO[str], lines: queue.Queue[str | None]) -> None:
    for line in source:
        lines.put(line)
    ending = threading.Timer(END_S, os._exit, (1,))  # whatever a library still waits for
    ending.daemon = True
    ending.start()
    lines.put(None)


def _batches(lines: queue.Queue[str | None]) -> Iterator[tuple[list[News], bool]]:
    """News as they come, those of `GATHER_S` together; True with the last batch."""
    last = False
    while not last:
        batch: list[News] = []
        until = time.monotonic() + GATHER_S
        while not last and (left := until - time.monotonic()) > 0:
            try:
                line = lines.get(timeout=left)
            except queue.Empty:
                break
            last = line is None
            batch += [from_plain(entry) for entry in json.loads(line)] if line is not None else []
        yield batch, last


def ended_once(batches: Iterable[tuple[list[News], bool]]) -> Iterator[tuple[list[News], bool]]:
    """The batches; where nobody said `Ended` before the last is over, the coordinator was killed."""
    ended = False
    for batch, last in batches:
        ended = ended or any(isinstance(entry, Ended) for entry in batch)
        yield [*batch, Ended("interrupted")] if last and not ended else batch, last


@contextmanager
def _alone(state: Path) -> Iterator[None]:
    """Wait for the process of a killed coordinator, which may still be telling its last news."""
    state.parent.mkdir(parents=True, exist_ok=True)
    with state.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _say(trouble: str) -> None:
    sys.__stdout__.write(json.dumps({"trouble": trouble}) + "\n")  # type: ignore[union-attr]
    sys.__stdout__.flush()  # type: ignore[union-attr]


if __name__ == "__main__":
    sys.exit(main())
