"""The store: whole transactions, of the newest coordinator only, whatever happened to the one before it."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, event

from engine.errors import Busy, CampaignError, InputsChanged, MergefleetError, StaleEpoch, StoreAway
from search.store import schema
from search.store.blocks import BlockScores
from search.store.changes import changes, refuse_changes
from search.store.failures import failure
from search.store.store import CampaignFacts, Store, store_url

FACTS = CampaignFacts(name="c", config={"seed": 1}, eval_key="e", items_digest="i", layers=3)


LOCK_WAIT_S = 0.5


def opened(url: str, **options: Any) -> Store:
    store = Store(url, **options)
    store.take_over(FACTS, now=1.0)
    return store


def of_item(item: str, score: float = 1.0) -> BlockScores:
    return BlockScores.of("r", {item: (item, score)}, lease="1.1")


def add_score(store: Store, item: str, score: float = 1.0) -> None:
    with store.transaction() as transaction:
        transaction.add_scores([of_item(item, score)])


def scored(store: Store) -> dict[str, float]:
    return {row["item"]: row["score"] for row in store.rows(schema.ITEM_SCORES)}


def shared(store: Store, *recipes: str) -> dict[str, float]:
    return dict(chain.from_iterable(entry.found.values() for entry in store.shared_scores(recipes)))


def test_every_start_takes_the_next_epoch_and_records_its_process(url: str) -> None:
    assert [opened(url).epoch for _ in range(3)] == [1, 2, 3]
    rows = opened(url).rows(schema.EPOCHS)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert {row["pid"] for row in rows} == {os.getpid()}


def test_a_predecessor_cannot_write_any_more(url: str) -> None:
    old = opened(url)
    add_score(old, "a")
    new = opened(url)
    with pytest.raises(StaleEpoch) as caught:
        add_score(old, "b")
    assert (caught.value.facts["epoch"], caught.value.facts["newest"]) == (1, 2)
    add_score(new, "c")
    assert set(scored(new)) == {"a", "c"}


def test_a_transaction_is_all_or_nothing(url: str) -> None:
    store = opened(url)

    def torn() -> None:
        with store.transaction() as transaction:
            transaction.add_scores([of_item("a")])
            raise RuntimeError("torn")

    with pytest.raises(RuntimeError, match="torn"):
        torn()
    assert scored(store) == {}


def test_the_first_write_of_a_score_wins(url: str) -> None:
    store = opened(url)
    add_score(store, "a", 1.0)
    add_score(store, "a", 0.0)
    assert scored(store) == {"a": 1.0}


def test_campaigns_of_one_database_keep_apart(url: str) -> None:
    first = opened(url)
    second = Store(url)
    second.take_over(CampaignFacts("other", {}, "e", "i", 3), now=2.0)
    for store, label in ((first, "one"), (second, "two")):
        row = {"number": 0, "stage": 0, "origin": "sampler", "label": label, "params": {}, "recipe": {}}
        with store.transaction() as transaction:
            transaction.add(schema.CANDIDATES, [{**row, "recipe_hash": "h"}])
            transaction.change(schema.CAMPAIGNS, {"seconds": 5.0})
    assert [row["label"] for row in first.rows(schema.CANDIDATES)] == ["one"]
    with first.transaction() as transaction:
        transaction.change(schema.CANDIDATES, {"label": "changed"}, number=0)
    assert [row["label"] for row in second.rows(schema.CANDIDATES)] == ["two"]


def test_find_reads_without_making_tables_or_taking_over(url: str) -> None:
    store = Store(url)
    assert store.find("c") is None
    assert opened(url).epoch == 1
    found = store.find("c")
    assert found is not None
    assert (found["epoch"], found["config"]) == (1, {"seed": 1})
    assert store.find("nobody") is None


# ------------------------------------------------------------------------------------- predecessors in other processes

PREDECESSOR = """
import os, signal, sys, time
sys.path.insert(0, {root!r})
from search.store import schema
from search.store.blocks import BlockScores
from search.store.store import CampaignFacts, Store

def of_item(name):
    return BlockScores.of("r", {{name: (name, 1.0)}}, lease="1.1")

store = Store({url!r}, lock_wait_s={lock_wait_s})
store.take_over(CampaignFacts("c", {{"seed": 1}}, "e", "i", 3), now=1.0)
with store.transaction() as transaction:
    transaction.add_scores([of_item("committed")])
{act}
"""
INSIDE = """
with store.transaction() as transaction:
    transaction.add_scores([of_item("uncommitted")])
    print("ready", flush=True)
    os.kill(os.getpid(), signal.SIG%s)
"""
OUTSIDE = """
print("ready", flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
try:
    with store.transaction() as transaction:
        transaction.add_scores([of_item("stale")])
except Exception as failure:
    print(type(failure).__name__, flush=True)
"""
MOVED = """
with store.transaction() as transaction:
    transaction.change(schema.EPOCHS, {"host": "elsewhere 1234"}, epoch=1)
"""

Start = Callable[[str], subprocess.Popen[str]]


@pytest.fixture
def predecessor(request: pytest.FixtureRequest) -> Iterator[Start]:
    """Starts a process that takes over the store and then does `act`; returns once it is there."""
    name = next(name for name in ("url", "sqlite_url") if name in request.fixturenames)
    url = request.getfixturevalue(name)
    started: list[subprocess.Popen[str]] = []

    def start(act: str) -> subprocess.Popen[str]:
        root = str(Path(__file__).resolve().parents[3])
        code = PREDECESSOR.format(root=root, url=url, act=act, lock_wait_s=LOCK_WAIT_S)
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready"
        time.sleep(0.1)  # from the line to the signal
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_a_kill_inside_a_transaction_leaves_what_was_committed(url: str, predecessor: Start) -> None:
    process = predecessor(INSIDE % "KILL")
    assert process.wait() == -signal.SIGKILL
    store = opened(url)
    assert store.epoch == 2
    assert set(scored(store)) == {"committed"}
    add_score(store, "mine")


def test_a_predecessor_stopped_outside_a_transaction_is_refused_when_it_wakes_up(url: str, predecessor: Start) -> None:
    process = predecessor(OUTSIDE)
    store = opened(url)
    add_score(store, "mine")
    os.kill(process.pid, signal.SIGCONT)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "StaleEpoch"
    assert set(scored(store)) == {"committed", "mine"}


def test_a_predecessor_stopped_inside_a_transaction_cannot_hang_us(url: str, predecessor: Start) -> None:
    """SQLite's lock outlives a stopped process, so it is ended; PostgreSQL ends its session and lets it live."""
    process = predecessor(INSIDE % "STOP")
    before = time.monotonic()
    store = opened(url, lock_wait_s=LOCK_WAIT_S)
    assert time.monotonic() - before < 10.0
    if url.startswith("sqlite"):
        assert process.wait() == -signal.SIGKILL
    assert store.epoch == 2
    assert set(scored(store)) == {"committed"}
    add_score(store, "mine")
    if not url.startswith("sqlite"):
        os.kill(process.pid, signal.SIGCONT)
        assert process.wait(20) != 0
    assert set(scored(store)) == {"committed", "mine"}


def test_a_lock_holder_on_another_host_is_named_and_left_alone(sqlite_url: str, predecessor: Start) -> None:
    process = predecessor(MOVED + INSIDE % "STOP")
    with pytest.raises(Busy, match=f"process {process.pid} on elsewhere"):
        opened(sqlite_url, lock_wait_s=0.3)
    assert process.poll() is None


def test_a_lock_held_by_somebody_else_is_not_blamed_on_a_coordinator_that_ended(
    sqlite_url: str, predecessor: Start
) -> None:
    assert predecessor(INSIDE % "KILL").wait() == -signal.SIGKILL
    with sqlite3.connect(sqlite_url.removeprefix("sqlite:///")) as browser:
        browser.execute("BEGIN IMMEDIATE")
        with pytest.raises(Busy, match="a program that is no coordinator of ours"):
            opened(sqlite_url, lock_wait_s=0.2)


def test_a_lock_that_another_program_holds_on_and_on_is_an_outage_of_the_database(url: str) -> None:
    store = opened(url, lock_wait_s=0.2)
    browser = create_engine(url, isolation_level="AUTOCOMMIT")
    with browser.connect() as connection:
        if url.startswith("sqlite"):
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.exec_driver_sql("BEGIN")
            connection.exec_driver_sql("LOCK TABLE campaigns")
        held = (
            "another program holds its lock .* let it end" if "sqlite" in url else "other processes have been writing"
        )
        with pytest.raises(StoreAway, match=held), store.transaction():
            pass
        with pytest.raises(StoreAway, match=held):
            store.take_over(FACTS, now=2.0, again=True)
        connection.exec_driver_sql("ROLLBACK")
    browser.dispose()
    add_score(store, "after", 1.0)
    assert set(scored(store)) == {"after"}


def test_a_coordinator_that_runs_is_not_ended_because_somebody_else_holds_the_lock(
    sqlite_url: str, predecessor: Start
) -> None:
    """A store may be shared: the last epoch is another campaign's, and a database shell has the file."""
    process = predecessor("print('ready', flush=True); time.sleep(60)")
    with sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None) as shell:
        shell.execute("BEGIN IMMEDIATE")
        with pytest.raises(Busy, match=f"held by process {process.pid} on .*, or by a program that is none"):
            Store(sqlite_url, lock_wait_s=0.2).take_over(CampaignFacts("other", {}, "e", "i", 3), now=2.0)
    assert process.poll() is None


def test_recipes_scored_by_one_campaign_are_known_to_another(url: str) -> None:
    first = opened(url)
    add_score(first, "a", 1.0)
    second = Store(url)
    second.take_over(CampaignFacts("other", {}, "e", "i", 3), now=2.0)
    assert shared(second, "r", "nobody's") == {"a": 1.0}
    assert scored(second) == {}  # it has paid for none of them
    add_score(second, "a", 0.0)
    add_score(second, "b", 0.5)
    assert shared(first, "r") == {"a": 1.0, "b": 0.5}


def test_an_item_that_gets_another_key_takes_its_scores_along(url: str) -> None:
    store = opened(url)
    item = {"item": "a", "split": "search", "task": "t", "score_key": "a"}
    with store.transaction() as transaction:
        transaction.add(schema.ITEMS, [item])
    add_score(store, "a")
    with store.transaction() as transaction:
        transaction.rekey({"a": ("a", "new")})
    assert [row["score_key"] for row in (*store.rows(schema.ITEMS), *store.rows(schema.ITEM_SCORES))] == ["new", "new"]


def test_items_that_were_equal_and_are_no_more_both_take_their_scores_along(url: str) -> None:
    """With few-shot examples, equal documents at two places of a task had one key in earlier versions."""
    store = opened(url)
    items = [{"item": item, "split": "search", "task": "t", "score_key": "a"} for item in ("a", "twin")]
    with store.transaction() as transaction:
        transaction.add(schema.ITEMS, items)
    add_score(store, "a", 0.5)
    with store.transaction() as transaction:
        transaction.rekey({"a": ("a", "new"), "twin": ("a", "other")})
    (entry,) = store.shared_scores(["r"])
    assert {key: value for key, (_, value) in entry.found.items()} == {"new": 0.5, "other": 0.5}


def test_the_password_of_a_url_is_in_no_message(sqlite_url: str) -> None:
    assert Store("postgresql+psycopg://me:secret@nowhere/db").place == "postgresql://me:***@nowhere/db"
    assert Store("postgresql+psycopg://me@h/db?password=secret").place == "postgresql://me@h/db"
    with pytest.raises(CampaignError) as caught:
        store_url("mysql://me:secret@h/db", default=Path())
    assert "secret" not in str(caught.value)


# --------------------------------------------------------------------------------------------------- what may change


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        (CampaignFacts("c", {"seed": 2}, "e", "i", 3), "seed: 1 then, 2 now"),
        (CampaignFacts("c", {"seed": 1, "new": 0}, "e", "i", 3), "new: nothing then, 0 now"),
        (CampaignFacts("c", {"seed": 1, "b": {0: [1, {"x": 2}]}}, "e", "i", 3), "b: nothing then, 1 entries now"),
        (CampaignFacts("c", {"seed": 1}, "E", "i", 3), "evaluation key"),
        (CampaignFacts("c", {"seed": 1}, "e", "I", 3), "items"),
        (CampaignFacts("c", {"seed": 1}, "e", "i", 4), "layers: 3 then, 4 now"),
    ],
)
def test_a_run_with_other_inputs_is_refused_and_told_which(url: str, facts: CampaignFacts, says: str) -> None:
    opened(url)
    found = Store(url).find("c")
    assert found is not None
    with pytest.raises(InputsChanged, match=says):
        refuse_changes(found, facts, free=frozenset())
    refuse_changes(found, FACTS, free=frozenset())


def test_only_the_innermost_keys_that_differ_are_named() -> None:
    def row(**config: Any) -> dict[str, Any]:
        return {"config": config, "eval_key": "e", "items_digest": "i", "layers": 3}

    then = row(sources=[{"model": "a", "importance": None}, {"model": "b"}], tasks=[1], window={"0": 15})
    now = {"sources": [{"model": "a", "importance": None}, {"model": "c"}], "tasks": [1, 2], "window": {"0": 30}}
    assert changes(then, CampaignFacts("c", now, "e", "i", 3), free=frozenset()) == [
        "sources[1].model: 'b' then, 'c' now",
        "tasks: 1 entries then, 2 entries now",
        "window.0: 15 then, 30 now",
    ]
    many = CampaignFacts("c", {f"key{number}": number for number in range(9)}, "e", "i", 3)
    with pytest.raises(InputsChanged, match=r"key4: nothing then, 4 now; and 4 more\. Restore"):
        refuse_changes(row(), many, free=frozenset())


def test_a_campaign_of_which_something_was_scored_does_not_begin_afresh(url: str) -> None:
    first = opened(url)
    with first.transaction() as transaction:
        transaction.add_scores([of_item("x")])
    assert first.scored()
    second = Store(url)
    with pytest.raises(Busy, match="another process has begun to score campaign 'c'"):
        second.take_over(FACTS, now=2.0, afresh=True)
    assert first.rows(schema.CAMPAIGNS)[0]["epoch"] == 1


def test_a_campaign_that_begins_afresh_has_the_new_facts_and_refuses_whoever_ran_it(url: str) -> None:
    first = opened(url)
    assert not first.scored()
    second = Store(url)
    assert second.take_over(CampaignFacts("c", {"seed": 2}, "E", "I", 4), now=2.0, afresh=True) == 2
    [row] = second.rows(schema.CAMPAIGNS)
    assert (row["config"], row["eval_key"], row["layers"], row["created"]) == ({"seed": 2}, "E", 4, 2.0)
    with pytest.raises(StaleEpoch), first.transaction():
        pass


def test_free_keys_may_change(url: str) -> None:
    opened(url)
    found = Store(url).find("c")
    assert found is not None
    refuse_changes(found, CampaignFacts("c", {"seed": 2}, "e", "i", 3), free=frozenset({"seed"}))


def _folder(place: Path) -> None:
    place.mkdir()


def _garbage(place: Path) -> None:
    place.write_text("no database at all, but longer than SQLite's own header" * 9)


def _damaged(place: Path) -> None:
    opened(f"sqlite:///{place}").close()
    data = bytearray(place.read_bytes())
    data[100:4096] = bytes(3996)
    place.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_folder, r"x\.sqlite: cannot be opened: it is a folder\. Name a file in a folder that is there \(`store`"),
        (_garbage, r"x\.sqlite: is no SQLite file\. Name another file \(`store`"),
        (_damaged, r"x\.sqlite: is damaged \(.*malformed.*\)\. Put a copy back"),
    ],
)
def test_a_file_that_cannot_be_a_store_is_named_with_what_to_do(
    tmp_path: Path, spoil: Callable[[Path], None], says: str
) -> None:
    spoil(tmp_path / "x.sqlite")
    store = Store(f"sqlite:///{tmp_path}/x.sqlite")
    with pytest.raises(CampaignError, match=f"^{re.escape(str(tmp_path))}/{says}") as caught:
        store.find("c")
    assert "\n" not in caught.value.message
    store.close()


def test_a_folder_that_is_not_there_and_a_full_disk_are_told(tmp_path: Path) -> None:
    with pytest.raises(CampaignError, match=r"/none/x\.sqlite: cannot be opened: .*/none is no folder"):
        Store(f"sqlite:///{tmp_path}/none/x.sqlite").rows(schema.CAMPAIGNS)
    store = opened(f"sqlite:///{tmp_path}/x.sqlite")
    store._engine.dispose()

    def limit(connection: Any, _: Any) -> None:  # SQLite's own way to have no room left
        connection.execute("PRAGMA max_page_count=1")

    event.listen(store._engine, "connect", limit)
    rows = [{"item": f"i{n}" * 50, "split": "search", "task": "t", "score_key": "k" * 60} for n in range(2000)]
    with (
        pytest.raises(MergefleetError, match=r"x\.sqlite: the disk is full\. What was committed is kept: .* --resume"),
        store.transaction() as transaction,
    ):
        transaction.add(schema.ITEMS, rows)


@pytest.mark.parametrize(
    ("said", "connected", "expected"),
    [
        ("attempt to write a readonly database", True, "/r/x.sqlite: cannot be written to."),
        (
            "disk I/O error",
            True,
            "/r/x.sqlite: the disk failed, or is full (disk I/O error). What was committed is kept: ",
        ),
        ("UNIQUE constraint failed", True, None),
    ],
)
def test_what_sqlite_says_is_explained_where_people_can_do_something(
    said: str, connected: bool, expected: str | None
) -> None:
    found = failure("/r/x.sqlite", said, connected=connected)
    assert (found is None) == (expected is None)
    assert found is None or found.message.startswith(str(expected))


@pytest.mark.parametrize(
    ("said", "connected", "expected"),
    [
        (
            "connection refused",
            False,
            "the database cannot be reached: connection refused. What was committed is kept.",
        ),
        ("could not extend file: No space left on device", True, "the server's disk is full (could not extend file"),
        ("cannot execute INSERT in a read-only transaction", True, "the server takes no writes"),
        ("permission denied for table epochs", True, "permission denied for table epochs. Give the user"),
        ("duplicate key value violates unique constraint", True, None),
    ],
)
def test_what_a_server_says_is_explained_where_people_can_do_something(
    said: str, connected: bool, expected: str | None
) -> None:
    found = failure("postgresql://me:***@h/db", said, connected=connected)
    assert (found is None) == (expected is None)
    assert isinstance(found, StoreAway) == (not connected)
    assert found is None or found.message.startswith(f"postgresql://me:***@h/db: {expected}")


def test_a_connection_that_broke_while_nobody_used_it_is_made_anew(postgres_server: str, postgres_url: str) -> None:
    import psycopg

    store, name = opened(store_url(postgres_url, default=Path())), postgres_url.split("?")[0].rpartition("/")[2]
    with psycopg.connect(postgres_server.format(name="postgres"), autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
    add_score(store, "a")
    assert set(scored(store)) == {"a"}


def test_a_store_is_a_path_or_a_url(tmp_path: Path) -> None:
    assert store_url(None, default=tmp_path / "x.sqlite") == f"sqlite:///{tmp_path}/x.sqlite"
    assert store_url("a/b.sqlite", default=tmp_path) == "sqlite:///a/b.sqlite"
    for scheme in ("postgresql", "postgresql+psycopg", "postgresql+psycopg2", "postgresql+asyncpg"):
        assert store_url(f"{scheme}://h/db", default=tmp_path) == "postgresql+psycopg://h/db"
    assert store_url("sqlite+pysqlite:////a/b.sqlite", default=tmp_path) == "sqlite:////a/b.sqlite"
    with pytest.raises(CampaignError, match="a path or a URL of sqlite or postgresql"):
        store_url("mysql://h/db", default=tmp_path)
