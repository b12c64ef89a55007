"""A run on a file system that takes no writes, an archive or a snapshot: what only reads works there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from disks import Disk, small_disk
from simulated import SimulatedEvaluator, make_campaign, open_simulated

from cluster import search_command
from engine.errors import CampaignError
from search.inline import work_once
from search.run import RunDirectory, open_store
from search.session import find_run
from search.starting import refuse_read_only


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with small_disk(tmp_path, mib=8) as mounted:
        yield mounted


def test_a_run_on_a_read_only_disk_is_reported_and_not_continued(
    disk: Disk, capsys: pytest.CaptureFixture[str]
) -> None:
    coordinator = open_simulated(disk.place / "run")
    work_once(coordinator, SimulatedEvaluator(), worker="w")
    shutil.copytree(disk.place / "run", disk.place / "killed")  # with what its process had not moved into the file yet
    coordinator.close()
    assert (disk.place / "killed" / "campaign.sqlite-wal").stat().st_size > 0
    disk.put_away()
    for name in ("run", "killed"):
        directory = RunDirectory(disk.place / name)
        results, _ = find_run(directory.root)
        assert results.items_spent["search"] == 15
        search_command.report(directory.root, run_dir=None, html=None, as_json=False)
        said = capsys.readouterr()
        assert "15" in said.out
        assert (
            "report.html: cannot be written: Read-only file system. What was scored is kept. Copy the run" in said.err
        )
        with open_store(make_campaign(), directory) as store:
            store.find("simulated")
            with pytest.raises(
                CampaignError, match=r"campaign\.sqlite: cannot be .*: its file system is read-only.*Copy"
            ):
                store.wish("stop", now=1.0)
        with pytest.raises(
            CampaignError, match=r"its file system is read-only: `report`, and `publish --to` elsewhere"
        ):
            refuse_read_only(directory)


def test_a_store_that_nobody_may_write_is_read_without_a_file_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator = open_simulated(tmp_path / "a run? 50%")
    work_once(coordinator, SimulatedEvaluator(), worker="w")
    coordinator.close()
    before = sorted(path.name for path in (tmp_path / "a run? 50%").iterdir())
    monkeypatch.setattr("search.store.engines.os.access", lambda *_: False)
    with open_store(make_campaign(), RunDirectory(tmp_path / "a run? 50%")) as store:
        assert store.find("simulated") is not None
        assert store.scored()
        assert sorted(path.name for path in (tmp_path / "a run? 50%").iterdir()) == before
