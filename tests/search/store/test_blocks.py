"""Scores stored by block are what a mapping of single scores would hold, in which the first write stays."""

from __future__ import annotations

import random
import re
import sqlite3
import struct
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from simulated import SimulatedEvaluator, make_campaign, open_simulated
from sqlalchemy import event

from engine.errors import CampaignError, StoreAway
from search.inline import run_inline, work_once
from search.run import RunDirectory
from search.session import stored_results
from search.store import blocks, schema, takeover
from search.store.blocks import NOBODY, BlockScores
from search.store.store import CampaignFacts, Store, store_url
from search.store.takeover import ProcessIdentity

RECIPES, MEASURES, KEYS = ("r", "s"), ("score", "tokens"), tuple(f"key {n}" for n in range(12))
NAMES = ("one", "two")
NO_LIST, OTHER_BLOCK = "has no list of so many numbers", r"item_blocks: its row is not what was written as block \w+"
Scores = dict[tuple[str, str, str], tuple[str, float, int, str]]
"""(recipe, score key, measure) → (item, value, campaign, lease)."""


@pytest.fixture
def stores(url: str) -> Iterator[tuple[Store, Store]]:
    """Two campaigns of one store."""
    found = [Store(url) for _ in NAMES]
    for name, store in zip(NAMES, found, strict=True):
        store.take_over(CampaignFacts(name, {}, "e", "i", 3), now=1.0)
    yield found[0], found[1]
    for store in found:
        store.close()


def any_float(rng: random.Random) -> float:
    """Of any size, subnormal ones and both zeros among them."""
    if rng.random() < 0.3:
        return rng.choice((0.0, -0.0, 1.0, 5e-324, 0.1 + 0.2))
    return struct.unpack("d", struct.pack("Q", rng.getrandbits(64) & ~(1 << 62)))[0]


def any_block(rng: random.Random, *, name: str, lease: str) -> BlockScores:
    """Some keys, whole numbers and windows among them, by this campaign's names of the items."""
    keys = rng.sample(KEYS, rng.randint(1, 6)) if rng.random() < 0.7 else KEYS[3:8]
    found = {key: (f'{name} calls it "{key}", ü', any_float(rng)) for key in keys}
    return BlockScores.of(rng.choice(RECIPES), found, lease=lease, measure=rng.choice(MEASURES))


def single(entry: BlockScores, *, campaign: int) -> Scores:
    return {
        (entry.recipe_hash, key, entry.measure): (item, value, campaign, entry.lease)
        for key, (item, value) in entry.found.items()
    }


def stored(store: Store) -> Scores:
    found: Scores = {}
    for entry in store.shared_scores(RECIPES):
        rows = single(entry, campaign=entry.campaign)
        assert not found.keys() & rows.keys()
        found |= rows
    return found


def in_view(*stores: Store) -> Scores:
    rows = [row for store in stores for row in store.rows(schema.ITEM_SCORES)]
    return {
        (row["recipe_hash"], row["score_key"], row["measure"]): (
            row["item"],
            row["score"],
            row["campaign"],
            row["lease"],
        )
        for row in rows
    }


def exact(scores: Scores) -> Mapping[object, object]:
    """To be compared bit for bit: −0.0 is not 0.0."""
    return {key: (item, value.hex(), *rest) for key, (item, value, *rest) in scores.items()}


@pytest.mark.parametrize("seed", range(3))
def test_whatever_blocks_campaigns_write_the_first_score_of_a_key_stays(stores: tuple[Store, Store], seed: int) -> None:
    rng, expected = random.Random(seed), dict[tuple[str, str, str], tuple[str, float, int, str]]()
    for turn in range(20):
        store = rng.choice(stores)
        name = NAMES[stores.index(store)]
        blocks = [any_block(rng, name=name, lease=f"1.{turn}") for _ in range(rng.randint(1, 3))]
        torn = rng.random() < 0.2
        with suppress(InterruptedError), store.transaction() as transaction:
            transaction.add_scores(blocks)
            if torn:
                raise InterruptedError
        for entry in () if torn else blocks:
            expected = single(entry, campaign=store.campaign) | expected
    assert exact(stored(stores[0])) == exact(stored(stores[1])) == exact(expected)
    assert exact(in_view(*stores)) == exact(expected)


def test_scores_that_get_other_keys_move_unless_these_have_scores(stores: tuple[Store, Store]) -> None:
    rng = random.Random(4)
    store, other = stores
    moved = {KEYS[n]: KEYS[n + 4] if n % 2 else f"new {n}" for n in range(8)}  # to keys that are there, in part
    for turn in range(12):
        with rng.choice(stores).transaction() as transaction:
            blocks = [any_block(rng, name="it", lease=f"1.{turn}")]
            transaction.add_scores(blocks, campaign=NOBODY if turn % 4 == 0 else None)
    before = stored(store)
    with store.transaction() as transaction:
        items = [{"item": key, "split": "search", "task": "t", "score_key": key} for key in moved]
        transaction.add(schema.ITEMS, items)
        transaction.rekey({key: (key, new) for key, new in moved.items()})
    assert {row["item"]: row["score_key"] for row in store.rows(schema.ITEMS)} == moved
    mine = {place: row for place, row in before.items() if row[2] != other.campaign and place[1] in moved}
    stay = {place: row for place, row in before.items() if place not in mine}
    after = stored(store)
    assert mine
    assert {place: row for place, row in after.items() if place in stay} == stay
    came = {place: row for place, row in after.items() if place not in stay}
    sources: dict[tuple[str, str, str], list[object]] = {}
    for (recipe, key, measure), row in mine.items():
        if (place := (recipe, moved[key], measure)) not in stay:
            sources.setdefault(place, []).append(row)
    assert came.keys() == sources.keys()
    assert all(row in sources[place] for place, row in came.items())


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (
            "UPDATE block_scores SET scores = substr(scores, 1, 20)",
            r"block_scores: recipe \w+, measure score, ",
        ),
        ("UPDATE block_scores SET scores = '[1]'", NO_LIST),
        ("UPDATE block_scores SET scores = replace(scores, '1.0', 'NaN')", NO_LIST),
        (
            "UPDATE block_scores SET scores = replace(scores, '1.0', '\"1\"')",
            NO_LIST,
        ),
        ("UPDATE item_blocks SET items = score_keys", OTHER_BLOCK),
        ("UPDATE item_blocks SET score_keys = '['", OTHER_BLOCK),
        ("DELETE FROM item_blocks", r"item_blocks: block \w+ is not there any more"),
    ],
)
def test_a_row_of_scores_that_was_torn_or_altered_is_told_of_in_one_line(
    damage: str, says: str, tmp_path: Path
) -> None:
    coordinator = open_simulated(tmp_path)
    for _ in range(3):
        work_once(coordinator, SimulatedEvaluator(), worker="w")
    coordinator.close()
    with sqlite3.connect(tmp_path / "campaign.sqlite") as connection:
        connection.execute(damage)
    directory = RunDirectory(tmp_path)
    for read in (lambda: open_simulated(tmp_path, resume=True), lambda: stored_results(make_campaign(), directory)):
        with pytest.raises(CampaignError, match=says) as caught:
            read()
        told = caught.value.message
        assert told.startswith(f"{tmp_path / 'campaign.sqlite'}: ")
        assert re.search(r" \(candidate \d of campaign 'simulated'\)\. Put a copy of the database back, or ", told)
        assert "\n" not in told


def test_between_statements_of_a_large_transaction_only_a_portion_is_prepared(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server ends a session that says nothing inside a transaction for ten seconds: it may be stopped."""
    store = Store(sqlite_url)
    store.take_over(CampaignFacts("one", {}, "e", "i", 3), now=1.0)
    prepared, most, text = 0, 0, blocks._text

    def counted(values: Iterable[str] | Iterable[float]) -> str:
        nonlocal prepared, most
        prepared += 1
        most = max(most, prepared)
        return text(values)

    def spoken(*_: object) -> None:
        nonlocal prepared
        prepared = 0

    event.listen(store._engine, "before_cursor_execute", spoken)
    monkeypatch.setattr(blocks, "_text", counted)
    monkeypatch.setattr(blocks, "CHUNK", 10)
    scores = [BlockScores.of(f"r{n}", {f"key {n}": ("it", 1.0)}, lease="1.1") for n in range(100)]
    with store.transaction() as transaction:
        transaction.add_scores(scores, campaign=NOBODY)
        transaction.rekey({f"it {n}": (f"key {n}", f"new {n}") for n in range(100)})
    assert [entry.block.score_keys for entry in store.shared_scores(["r1", "r2"])] == [("new 1",), ("new 2",)]
    assert most == 20  # keys and items of ten blocks
    store.close()


def test_who_writes_scores_on_a_server_waits_for_who_does_already(postgres_url: str) -> None:
    """Both looked before either wrote: the later one leaves out what the first one commits meanwhile."""
    url, committed = store_url(postgres_url, default=Path()), threading.Event()
    first, second = Store(url), Store(url)
    for name, store in zip(NAMES, (first, second), strict=True):
        store.take_over(CampaignFacts(name, {}, "e", "i", 3), now=1.0)
    ours = BlockScores.of("r", {key: (key, 1.0) for key in KEYS[:4]}, lease="1.1")
    theirs = BlockScores.of("r", {key: (key, 0.0) for key in KEYS[2:6]}, lease="1.1")

    def write() -> None:
        with second.transaction() as transaction:
            transaction.add_scores([theirs])
            assert committed.is_set()

    thread = threading.Thread(target=write)
    with first.transaction() as transaction:
        transaction.add_scores([ours])
        thread.start()
        time.sleep(0.2)
        committed.set()
    thread.join()
    found = {key: value for (_, key, _), (_, value, *_) in stored(first).items()}
    assert found == dict.fromkeys(KEYS[:4], 1.0) | dict.fromkeys(KEYS[4:6], 0.0)
    first.close()
    second.close()


def test_who_waits_too_long_for_others_that_write_scores_tries_again_later(postgres_url: str) -> None:
    url = store_url(postgres_url, default=Path())
    first, second = Store(url), Store(url, lock_wait_s=0.1)
    for name, store in zip(NAMES, (first, second), strict=True):
        store.take_over(CampaignFacts(name, {}, "e", "i", 3), now=1.0)
    scores = [BlockScores.of("r", {"key": ("item", 1.0)}, lease="1.1")]
    with first.transaction() as transaction:
        transaction.add_scores(scores)
        with pytest.raises(StoreAway, match=r"have been writing for 0\.2 s"), second.transaction() as other:
            other.add_scores(scores)
    with second.transaction() as other:
        other.add_scores(scores)
    assert {row.campaign for row in first.shared_scores(["r"])} == {first.campaign}
    first.close()
    second.close()


def test_nobody_is_killed_for_writing_to_a_server_while_a_campaign_starts(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[ProcessIdentity] = []
    monkeypatch.setattr(takeover, "end", ended.append)
    url, facts = store_url(postgres_url, default=Path()), CampaignFacts("one", {}, "e", "i", 3)
    first, second = Store(url), Store(url, lock_wait_s=0.1)
    first.take_over(facts, now=1.0)
    with first.transaction(), pytest.raises(StoreAway, match="other processes have been writing"):
        second.take_over(facts, now=2.0)
    assert ended == []
    assert second.take_over(facts, now=3.0) == 2
    first.close()
    second.close()


def test_a_block_is_a_row_and_the_window_of_a_cohort_is_written_down_once(tmp_path: Path) -> None:
    space = {
        "parameters": {"weight": {"low": 0, "high": 1.2, "start": 0.5}},
        "stages": [{"name": "global", "by": "global", "population": 4, "sigma": 0.25, "sobol": 2}],
    }
    items = {"window": {0: 15}, "block_size": 40, "selection": 10, "holdout": 20}
    budget, baselines = {"items": 240}, ["base", "parents", "uniform"]
    campaign = make_campaign(budget=budget, items=items, baselines=baselines, space=space)
    coordinator = open_simulated(tmp_path, campaign)
    run_inline(coordinator, SimulatedEvaluator())
    coordinator.close()
    with sqlite3.connect(coordinator.run.directory.database) as connection:
        counts = [
            connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("item_scores", "block_scores", "leases WHERE state = 'done'", "item_blocks", "cohorts")
        ]
    scores, rows, units, blocks, cohorts = counts
    assert rows == units
    assert scores > 15 * units
    assert blocks <= cohorts + 3  # of selection one, of the holdout two


def test_equal_scores_of_one_block_are_equal_and_the_payer_is_kept() -> None:
    made = BlockScores.of("r", {"b": ("B", 0.5), "a": ("A", 1.0)}, lease="1.1")
    assert made.block.score_keys == ("a", "b")
    assert replace(made, campaign=7).having({"a": ("A", 1.0)}).campaign == 7
    assert BlockScores.of("s", {"a": ("A", 0.0), "b": ("B", 0.5)}, lease="1.2").block.name == made.block.name
    assert BlockScores.of("r", {"a": ("A", 1.0), "b": ("b", 0.5)}, lease="1.1").block.name != made.block.name
