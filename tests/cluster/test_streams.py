"""A reader who goes, or a disk that is full, ends no work: a pipe without a reader, /dev/full, no descriptor at all."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import pytest

from cluster import streams
from cluster.output import print_log
from cluster.search_command import campaign_progress
from search.lasting import _unknown
from search.ports import Phase

PHASES: tuple[Phase, ...] = ("search", "selection", "holdout")
RUN = "from cluster.entry import run; run()"


def broken() -> TextIO:
    """A pipe whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w", buffering=1)


def test_progress_warnings_and_results_that_nobody_reads_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BrokenPipeError):
        print("a result", file=broken(), flush=True)
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, broken())
    streams.guard()
    status = replace(_unknown("c"), outage="the judge is away.")
    print_log(verbose=0, quiet=False)
    with campaign_progress(quiet=False) as show:
        for phase in PHASES:
            show(replace(status, phase=phase))
            logging.getLogger("search").warning("a word")
            print("a result", flush=True)


def test_a_full_disk_is_no_matter_for_progress_and_an_error_for_results(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, os.fdopen(os.open("/dev/full", os.O_WRONLY), "w", buffering=1))
    streams.guard()
    print("progress", file=sys.stderr)
    with pytest.raises(OSError, match="No space left"):
        print("a result")


@pytest.mark.parametrize("closed", ["", " 2>&- >&-"])
def test_the_command_ends_well_though_nobody_reads(closed: str, tmp_path: Path) -> None:
    out = broken()
    command = f'exec "$0" -c "{RUN}" clean {tmp_path / "nothing"}{closed}'
    done = subprocess.run(["sh", "-c", command, sys.executable], stdout=out, stderr=out, check=False, timeout=60)
    assert done.returncode == 0
