"""A run's directory is enough to find the run: it remembers campaign and store, and no password."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from simulated import SimulatedEvaluator, make_campaign, open_simulated

from engine.errors import CampaignError, StoreAway
from search.campaign_file import load_campaign
from search.inline import work_once
from search.run import RunDirectory
from search.session import find_run
from search.whereabouts import at_home, recall, remember


def run_a_little(folder: Path, **changes: object) -> None:
    coordinator = open_simulated(folder, make_campaign(**changes))
    work_once(coordinator, SimulatedEvaluator(), worker="w")
    coordinator.pause()
    coordinator.close()


def test_a_run_with_a_store_of_its_own_may_be_moved(tmp_path: Path) -> None:
    run_a_little(tmp_path / "run")
    (tmp_path / "run").rename(tmp_path / "moved")
    results, directory = find_run(tmp_path / "moved")
    assert results.campaign.name == "simulated"
    assert directory.root == tmp_path / "moved"
    (directory.root / "run.json").unlink()  # as versions before left it
    assert find_run(directory.root)[0].items_spent == results.items_spent


def test_a_store_elsewhere_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_a_little(tmp_path / "a", store="shared.sqlite")
    run_a_little(tmp_path / "b", store="sqlite:///shared.sqlite", name="other")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert [find_run(tmp_path / name)[0].campaign.name for name in "ab"] == ["simulated", "other"]


def test_a_run_in_a_database_is_found_by_its_directory(tmp_path: Path, postgres_url: str) -> None:
    run_a_little(tmp_path, store=postgres_url)
    assert not (tmp_path / "campaign.sqlite").exists()
    results, _ = find_run(tmp_path)
    assert len(results.item_scores) == results.items_spent["search"] == 15


def test_a_password_is_not_written_down_and_the_rest_of_the_url_is(tmp_path: Path) -> None:
    url = "postgresql://me:s3cret@127.0.0.1:1/runs?connect_timeout=3&sslmode=disable"
    directory = RunDirectory(tmp_path)
    remember(make_campaign(store=f"{url}&password=s3cret&sslpassword=s3cret"), directory)
    assert "s3cret" not in directory.note.read_text()
    found, name = recall(directory)
    assert found.replace("+psycopg", "") == url.replace(":s3cret", "")
    assert name == "simulated"
    with pytest.raises(
        StoreAway, match=r"cannot be reached.*run\.json.*PGPASSWORD or ~/\.pgpass, or name the camp"
    ) as e:
        find_run(tmp_path)
    assert "s3cret" not in str(e.value)


def test_a_directory_of_no_run_and_a_damaged_note_say_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(CampaignError, match="is a directory, the campaign's YAML file expected"):
        load_campaign(tmp_path)
    with pytest.raises(CampaignError, match=r"is no run: there is no run\.json and no campaign\.sqlite in it\. Name"):
        find_run(tmp_path)
    for text in (
        "{",
        "[]",
        json.dumps({"campaign": 3, "store": None}),
        json.dumps({"campaign": "a", "store": 1}),
        '{"campaign": "a", "store": null, "homes": [1]}',
        '{"campaign": "a", "store": null, "models": {"base": "x"}}',
    ):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(CampaignError, match=r"run\.json: got something else .* name the campaign's file"):
            find_run(tmp_path)
        assert (
            at_home(make_campaign(), RunDirectory(tmp_path)) == make_campaign()
        )  # with a file there is nothing to ask
    (tmp_path / "run.json").write_text(json.dumps({"campaign": "gone", "store": None}))
    with pytest.raises(CampaignError, match="holds no run of campaign 'gone'"):
        find_run(tmp_path)
