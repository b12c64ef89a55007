"""The loop in one process: progress while it runs, a clean pause, and the coordinator's two ways to be asked."""

from __future__ import annotations

from pathlib import Path

import pytest
from simulated import Clock, SimulatedEvaluator, make_campaign, open_simulated

from search import ahead
from search.ahead import Ahead
from search.coordinator import Coordinator
from search.inline import run_inline
from search.ports import BlockResult, CampaignStatus, Failed, Finished, Inventory, Work
from search.store import schema

FEW = {"block_size": 40, "selection": 10, "holdout": 20}
SMALL = {
    "budget": {"items": 450},
    "items": {"window": {0: 15}, **FEW},
    "selection": {"top": 2, "means": 1, "soup": 2},
}


class Counting(SimulatedEvaluator):
    units = 0

    def evaluate(self, work: Work) -> BlockResult | Failed:
        self.units += 1
        return super().evaluate(work)


def test_progress_ends_with_the_finished_campaign(tmp_path: Path) -> None:
    seen: list[CampaignStatus] = []
    coordinator = open_simulated(tmp_path, make_campaign(**SMALL))
    verdict = run_inline(coordinator, SimulatedEvaluator(), on_progress=seen.append)
    assert verdict == coordinator.verdict() is not None
    assert (seen[0].phase, seen[-1].phase) == ("search", "done")


def test_a_stop_finishes_the_unit_at_hand_and_pauses(tmp_path: Path) -> None:
    evaluator, seen = Counting(), list[CampaignStatus]()
    coordinator = open_simulated(tmp_path, make_campaign(**SMALL))
    verdict = run_inline(coordinator, evaluator, on_progress=seen.append, stop=lambda: evaluator.units >= 7)
    assert verdict is None
    assert evaluator.units == 7
    assert seen[-1].paused
    states = [row["state"] for row in coordinator.run.store.rows(schema.LEASES)]
    assert states == ["done"] * 7
    coordinator.close()
    again = open_simulated(tmp_path, make_campaign(**SMALL), resume=True)
    assert run_inline(again, evaluator) is not None


def test_exchange_is_submit_and_next_work(tmp_path: Path) -> None:
    evaluator = SimulatedEvaluator()
    one, other = (open_simulated(tmp_path / name, make_campaign(**SMALL)) for name in ("one", "other"))
    work, twin = one.next_work("w"), other.next_work("w")
    while isinstance(work, Work):
        assert work == twin
        result = evaluator.evaluate(work)
        work = one.exchange("w", result)
        other.submit("w", result)
        twin = other.next_work("w")
    assert work == twin == Finished("done")
    assert one.verdict() == other.verdict()


class Shaky(SimulatedEvaluator):
    """Every fifth candidate fails, every seventh at its first attempt; `units` in the order of scoring."""

    def __init__(self) -> None:
        super().__init__()
        self.units: list[Work] = []

    def evaluate(self, work: Work) -> BlockResult | Failed:
        self.units.append(work)
        draw = int(work.recipe_hash[:4], 16)
        if draw % 5 == 0 or (draw % 7 == 0 and work.attempt == 1):
            return Failed(work.lease, "shaky", retryable=draw % 5 != 0)
        return super().evaluate(work)


def rows_of(coordinator: Coordinator) -> list[object]:
    """All but when a unit was begun, which is measured."""
    store = coordinator.run.store
    leases = [{**row, "taken": None} for row in store.rows(schema.LEASES)]
    return [leases, *(store.rows(table) for table in (schema.CANDIDATES, schema.ASSESSMENTS, schema.EVENTS))]


@pytest.mark.parametrize(("window", "at_once"), [(15, 12), (150, 0)])  # of 150 items some candidates see but a part
def test_units_that_are_scored_ahead_change_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int, at_once: int
) -> None:
    campaign = make_campaign(
        budget={"items": 50 * window}, items={"window": {0: window}, **FEW}, selection=SMALL["selection"]
    )
    found = {}
    for ahead_s in (0.0, 10.0):
        monkeypatch.setattr(ahead, "AHEAD_S", ahead_s)
        coordinator, evaluator, foreseen = open_simulated(tmp_path / str(ahead_s), campaign), Shaky(), [0]
        foresee = coordinator.foresee

        def noted(limit: int, foresee=foresee, foreseen=foreseen) -> list[Work]:  # type: ignore[no-untyped-def]
            works: list[Work] = foresee(limit)
            foreseen.append(len(works))
            return works

        monkeypatch.setattr(coordinator, "foresee", noted)
        verdict = run_inline(coordinator, evaluator)
        found[ahead_s] = verdict, rows_of(coordinator), len(evaluator.units)
        assert max(foreseen) == (at_once if ahead_s else 0)
        coordinator.close()
    assert found[0.0] == found[10.0]  # and as many units were scored


def test_no_unit_is_scored_under_a_lease_that_another_one_gets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is tried again takes the lease that was foreseen for the one after it; the audit file names it before."""
    monkeypatch.setattr(ahead, "AHEAD_S", 10.0)
    coordinator, evaluator = open_simulated(tmp_path, make_campaign(**SMALL)), Shaky()
    run_inline(coordinator, evaluator)
    given = {row["lease"]: row["candidate"] for row in coordinator.run.store.rows(schema.LEASES)}
    named = [(unit.lease, unit.candidate) for unit in evaluator.units if unit.lease != ahead.NO_LEASE]
    assert [(lease, candidate) for lease, candidate in named if given[lease] != candidate] == []
    assert 0 < len(named) < len(evaluator.units)
    coordinator.close()


def test_what_is_foreseen_is_what_is_handed_out(tmp_path: Path) -> None:
    coordinator, evaluator = open_simulated(tmp_path, make_campaign(**SMALL)), SimulatedEvaluator()
    work, expected, right = coordinator.next_work("w"), list[Work](), 0
    while isinstance(work, Work):
        if expected:
            assert work == expected.pop(0)
            right += 1
        else:
            expected = coordinator.foresee(9)
            assert coordinator.foresee(2) == expected[:2]
        work = coordinator.exchange("w", evaluator.evaluate(work))
    assert right > 10
    assert coordinator.foresee(9) == []
    coordinator.close()


def test_nothing_is_foreseen_in_a_run_that_was_just_continued_or_that_pauses(tmp_path: Path) -> None:
    """A unit that ends its process is the one that was handed out when it is tried again, and gets the blame."""
    evaluator, coordinator = SimulatedEvaluator(), open_simulated(tmp_path, make_campaign(**SMALL))
    work = coordinator.next_work("w")
    while isinstance(work, Work) and not coordinator.foresee(9):
        work = coordinator.exchange("w", evaluator.evaluate(work))
    coordinator.pause()
    assert coordinator.foresee(9) == []
    again = open_simulated(tmp_path, make_campaign(**SMALL), resume=True)
    for _ in range(12):
        work = again.next_work("w")
        assert isinstance(work, Work)
        assert again.foresee(9) == []
        again.submit("w", evaluator.evaluate(work))
    again.close()


def test_a_stop_hands_in_what_was_scored_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "AHEAD_S", 10.0)
    evaluator, coordinator = Counting(), open_simulated(tmp_path, make_campaign(**SMALL))
    assert run_inline(coordinator, evaluator, stop=lambda: evaluator.units >= 20) is None
    assert evaluator.units == 20  # not the whole row
    states = [row["state"] for row in coordinator.run.store.rows(schema.LEASES)]
    assert states == ["done"] * evaluator.units
    coordinator.close()


class Row:
    """A coordinator that foresees what it is told to, and an evaluator that answers with what it is told to."""

    def __init__(self) -> None:
        self.foreseen: list[Work] = []
        self.outages: set[int] = set()
        self.scored: list[int] = []

    def foresee(self, limit: int) -> list[Work]:
        return self.foreseen[: max(0, limit)]

    def inventory(self) -> Inventory:
        raise NotImplementedError

    def close(self) -> None: ...

    def evaluate(self, work: Work) -> BlockResult | Failed:
        self.scored.append(work.candidate)
        if work.candidate in self.outages:
            return Failed(work.lease, "the judge does not answer", retryable=True, outage=True)
        return BlockResult(work.lease, work.recipe_hash, "weights", dict.fromkeys(work.items, 1.0))


def unit(number: int) -> Work:
    return Work(number, {}, f"recipe {number}", "search", 0, ("a", "b"), f"1.{number}", 1, 1)


def test_what_nobody_asks_for_any_more_keeps_no_stop_waiting() -> None:
    """The hours of a budget may end a search between units that were scored in a row."""
    row = Row()
    ahead = Ahead(row, row, stop=lambda: False)
    ahead.evaluate(unit(0))
    row.foreseen = [unit(2), unit(3)]
    ahead.evaluate(unit(1))
    assert ahead.waiting
    row.foreseen = []
    ahead.evaluate(unit(4))
    assert not ahead.waiting
    assert all(isinstance(ahead.evaluate(unit(number)), BlockResult) for number in (2, 3))
    assert row.scored == [0, 1, 2, 3, 4]  # they were asked for after all, and not scored twice


def test_an_outage_ends_the_row_and_is_no_answer_to_who_asks_later() -> None:
    row = Row()
    ahead = Ahead(row, row, stop=lambda: False)
    ahead.evaluate(unit(0))
    row.foreseen, row.outages = [unit(2), unit(3), unit(4)], {3}
    ahead.evaluate(unit(1))
    assert row.scored == [0, 1, 2, 3]
    row.foreseen, row.outages = [unit(4)], set()
    assert all(isinstance(ahead.evaluate(unit(number)), BlockResult) for number in (2, 3))
    row.foreseen, row.outages, row.scored = [unit(6)], {5}, []
    ahead.evaluate(unit(5))
    assert row.scored == [5]


def test_a_row_ends_when_it_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A judge that answered at once may take its time now."""
    row, clock = Row(), Clock()
    ahead = Ahead(row, row, stop=lambda: False)
    monkeypatch.setattr("search.ahead.time.monotonic", clock)
    ahead.evaluate(unit(0))
    row.foreseen = [unit(2), unit(3), unit(4)]
    score = row.evaluate

    def slow(work: Work) -> BlockResult | Failed:
        clock.time += 4.0
        return score(work)

    monkeypatch.setattr(row, "evaluate", slow)
    ahead.evaluate(unit(1))
    assert row.scored == [0, 1, 2]


def test_nothing_is_foreseen_where_other_campaigns_may_score_it_meanwhile(tmp_path: Path) -> None:
    campaign = make_campaign(store=f"sqlite:///{tmp_path}/shared.sqlite", **SMALL)
    evaluator, coordinator = SimulatedEvaluator(), open_simulated(tmp_path / "run", campaign)
    work = coordinator.next_work("w")
    for _ in range(40):
        assert isinstance(work, Work)
        assert coordinator.foresee(9) == []
        work = coordinator.exchange("w", evaluator.evaluate(work))
    coordinator.close()


class Slow(SimulatedEvaluator):
    """A unit takes a second; candidates of uneven numbers take three."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def evaluate(self, work: Work) -> BlockResult | Failed:
        self.clock.time += 3.0 if work.candidate % 2 else 1.0
        return super().evaluate(work)


def test_a_unit_that_was_scored_ahead_took_as_long_as_its_scoring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(ahead, "AHEAD_S", 10.0)
    monkeypatch.setattr(ahead.time, "monotonic", clock)
    coordinator = open_simulated(tmp_path, make_campaign(**SMALL), now=clock)
    run_inline(coordinator, Slow(clock))
    leases = coordinator.run.store.rows(schema.LEASES)
    assert {(row["candidate"] % 2, row["ended"] - row["taken"]) for row in leases} == {(0, 1.0), (1, 3.0)}
    coordinator.close()
