"""An outage of the database costs a campaign nothing but time: no row, no score, no candidate differs afterwards."""

from __future__ import annotations

import itertools
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from simulated import LAYERS, Clock, SimulatedEvaluator, hash_recipe, make_campaign, make_inventory

from engine.errors import CampaignError, Outage, StaleEpoch, StoreAway
from search import commits, session
from search.campaign_file import Campaign
from search.coordinator import Coordinator
from search.lasting import LastingCoordinator
from search.opening import Start, open_coordinator
from search.outage import PATIENCE_S
from search.ports import Finished, Wait, Work
from search.run import RunDirectory, Services, open_store
from search.store import schema
from search.store.store import LOCK_WAIT_S, Store
from search.trackers.contract import Ended, News, Started, Tell

SMALL: dict[str, Any] = {
    "budget": {"items": 400},
    "items": {"window": {0: 15}, "block_size": 40, "selection": 20, "holdout": 40},
    "selection": {"top": 1, "means": 1, "soup": 0},
}
DOWN = StoreAway("postgresql://h/db: the database cannot be reached: no answer.")
TIMES = {"seconds", "created", "at", "taken", "ended", "epoch", "pid", "started", "lease", "config"}
"""Columns that tell when, and by which coordinator."""


def opener(
    folder: Path,
    campaign: Campaign,
    *,
    tell: Tell | None = None,
    commit_every_s: float = 0.0,
    lock_wait_s: float = LOCK_WAIT_S,
) -> Callable[[bool], Coordinator]:
    ticks = itertools.count(1000)  # every look at the clock takes a second
    services = Services(hash_recipe, lambda: next(ticks), tell=tell, commit_every_s=commit_every_s)

    def open_run(again: bool) -> Coordinator:
        start = Start(RunDirectory(folder), LAYERS, again=again, lock_wait_s=lock_wait_s)
        return open_coordinator(campaign, make_inventory(), start=start, services=services)

    return open_run


def driven(
    coordinator: Coordinator | LastingCoordinator,
    evaluator: SimulatedEvaluator,
    *,
    wait: Callable[[], None] = lambda: None,
) -> None:
    """One worker in this process, as run_inline has it, until there is nothing more to do."""
    work = coordinator.next_work("w")
    while not isinstance(work, Finished):
        if isinstance(work, Wait):
            wait()
            work = coordinator.next_work("w")
        else:
            work = coordinator.exchange("w", evaluator.evaluate(work))


def rows(campaign: Campaign, folder: Path) -> str:
    """All that a campaign found out, without when and by which of its coordinators."""
    with open_store(campaign, RunDirectory(folder)) as store:
        assert store.find(campaign.name) is not None
        tables = (schema.CAMPAIGNS, schema.CANDIDATES, schema.COHORTS, schema.ASSESSMENTS, schema.ITEM_SCORES)
        found = [[store.rows(table), store.rows(schema.LEDGER)] for table in tables]
    plain = json.loads(json.dumps(found))
    return json.dumps(_without(plain), sort_keys=True)


def _without(entry: Any) -> Any:
    if isinstance(entry, dict):
        return {key: _without(value) for key, value in entry.items() if key not in TIMES}
    return [_without(each) for each in entry] if isinstance(entry, list) else entry


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[tuple[int, str]]]:
    """Rows, and what was scored in which order, where the database never went away."""
    folder, campaign, evaluator = tmp_path_factory.mktemp("whole"), make_campaign(**SMALL), SimulatedEvaluator()
    coordinator = opener(folder, campaign)(False)
    driven(coordinator, evaluator)
    coordinator.run.store.close()
    return rows(campaign, folder), evaluator.seen


@pytest.mark.parametrize(("commit_every_s", "every"), [(0.0, 13), (30.0, 5)])
def test_a_campaign_whose_database_goes_away_again_and_again_ends_as_if_it_never_had(
    undisturbed: tuple[str, list[tuple[int, str]]],
    commit_every_s: float,
    every: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before a commit, or after it, so that only the answer is lost; also where a commit holds many results. Trackers
    see one run: it begins, and ends when the campaign does."""
    calls, real = 0, Store.transaction
    monkeypatch.setattr(commits, "CAREFUL", 0)
    told: list[News] = []

    @contextmanager
    def unreliable(store: Store) -> Iterator[Any]:
        nonlocal calls
        calls += 1
        fails, committed = calls > 1 and calls % every in (0, 1), calls % 2
        with real(store) as transaction:
            yield transaction
            if fails and not committed:
                raise DOWN
        if fails:
            raise DOWN

    monkeypatch.setattr(Store, "transaction", unreliable)
    campaign, clock, evaluator, waited = make_campaign(**SMALL), Clock(), SimulatedEvaluator(), 0

    def wait() -> None:
        nonlocal waited
        clock.time, waited = clock.time + 1.0, waited + 1

    open_run = opener(tmp_path, campaign, tell=told.extend, commit_every_s=commit_every_s)
    coordinator = LastingCoordinator(campaign.name, open_run, clock=clock)
    driven(coordinator, evaluator, wait=wait)
    monkeypatch.undo()
    assert told.count(Started(campaign.name, told[0].facts)) > 1
    assert not any(isinstance(entry, Ended) for entry in told)
    coordinator.close()
    assert told[-1] == Ended("done")
    assert waited >= 6
    assert rows(campaign, tmp_path) == undisturbed[0]
    assert sorted(evaluator.seen) == sorted(undisturbed[1])  # nothing was scored twice


def test_a_file_whose_lock_another_program_holds_for_long_is_waited_for(
    undisturbed: tuple[str, list[tuple[int, str]]], tmp_path: Path
) -> None:
    campaign, clock, evaluator = make_campaign(**SMALL), Clock(), SimulatedEvaluator()
    coordinator = LastingCoordinator(campaign.name, opener(tmp_path, campaign, lock_wait_s=0.05), clock=clock)
    shell = sqlite3.connect(RunDirectory(tmp_path).database, isolation_level=None)
    said: list[str] = []

    def evaluate_or_lock(work: Work) -> Any:
        if len(evaluator.seen) > 200 and not said:
            shell.execute("BEGIN IMMEDIATE")
            said.append("")
        return SimulatedEvaluator.evaluate(evaluator, work)

    def wait() -> None:
        clock.time += 1.0
        said.append(coordinator.status().outage)
        if len(said) == 10:
            shell.execute("ROLLBACK")

    driven(coordinator, SimpleNamespace(evaluate=evaluate_or_lock), wait=wait)  # type: ignore[arg-type]
    coordinator.close()
    assert len(said) >= 10
    assert "another program holds its lock" in said[1]
    assert rows(campaign, tmp_path) == undisturbed[0]
    assert sorted(evaluator.seen) == sorted(undisturbed[1])


def test_a_server_that_drops_everybody_and_lets_nobody_in_for_a_while_is_waited_for(
    undisturbed: tuple[str, list[tuple[int, str]]], postgres_server: str, postgres_url: str, tmp_path: Path
) -> None:
    import psycopg

    name = postgres_url.split("?")[0].rpartition("/")[2]

    def admit(allowed: bool) -> None:
        with psycopg.connect(postgres_server.format(name="postgres"), autocommit=True) as connection:
            connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS {allowed}')
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])

    class Cut(SimulatedEvaluator):
        units = 0

        def evaluate(self, work: Work) -> Any:
            self.units += 1
            if self.units in (3, 9):
                admit(self.units == 3)  # the first time only what is open is cut: nobody notices that
            return super().evaluate(work)

    campaign, clock, evaluator = make_campaign(**SMALL, store=postgres_url), Clock(), Cut()
    told: list[str] = []

    def wait() -> None:
        clock.time += 1.0
        told.append(coordinator.status().outage)
        if len(told) == 40:
            admit(True)

    coordinator = LastingCoordinator(campaign.name, opener(tmp_path, campaign), clock=clock)
    driven(coordinator, evaluator, wait=wait)
    coordinator.close()
    assert len(told) >= 40
    assert all("://" in text and "+psycopg" not in text for text in told)
    assert told[30].startswith("outage for ")
    assert coordinator.status().outage == ""
    assert rows(campaign, tmp_path) == undisturbed[0]
    assert sorted(evaluator.seen) == sorted(undisturbed[1])


def test_an_outage_that_lasts_pauses_the_campaign_and_says_how_to_go_on(tmp_path: Path) -> None:
    clock, open_run = Clock(), opener(tmp_path, make_campaign(**SMALL))

    def once(again: bool) -> Coordinator:
        if again:
            raise DOWN
        return open_run(False)

    told: list[News] = []
    coordinator = LastingCoordinator("simulated", once, clock=clock, tell=told.extend)
    work = coordinator.next_work("w")
    assert isinstance(work, Work)
    coordinator._leave(DOWN)
    coordinator.submit("w", SimulatedEvaluator().evaluate(work))

    def wait() -> None:
        clock.time += 1.0

    with pytest.raises(Outage, match=r"paused: outage for 60\d s: postgresql://h/db: .* run the same .* --resume\.$"):
        driven(coordinator, SimulatedEvaluator(), wait=wait)
    assert clock.time - 1000.0 == pytest.approx(PATIENCE_S, abs=2)
    coordinator.pause()
    assert coordinator.next_work("w") == Finished("paused")
    with pytest.raises(Outage, match="--resume"):
        coordinator.close()
    assert told == [Ended("paused")]


def test_at_a_start_nobody_waits_for_a_database_but_a_restarted_coordinator_does(tmp_path: Path) -> None:
    clock, ways = Clock(), iter([DOWN, DOWN])

    def late(again: bool) -> Coordinator:
        failure = next(ways, None)
        if failure is not None:
            raise failure
        return opener(tmp_path, make_campaign(**SMALL))(again)

    with pytest.raises(StoreAway) as caught:
        LastingCoordinator("simulated", late, clock=clock)
    assert caught.value.exit_code == 2
    coordinator = LastingCoordinator("simulated", late, patient=True, clock=clock)
    assert coordinator.next_work("w") == Wait(1.0)
    assert coordinator.status().outage.startswith("outage for 0 s: postgresql://h/db")
    clock.time += 1.0
    assert isinstance(coordinator.next_work("w"), Work)


def test_scores_that_come_late_count_at_once_though_somebody_else_was_given_the_unit(tmp_path: Path) -> None:
    campaign, clock, evaluator = make_campaign(**SMALL), Clock(), SimulatedEvaluator()
    coordinator = LastingCoordinator(campaign.name, opener(tmp_path, campaign), clock=clock)
    early = coordinator.next_work("w1")
    assert isinstance(early, Work)
    coordinator._leave(DOWN)
    clock.time += 1.0
    again = coordinator.next_work("w2")
    assert isinstance(again, Work)
    assert (again.candidate, again.items) == (early.candidate, early.items)
    assert again.lease != early.lease
    for worker, work in (("w1", early), ("w2", again)):
        coordinator.submit(worker, evaluator.evaluate(work))
        assert coordinator.status().items_done == len(early.items)


def test_what_is_committed_is_not_kept_whichever_call_commits_it(tmp_path: Path) -> None:
    campaign, evaluator = make_campaign(**SMALL), SimulatedEvaluator()
    coordinator = LastingCoordinator(campaign.name, opener(tmp_path, campaign, commit_every_s=1e9))
    work = coordinator.next_work("w")
    for _ in range(8):
        coordinator.save()  # as a progress bar does that asks often
        assert isinstance(work, Work)
        work = coordinator.exchange("w", evaluator.evaluate(work))
        assert len(coordinator._kept) == 1
    coordinator.close()


def test_who_took_over_in_the_meantime_is_left_alone(tmp_path: Path) -> None:
    campaign, clock = make_campaign(**SMALL), Clock()
    coordinator = LastingCoordinator(campaign.name, opener(tmp_path, campaign), clock=clock)
    coordinator._leave(DOWN)
    with open_store(campaign, RunDirectory(tmp_path)) as store:
        assert store.find(campaign.name) is not None
        store.epoch = 1
        with store.transaction() as transaction:
            transaction.change(schema.EPOCHS, {"pid": 1, "host": "elsewhere 1234"}, epoch=1)
    clock.time += 1.0
    with pytest.raises(StaleEpoch, match="process 1 on elsewhere took over with epoch 1 while the database did not"):
        coordinator.next_work("w")
    assert coordinator.close() is None  # as a driver does on its way out: the cause stays what it is


def test_a_run_that_is_gone_when_the_database_is_back_does_not_begin_anew(tmp_path: Path) -> None:
    campaign, clock = make_campaign(**SMALL), Clock()
    coordinator = LastingCoordinator(campaign.name, opener(tmp_path, campaign), clock=clock)
    coordinator._leave(DOWN)
    (tmp_path / "campaign.sqlite").unlink()
    clock.time += 1.0
    with pytest.raises(CampaignError, match="is not there any more"):
        coordinator.next_work("w")
    assert not (tmp_path / "campaign.sqlite").exists()


def test_a_restarted_coordinator_of_real_models_waits_for_the_database_before_it_looks_for_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(*_: Any, **__: Any) -> Any:
        raise DOWN

    monkeypatch.setattr(session, "space_of", lambda campaign, plans: SimpleNamespace(layers=LAYERS))
    for name in ("has_scores", "open_coordinator"):
        monkeypatch.setattr(session, name, down)
    campaign, directory = make_campaign(**SMALL), RunDirectory(tmp_path)
    coordinator = session.open_session(campaign, make_inventory(), directory=directory, resume=True, patient=True)
    assert coordinator.next_work("w") == Wait(1.0)
    with pytest.raises(StoreAway):
        session.open_session(campaign, make_inventory(), directory=directory, resume=True)
