"""Stores of other versions: refused with the command that helps, brought here, and then resumed as if nothing was."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import simulated
from simulated import SimulatedEvaluator, make_campaign, make_inventory, open_simulated
from sqlalchemy import create_engine

from engine.errors import CampaignError
from search.inline import run_inline
from search.session import migrate_store
from search.store import migration, schema
from search.store.store import CampaignFacts, Store

VERSION_0 = Path(__file__).parent / "version_0.sql"
"""A campaign paused after 13 work units, as the code of October 2026 left it (tables without a version)."""
COUNTS: dict[Any, int] = {"search": 8, "selection": 3, "holdout": 4}
CAMPAIGN = {
    "budget": {"items": 84},
    "items": {"window": {0: 3}},
    "tasks": [  # the metric was exact_match unless a file said otherwise; today the task's own first one is
        {
            "name": skill,
            "search": f"{skill}_s",
            "selection": f"{skill}_v",
            "holdout": f"{skill}_h",
            "metric": "exact_match",
        }
        for skill in simulated.SKILLS
    ],
    "baselines": ["base", "parents", "uniform"],
    "selection": {"top": 1, "means": 1, "soup": 0},
    "space": {
        "parameters": {"weight": {"low": 0, "high": 1.2, "start": 0.5}},
        "stages": [{"name": "global", "by": "global", "population": 4, "sigma": 0.25, "sobol": 2}],
    },
}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "campaign.sqlite"
    connection = sqlite3.connect(path)
    connection.executescript(VERSION_0.read_text())
    connection.close()
    return path


@pytest.fixture(autouse=True)
def few_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulated, "make_inventory", lambda: make_inventory(COUNTS))


def test_a_store_of_an_older_version_is_refused_with_the_command_that_migrates_it(old: Path) -> None:
    store = Store(f"sqlite:///{old}")
    for act in (lambda: store.find("simulated"), lambda: store.take_over(CampaignFacts("c", {}, "e", "i", 3), now=1.0)):
        with pytest.raises(CampaignError, match=f"mergefleet migrate {old}"):
            act()
    with pytest.raises(CampaignError, match="schema version 0, this mergefleet uses 2"):
        open_simulated(old.parent, make_campaign(**CAMPAIGN), resume=True)


def test_a_store_of_a_newer_version_is_refused_and_not_touched(old: Path) -> None:
    migrate_store(str(old))
    with sqlite3.connect(old) as connection:
        connection.execute("UPDATE schema_version SET version = 99")
    for act in (lambda: migrate_store(str(old)), lambda: Store(f"sqlite:///{old}").find("simulated")):
        with pytest.raises(CampaignError, match=r"schema version 99, this mergefleet knows 2\. Use the newer"):
            act()


def test_a_migrated_campaign_goes_on_without_scoring_anything_twice(old: Path) -> None:
    """Not one item that had a score is scored again. What it proposes from here on is this version's sampler's."""
    with sqlite3.connect(old) as connection:
        before = connection.execute("SELECT recipe_hash, item, score FROM item_scores").fetchall()
    version, copy = migrate_store(str(old))
    assert version == 0
    assert copy is not None
    with sqlite3.connect(copy) as connection:
        assert connection.execute("SELECT recipe_hash, item, score FROM item_scores").fetchall() == before

        candidates = connection.execute("SELECT number, recipe_hash FROM candidates").fetchall()

    evaluator = SimulatedEvaluator()
    resumed = open_simulated(old.parent, make_campaign(**CAMPAIGN), resume=True)
    assert resumed.status().candidates == len(candidates)
    assert run_inline(resumed, evaluator) is not None
    store = resumed.run.store
    kept = [(row["number"], row["recipe_hash"]) for row in store.rows(schema.CANDIDATES)][: len(candidates)]
    assert kept == candidates
    scores = store.rows(schema.ITEM_SCORES)
    assert {(row["recipe_hash"], row["item"], row["score"]) for row in scores} >= set(before)
    assert len(evaluator.seen) == len(scores) - len(before)
    keys = resumed.run.pools.score_key_of
    assert {row["item"]: row["score_key"] for row in store.rows(schema.ITEMS)} == keys


def test_a_store_of_version_1_gets_the_table_of_visits_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "campaign.sqlite"
    open_simulated(tmp_path, make_campaign(**CAMPAIGN)).close()
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE visits")
        connection.execute("UPDATE schema_version SET version = 1")
    with pytest.raises(CampaignError, match=f"mergefleet migrate {path}"):
        open_simulated(tmp_path, make_campaign(**CAMPAIGN), resume=True)
    assert migrate_store(str(path)) == (1, tmp_path / "campaign.sqlite.version-1")
    assert open_simulated(tmp_path, make_campaign(**CAMPAIGN), resume=True).run.store.rows(schema.VISITS) == []


def test_migrating_twice_does_nothing_and_an_empty_file_is_no_store(old: Path, tmp_path: Path) -> None:
    migrate_store(str(old))
    assert migrate_store(str(old)) == (schema.VERSION, None)
    (tmp_path / "empty.sqlite").touch()
    with pytest.raises(CampaignError, match="holds no campaigns"):
        migrate_store(str(tmp_path / "empty.sqlite"))
    with pytest.raises(CampaignError, match="is not there"):
        migrate_store(str(tmp_path / "nowhere.sqlite"))


def test_the_tables_of_version_0_on_postgresql_are_migrated_too(postgres_url: str) -> None:
    url = postgres_url.replace("postgresql://", "postgresql+psycopg://")
    engine = create_engine(url)
    dump = re.sub(r'INSERT INTO "(\w+)"', r"INSERT INTO \1", VERSION_0.read_text()).replace("WITHOUT ROWID", "")
    with engine.begin() as connection:
        for statement in dump.split(";\n"):
            if statement.startswith(("CREATE", "INSERT")):
                connection.exec_driver_sql(statement.replace("id INTEGER NOT NULL", "id SERIAL").replace("%", "%%"))
        connection.exec_driver_sql("SELECT setval('campaigns_id_seq', 1)")
    engine.dispose()
    assert migrate_store(postgres_url) == (0, None)
    store = Store(url)
    assert store.find("simulated") is not None
    assert len(store.rows(schema.ITEM_SCORES)) == 39
    assert store.take_over(CampaignFacts("simulated", {}, "simulated-1", "i", 3), now=1.0) == 2
    assert store.take_over(CampaignFacts("another", {}, "e", "i", 3), now=1.0) == 1
    store.close()


def test_the_command_that_migrates_holds_no_masked_password() -> None:
    told = migration._other_version(0, "postgresql://me:***@host/db").message
    assert "`mergefleet migrate postgresql://me@host/db` (and the password in PGPASSWORD or ~/.pgpass)" in told
