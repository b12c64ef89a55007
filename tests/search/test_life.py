"""The life of a campaign: ended early, extended, forked, with budgets of every kind."""

from __future__ import annotations

import functools
import json
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from simulated import LAYERS, Clock, SimulatedEvaluator, campaign_data, make_campaign, open_simulated
from sqlalchemy import Table

from cluster import campaign_command
from cluster.campaign_command import check_resume
from cluster.output import human_seconds
from engine.errors import CampaignError, EvaluationError, InputError, InputsChanged, OutputExists
from search import ends, session
from search.campaign import Rules, StageRule
from search.campaign_file import BudgetEntry, Campaign, campaign_to_dict, load_campaign
from search.coordinator import Coordinator
from search.evaluators.opening import refuse_missing_functions
from search.inline import run_inline, work_once
from search.opening import check_budget
from search.ports import BlockResult, Failed, Work
from search.report.report import render_html, render_text
from search.run import RunDirectory, open_store
from search.session import fork_campaign
from search.space import make_space
from search.store import schema, takeover
from search.store.forking import fork
from search.store.store import Store, store_url
from search.store.transaction import Row, Transaction
from search.whereabouts import models_noted, remember

SMALL = {
    "budget": {"items": 600},
    "items": {"window": {0: 15}, "block_size": 40, "selection": 10, "holdout": 20},
    "selection": {"top": 2, "means": 1, "soup": 2},
}


def small(**changes: Any) -> Any:
    return make_campaign(**(SMALL | changes))


def worked(coordinator: Coordinator, until: Callable[[Coordinator], bool]) -> Coordinator:
    """Work, a second of the clock per unit, until something holds."""
    evaluator, clock = SimulatedEvaluator(), coordinator._services.now
    while not until(coordinator):
        assert work_once(coordinator, evaluator, worker="w") is None
        if isinstance(clock, Clock):
            clock.time += 1
    return coordinator


def in_phase(phase: str) -> Callable[[Coordinator], bool]:
    return lambda coordinator: coordinator.status().phase == phase


def decided(coordinator: Coordinator) -> list[Any]:
    return [coordinator.run.store.rows(table) for table in (schema.CANDIDATES, schema.COHORTS)]


def test_a_budget_of_items_counts_what_is_scored_where_the_pool_is_smaller_than_a_window(tmp_path: Path) -> None:
    few = small(items=SMALL["items"] | {"window": {0: 60}, "search": 4})  # of three tasks: windows of 12 items
    whole = worked(open_simulated(tmp_path / "whole", few), in_phase("selection"))
    state, results = whole.live.state, whole.close()
    assert results is not None
    scored = {candidate.recipe_hash for candidate in state.candidates if candidate.cohort is not None}
    assert results.items_spent["search"] == 12 * len(scored)
    assert state.spent == 12 * len([candidate for candidate in state.candidates if candidate.cohort is not None])
    assert 600 - 12 * 13 < state.spent <= 600
    part = worked(open_simulated(tmp_path / "part", few), lambda c: c.status().candidates == 30)
    part.close()
    again = worked(open_simulated(tmp_path / "part", few, resume=True), in_phase("selection"))
    assert (again.live.state.spent, again.live.state.cohorts) == (state.spent, state.cohorts)


# ------------------------------------------------------------------------------------------------------ stop and extend


def test_a_wish_to_stop_ends_the_search_and_the_rest_follows(tmp_path: Path) -> None:
    coordinator = worked(open_simulated(tmp_path, small()), lambda c: c.status().candidates == 25)
    other = Store(store_url(None, default=tmp_path / "campaign.sqlite"))
    other.find("simulated")
    other.wish(ends.STOP, now=1.0)
    worked(coordinator, in_phase("selection"))
    assert coordinator.status().items_done < 600
    events = coordinator.run.store.rows(schema.EVENTS)
    assert [(row["kind"], row["reason"]) for row in events] == [("ended", "somebody said `mergefleet stop`")]
    assert coordinator.run.store.rows(schema.WISHES) == []
    assert run_inline(coordinator, SimulatedEvaluator()) is not None


@pytest.mark.parametrize("running", [True, False])
def test_whoever_stops_a_search_is_told_what_still_follows(
    running: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "campaign.yml"
    path.write_text(json.dumps(campaign_data(**SMALL)))
    clock = Clock()
    worked(open_simulated(tmp_path, small(), now=clock), lambda c: c.status().candidates == 25).close()
    monkeypatch.setattr(session, "_owner", lambda *_: takeover.this_process() if running else None)
    asked = session.ask_to_stop(path, root=tmp_path)
    campaign_command.stop(path, run_dir=tmp_path, as_json=False)
    told = capsys.readouterr().out
    with open_store(small(), RunDirectory(tmp_path)) as store:
        found = store.find("simulated")
        assert found is not None
        spent = len(store.rows(schema.ITEM_SCORES))
    run_inline(again := open_simulated(tmp_path, small(), resume=True, now=clock), SimulatedEvaluator())
    took = len(again.run.store.rows(schema.ITEM_SCORES)) - spent
    assert took <= asked.items_left <= 2 * took  # some recipes are the same, and known
    assert asked.seconds_left == pytest.approx(asked.items_left * found["seconds"] / spent)
    assert ("--resume" in told) == (not running)
    assert f"about {asked.items_left} item evaluations more, {human_seconds(asked.seconds_left or 0)} at" in told


def test_how_far_a_run_has_come_is_told_without_its_scores_and_as_the_report_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "campaign.yml"
    path.write_text(json.dumps(campaign_data(**SMALL)))
    clock, evaluate = Clock(), SimulatedEvaluator.evaluate

    def in_a_while(evaluator: SimulatedEvaluator, work: Work) -> BlockResult | Failed:
        clock.time += 0.5
        return evaluate(evaluator, work)

    monkeypatch.setattr(SimulatedEvaluator, "evaluate", in_a_while)
    worked(open_simulated(tmp_path, small(), now=clock), in_phase("holdout")).close()
    expected = session.stored_results(small(), RunDirectory(tmp_path))
    monkeypatch.setattr(Store, "shared_scores", pytest.fail)
    found = session.run_so_far(small(), RunDirectory(tmp_path))
    assert found.spent == expected.items_spent
    assert min(found.spent["search"], found.spent["selection"]) > 0
    assert (found.phase, found.seconds, found.lost) == ("holdout", expected.seconds, False)
    assert found.held_s == pytest.approx(sum(entry.seconds for entry in expected.efforts))
    assert found.held_s > 0
    assert found.baselines == sum(row.origin == "baseline" for row in expected.candidates)
    with pytest.raises(CampaignError, match="past its search"):
        session.ask_to_stop(path, root=tmp_path)


def test_who_says_stop_twice_may_still_extend_the_budget(tmp_path: Path) -> None:
    coordinator = worked(open_simulated(tmp_path, small()), lambda c: c.status().candidates == 25)
    for _ in range(2):  # the second one while what runs is finished
        coordinator.run.store.wish(ends.STOP, now=1.0)
        worked(coordinator, lambda c: c.live.state.ended is not None)
    worked(coordinator, in_phase("selection")).close()
    extended = open_simulated(tmp_path, small(budget={"items": 900}), resume=True)
    worked(extended, lambda c: c.status().phase != "search")
    assert len(outcomes(extended, "search")) > 25
    assert extended.live.state.ended is None


def test_a_search_that_loses_everybody_can_be_stopped_and_judged(tmp_path: Path) -> None:
    file = small(budget={"items": 2000})
    coordinator = worked(open_simulated(tmp_path, file), lambda c: len(c.live.state.cohorts) == 3)

    def fail_all() -> None:
        while True:
            work = coordinator.next_work("w")
            assert isinstance(work, Work)
            coordinator.submit("w", Failed(work.lease, "the disk is full.", retryable=False))

    told = r"no candidate can be scored: the disk is full\. `mergefleet stop` and --resume go on to selection"
    with pytest.raises(EvaluationError, match=told):
        fail_all()
    coordinator.close()
    again = open_simulated(tmp_path, file, resume=True)
    with pytest.raises(EvaluationError, match=told):
        again.next_work("w")
    again.close()
    last = open_simulated(tmp_path, file, resume=True)
    last.run.store.wish(ends.STOP, now=1.0)
    assert run_inline(last, SimulatedEvaluator()) is not None


def test_a_campaign_whose_winner_is_never_scored_on_the_holdout_can_be_ended_without_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c.yml"
    path.write_text(yaml.safe_dump(campaign_to_dict(small())))

    class SilentJudge(SimulatedEvaluator):
        def evaluate(self, work: Work) -> BlockResult | Failed:
            failed = Failed(work.lease, "no grade.", retryable=False)
            return failed if work.split == "holdout" else super().evaluate(work)

    coordinator = open_simulated(tmp_path, small())
    with pytest.raises(EvaluationError, match=r"`mergefleet stop` and then --resume end the campaign without a winner"):
        run_inline(coordinator, SilentJudge())
    coordinator.close()
    campaign_command.stop(path, run_dir=tmp_path, as_json=False)
    assert "tries once more whoever was lost on the holdout; if the winner is lost again" in capsys.readouterr().out
    coordinator = open_simulated(tmp_path, small(), resume=True)
    verdict = run_inline(coordinator, SilentJudge())
    results = coordinator.close()
    assert verdict is not None
    assert results is not None
    assert verdict.sentence == f"no winner: {verdict.label} could not be scored on the holdout"
    assert verdict.notes[0] == f"{verdict.label} could not be scored on the holdout: no grade"
    assert (results.verdict, results.phase, verdict.significant) == (verdict, "done", False)
    assert verdict.sentence[1:] in render_text(results)
    assert verdict.sentence[1:] in render_html(results)
    with pytest.raises(CampaignError, match="is past its search: it is in phase done"):
        campaign_command.stop(path, run_dir=tmp_path, as_json=False)


def test_a_wish_waits_for_the_next_start(tmp_path: Path) -> None:
    coordinator = worked(open_simulated(tmp_path, small()), lambda c: c.status().candidates == 25)
    coordinator.run.store.wish(ends.STOP, now=1.0)
    coordinator.close()
    again = open_simulated(tmp_path, small(), resume=True)
    work_once(again, SimulatedEvaluator(), worker="w")
    assert again._desk.live.state.ended is not None
    assert len(outcomes(again, "search")) == 25


@pytest.mark.parametrize("began", ["selection", "search"])
def test_a_larger_budget_opens_an_ended_search_again(began: str, tmp_path: Path) -> None:
    """As long as the holdout is closed; the campaign then holds the candidates of one that had that budget at once."""
    first = open_simulated(tmp_path / "a", small())
    worked(first, in_phase("selection"))
    if began == "search":
        first.close()
        first = open_simulated(tmp_path / "a", small(budget={"items": 600, "candidates": 10_000}), resume=True)
    else:
        worked(first, lambda c: any(o.open is False for o in outcomes(c, "selection")))
    first.close()
    extended = open_simulated(tmp_path / "a", small(budget={"items": 1000}), resume=True)
    assert extended.status().phase == "search"
    verdict = run_inline(extended, SimulatedEvaluator())
    assert verdict is not None
    whole = open_simulated(tmp_path / "b", small(budget={"items": 1000}))
    run_inline(whole, SimulatedEvaluator())
    searched = [[row["recipe"] for row in c.run.store.rows(schema.CANDIDATES) if row["cohort"] is not None]
                for c in (extended, whole)]  # fmt: skip
    assert len(searched[0]) > 45
    assert len(searched[0]) == len(searched[1])
    labels = [row["label"] for row in extended.run.store.rows(schema.CANDIDATES)]
    assert len(set(labels)) == len(labels)
    config = extended.run.store.rows(schema.CAMPAIGNS, name="simulated")[0]["config"]
    assert config["budget"]["items"] == 1000


def outcomes(coordinator: Coordinator, split: Any) -> list[Any]:
    return [c.outcomes[split] for c in coordinator._desk.live.state.candidates if split in c.outcomes]


def test_a_reopened_search_is_replayed_as_it_was(tmp_path: Path) -> None:
    first = worked(open_simulated(tmp_path, small()), in_phase("selection"))
    first.close()
    extended = open_simulated(tmp_path, small(budget={"items": 900}), resume=True)
    worked(extended, lambda c: c.status().phase == "selection")
    state = extended._desk.live.state
    extended.close()
    again = open_simulated(tmp_path, small(budget={"items": 900}), resume=True)
    assert again._desk.live.state == state


def test_a_smaller_budget_or_the_same_one_opens_nothing(tmp_path: Path) -> None:
    worked(open_simulated(tmp_path, small()), in_phase("selection")).close()
    for budget in ({"items": 600}, {"items": 500}):
        again = open_simulated(tmp_path, small(budget=budget), resume=True)
        assert again.status().phase == "selection"
        again.close()


@pytest.mark.parametrize(
    ("now", "then", "further"),
    [
        ({"items": 10}, {"items": 9}, True),
        ({"items": 10}, {"items": 10}, False),
        ({"items": 9}, {"items": 10}, False),
        ({"candidates": 5}, {"items": 10}, True),  # the items have no end any more
        ({"items": 10, "hours": 1}, {"items": 10, "hours": 2}, False),
        ({"items": 10, "hours": 3}, {"items": 10, "hours": 2}, True),
    ],
)
def test_what_counts_as_a_larger_budget(now: Any, then: Any, further: bool) -> None:
    assert ends.reaches_further(BudgetEntry(**now), then) is further


# -------------------------------------------------------------------------------------------------------------- budgets


def test_gpu_hours_count_the_time_for_which_workers_held_work(tmp_path: Path) -> None:
    campaign = small(budget={"gpu_hours": 40 / 3600}, evaluator={"device": "cuda"})
    clock, evaluator = Clock(), SimulatedEvaluator()
    coordinator = open_simulated(tmp_path, campaign, now=clock)
    while not coordinator._desk.live.state.ended:
        work = coordinator.next_work("w")
        clock.time += 2.0  # of work
        coordinator.submit("w", evaluator.evaluate(work))  # type: ignore[arg-type]
        clock.time += 7.0  # of nothing
        if coordinator.status().candidates == 10:  # what was used survives a restart
            coordinator.close()
            coordinator = open_simulated(tmp_path, campaign, now=clock, resume=True)
    assert len(outcomes(coordinator, "search")) == 21
    assert "0.0111111 GPU-hours" in coordinator.run.store.rows(schema.EVENTS)[0]["reason"]


def test_a_budget_of_gpu_hours_on_a_cpu_is_refused_at_start() -> None:
    with pytest.raises(CampaignError, match=r"budget\.gpu_hours: the evaluator runs on cpu"):
        check_budget(small(budget={"gpu_hours": 1}), 12, population=6)


def test_the_forecast_is_what_the_search_then_takes(tmp_path: Path) -> None:
    campaign = small(
        budget={"items": 1500}, items=SMALL["items"] | {"window": {0: 15, 500: 30}, "early_stopping": False}
    )
    coordinator = worked(open_simulated(tmp_path, campaign), in_phase("selection"))
    state = coordinator._desk.live.state
    rows = ends.forecast(state.rules, ("global", "layers"))
    assert [row.stage for row in rows] == ["baselines", "global", "layers"]
    assert sum(row.cohorts for row in rows) == len(state.cohorts)
    assert sum(row.items for row in rows) == state.spent
    assert sum(row.candidates for row in rows) == sum(len(cohort.members) for cohort in state.cohorts)


def test_a_search_that_only_hours_end_has_a_forecast_of_its_baselines() -> None:
    rules = Rules(kinds=("base", "parent"), sobol=2, stages=(StageRule(5),), window={0: 10})
    assert ends.forecast(rules, ("only",)) == [ends.Planned("baselines", 1, 4, 40)]
    assert not ends.is_counted(rules)


@pytest.mark.parametrize(
    ("budget", "hours"), [({"hours": 10}, 10), ({"gpu_hours": 10}, 10), ({"hours": 10, "items": 900}, None)]
)
def test_the_time_left_of_a_search_is_that_of_its_hours_where_they_end_it(
    budget: dict[str, float], hours: float | None, tmp_path: Path
) -> None:
    clock, evaluator = Clock(), SimulatedEvaluator()
    coordinator = open_simulated(tmp_path, small(budget=budget, evaluator={"device": "cuda"}), now=clock)
    started = clock.time
    for _ in range(24):
        assert work_once(coordinator, evaluator, worker="w") is None
        clock.time += 1.0
    status, run = coordinator.status(), coordinator.run
    sizes = {split: run.pools.size(split) for split in ("selection", "holdout")}
    after = ends.items_after("search", run.campaign, baselines=len(run.baselines), sizes=sizes)
    assert status.seconds_left is not None
    assert status.items_per_s is not None
    searching = status.seconds_left - after / status.items_per_s
    if hours is None:
        assert searching == pytest.approx((900 - status.items_done) / status.items_per_s)
    else:  # leases of no length: no GPU-hours are spent
        assert searching == pytest.approx(hours * 3600 - (clock.time - started) * ("hours" in budget))


@pytest.mark.parametrize(
    ("budget", "busy", "left"),
    [
        ({"hours": 2}, 0, 3600.0),
        ({"gpu_hours": 2}, 4, 1350.0),
        ({"hours": 2, "gpu_hours": 2}, 1, 3600.0),
        ({"items": 5}, 3, None),
        ({"gpu_hours": 2}, 0, None),
        ({"hours": 0.5}, 1, 0.0),
    ],
)
def test_hours_and_gpu_hours_say_how_long_a_search_may_go_on(
    budget: dict[str, float], busy: int, left: float | None
) -> None:
    found = ends.seconds_allowed(BudgetEntry(**budget), seconds=3600, device_seconds=1800, busy=busy)
    assert found == left


@pytest.mark.parametrize(
    ("store", "counted", "timed"), [(None, True, False), ("STORE", True, True), (None, False, True)]
)
def test_a_plan_needs_no_run_and_tells_how_one_stands(
    store: str | None,
    counted: bool,
    timed: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    items = 9000 if counted else None
    rules = Rules(kinds=("base",), sobol=2, stages=(StageRule(5, 9), StageRule(5)), window={0: 10}, budget_items=items)
    monkeypatch.setattr(campaign_command, "rules_of", lambda campaign: rules)
    budget = {"items": 600 if counted else None, "hours": 2 if timed else None}
    campaign = small(store=None if store is None else str(tmp_path / "deep" / "new.sqlite"), budget=budget)
    (tmp_path / "c.yml").write_text(yaml.safe_dump(campaign_to_dict(campaign)))

    def said() -> str:
        campaign_command.plan(tmp_path / "c.yml", run_dir=tmp_path / "run", as_json=False)
        return capsys.readouterr().out

    assert "so far" not in (first := said())
    assert ("items at most" in first, "ends after" in first) == (counted, timed)
    assert [path.name for path in tmp_path.iterdir()] == ["c.yml"]
    (tmp_path / "deep").mkdir()
    coordinator = worked(open_simulated(tmp_path / "run", campaign), lambda c: c.status().candidates == 20)
    coordinator.close()
    assert "of search are left" in said()
    session.ask_to_stop(tmp_path / "c.yml", root=tmp_path / "run")
    coordinator = worked(open_simulated(tmp_path / "run", campaign, resume=True), in_phase("selection"))
    coordinator.close()
    assert "the search of the run that is there is over" in said()


# ---------------------------------------------------------------------------------------------------------------- forks


def forked(coordinator: Coordinator, folder: Path, *, at: int | None, **changes: Any) -> Coordinator:
    """A fork of a closed run in `folder`, opened."""
    old, campaign = Store(coordinator.run.store._engine.url.render_as_string()), small(name="fork", **changes)
    old.find("simulated")
    folder.mkdir(exist_ok=True)
    new = Store(store_url(None, default=folder / "campaign.sqlite"))
    fork(old, campaign, new, at=at, now=5.0)
    old.close()
    new.close()
    return open_simulated(folder, campaign, resume=True)


@pytest.mark.parametrize("at", [None, 20, 5])
def test_a_fork_without_changes_repeats_what_its_origin_does(at: int | None, tmp_path: Path) -> None:
    whole = open_simulated(tmp_path / "whole", small())
    run_inline(whole, SimulatedEvaluator())
    origin = worked(open_simulated(tmp_path / "a", small()), lambda c: c.status().candidates == 30)
    origin.close()
    evaluator = SimulatedEvaluator()
    branch = forked(origin, tmp_path / "b", at=at)
    verdict = run_inline(branch, evaluator)
    assert decided(branch) == decided(whole)
    assert verdict == whole.verdict()
    kept = 28 if at is None else at
    known = {row["recipe_hash"] for row in origin.run.store.rows(schema.CANDIDATES) if row["number"] <= kept}
    hashes = [row["recipe_hash"] for row in branch.run.store.rows(schema.CANDIDATES)]
    assert not {hashes[number] for number, item in evaluator.seen if item.split("_")[1].startswith("search")} & known


def test_a_fork_may_go_on_with_another_sampler_but_not_with_other_items(tmp_path: Path) -> None:
    origin = worked(open_simulated(tmp_path / "a", small()), lambda c: c.status().candidates == 25)
    origin.close()
    branch = forked(origin, tmp_path / "b", at=None, budget={"items": 700})
    assert branch.status().candidates >= 24
    only = (
        r"a fork may differ from its origin in sampler, .* only; campaign 'simulated' has others: seed: 1 then, 9 now"
    )
    with pytest.raises(InputsChanged, match=only):
        forked(origin, tmp_path / "c", at=None, seed=9)
    with pytest.raises(CampaignError, match=r"--at: got 99, a candidate of the search expected, 0 to 24"):
        forked(origin, tmp_path / "d", at=99)
    with pytest.raises(OutputExists, match="holds a campaign 'fork' already"):
        fork(found(origin), small(name="fork"), Store(f"sqlite:///{tmp_path}/b/campaign.sqlite"), at=None, now=1.0)


def found(coordinator: Coordinator) -> Store:
    store = Store(coordinator.run.store._engine.url.render_as_string())
    store.find("simulated")
    return store


@pytest.mark.parametrize(
    ("at", "changes", "said"),
    [
        (99, {}, "--at: got 99"),
        (5, {"sampler": "tpe"}, r"c\.yml: sampler: tpe searches one stage"),
        (5, {"budget": {"items": 20}}, r"c\.yml: budget\.items: got 20, at least"),
    ],
)
def test_a_refused_fork_leaves_nothing_and_the_mended_file_is_forked_under_that_name(
    at: int, changes: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.starting.check_models", lambda campaign, plans: make_space(campaign, layers=LAYERS))
    monkeypatch.setattr("search.starting.refuse_speechless", lambda campaign, plans: None)
    monkeypatch.setattr("search.starting.refuse_unmade", lambda campaign, plans: None)
    worked(open_simulated(tmp_path / "a", small()), lambda c: c.status().candidates == 20).close()
    path, branch = tmp_path / "c.yml", tmp_path / "branch"
    path.write_text(yaml.safe_dump(campaign_to_dict(small(**changes))))
    with pytest.raises(CampaignError, match=said):
        fork_campaign(path, "branch", at=at, root=tmp_path / "a", new_root=branch)
    assert not branch.exists()
    path.write_text(yaml.safe_dump(campaign_to_dict(small())))
    assert fork_campaign(path, "branch", at=5, root=tmp_path / "a", new_root=branch) == (branch / "campaign.yml", 6)


def test_functions_beside_the_campaign_file_are_found_by_the_runs_directory_and_by_a_fork(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.starting.check_models", lambda campaign, plans: make_space(campaign, layers=LAYERS))
    monkeypatch.setattr("search.starting.refuse_speechless", lambda campaign, plans: None)
    monkeypatch.setattr("search.starting.refuse_unmade", lambda campaign, plans: None)
    home, branch = tmp_path / "home", tmp_path / "elsewhere" / "branch"
    (home / "likely").mkdir(parents=True)
    (home / "likely" / "of_answers.py").write_text("def f(model, tokenizer, rows):\n    return [1.0 for row in rows]\n")
    own = {"metric": "likely.of_answers:f", "search": "a.jsonl", "selection": "b.jsonl", "holdout": "c.jsonl"}
    tasks = [{"name": "letters", **own}, *campaign_data()["tasks"][1:]]
    file = home / "c.yml"
    file.write_text(yaml.safe_dump(campaign_to_dict(small(tasks=tasks))))
    worked(open_simulated(tmp_path / "a", load_campaign(file)), lambda c: c.status().candidates == 20).close()
    noted = {"base": {"config.json": "a digest"}}
    remember(load_campaign(file), RunDirectory(tmp_path / "a"), models=noted)
    forked_file, _ = fork_campaign(file, "branch", at=5, root=tmp_path / "a", new_root=branch)
    assert models_noted(RunDirectory(branch)) == noted

    def told(place: Path, root: Path | None) -> Campaign:
        sys.modules.pop("likely.of_answers", None)  # as in another process
        sys.modules.pop("likely", None)
        monkeypatch.chdir(branch)
        campaign = session.find_run(place, root)[0].campaign
        refuse_missing_functions(campaign)
        return campaign

    told(tmp_path / "a", None)
    told(file, tmp_path / "a")
    told(branch, None)
    told(forked_file, branch)
    refuse_missing_functions(session.load_run(forked_file, root=branch, resume=True, allow_public_test_sets=False)[0])
    shutil.move(home, tmp_path / "moved")
    told(tmp_path / "moved" / "c.yml", tmp_path / "a")
    with pytest.raises(CampaignError) as missing:
        told(tmp_path / "a", None)
    assert re.fullmatch(
        rf".*task 'letters', metric: cannot import 'likely.of_answers': No module named 'likely' on Python's path and "
        rf"in {home}\. Put 'likely' there, or say where it is: PYTHONPATH=FOLDER before the command\.",
        missing.value.message,
    )


def test_a_fork_that_is_cut_off_while_it_copies_leaves_no_campaign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = worked(open_simulated(tmp_path / "a", small()), lambda c: c.status().candidates == 25)
    origin.close()
    add = Transaction.add

    def cut_off(transaction: Transaction, table: Table, rows: Sequence[Row]) -> None:
        if table is schema.LEASES:
            raise OSError("No space left on device")
        add(transaction, table, rows)

    with monkeypatch.context() as patched:
        patched.setattr(Transaction, "add", cut_off)
        with pytest.raises(OSError, match="No space left"):
            forked(origin, tmp_path / "b", at=20)
    assert Store(f"sqlite:///{tmp_path}/b/campaign.sqlite").find("fork") is None
    assert forked(origin, tmp_path / "b", at=20).status().candidates >= 21


def test_a_search_whose_hours_are_spent_at_once_says_so(tmp_path: Path) -> None:
    clock = Clock()
    coordinator = open_simulated(tmp_path, small(budget={"hours": 0.001}), now=clock)
    for _ in range(2):
        work_once(coordinator, SimulatedEvaluator(), worker="w")
    clock.time += 60
    with pytest.raises(EvaluationError, match=r"the budget of 0\.001 hours is spent, before any candidate"):
        run_inline(coordinator, SimulatedEvaluator())


@pytest.mark.parametrize("there", ["no folder", "an empty store", "a store of another campaign"])
def test_to_resume_where_there_is_no_run_is_an_error_and_writes_nothing(there: str, tmp_path: Path) -> None:
    path, root = tmp_path / "c.yml", tmp_path / "run"
    path.write_text(yaml.safe_dump(campaign_to_dict(small())))
    if there == "an empty store":
        root.mkdir()
        (root / "campaign.sqlite").touch()
    if there == "a store of another campaign":
        open_simulated(root, small(name="other")).close()
    before = sorted(tmp_path.rglob("*"))
    ask = functools.partial(check_resume, path, run_dir=root)
    with pytest.raises(InputError, match=r"--resume: .* holds no run of campaign 'simulated'\. .*--resume --or-start"):
        ask(resume=True, or_start=False)
    ask(resume=True, or_start=True)
    ask(resume=False, or_start=False)
    with pytest.raises(InputError, match=r"--or-start: .* give --resume too"):
        ask(resume=False, or_start=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_once_the_holdout_was_opened_there_is_no_fork(tmp_path: Path) -> None:
    origin = open_simulated(tmp_path / "a", small())
    run_inline(origin, SimulatedEvaluator())
    with pytest.raises(CampaignError, match="has opened its holdout"):
        forked(origin, tmp_path / "b", at=10)
