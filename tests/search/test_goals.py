"""Whole campaigns with objectives and constraints, on simulated items: front, winner, holdout, restarts."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from simulated import SimulatedEvaluator, campaign_data, make_campaign, open_simulated, resolved_weights

from engine.errors import CampaignError
from search import campaign as machine
from search.coordinator import Coordinator
from search.inline import run_inline, work_once
from search.judging.verdicts import verdict_from_dict, verdict_to_dict
from search.ports import BlockResult, Failed, Verdict, Work
from search.report.front import front_figures
from search.report.goals import bounds_table
from search.report.tables import tables
from search.results import Results, read_results
from search.store import schema

TOKENS = {"of": "measure:tokens", "direction": "minimize"}
TOKENS_BOUND = {"of": "measure:tokens", "at_most": 18.0}


class Counting(SimulatedEvaluator):
    """Also counts tokens: the larger the weights, the longer the answers."""

    def evaluate(self, work: Work) -> BlockResult | Failed:
        result = super().evaluate(work)
        assert isinstance(result, BlockResult)
        tokens = 5.0 + float(resolved_weights(work.recipe).sum())
        return BlockResult(
            result.lease,
            result.recipe_hash,
            result.weights_digest,
            result.scores,
            {"tokens": {item: tokens + len(item) % 3 for item in work.items}},
        )


def campaign(**changes: Any) -> Any:
    stages = [{"name": "global", "population": 6, "sobol": 4}]
    data = {"space": {**campaign_data()["space"], "stages": stages}, "items": {"window": {0: 60}}}
    return make_campaign(**(data | {"budget": {"candidates": 41}} | changes))


def judged(folder: Path, **changes: Any) -> tuple[Coordinator, Verdict]:
    coordinator = open_simulated(folder, campaign(**changes))
    run_inline(coordinator, Counting())
    verdict = coordinator.verdict()
    assert verdict is not None
    return coordinator, verdict


class Partly(Counting):
    """Counts tokens of one task only; of some recipes' none at all."""

    def evaluate(self, work: Work) -> BlockResult | Failed:
        result = super().evaluate(work)
        assert isinstance(result, BlockResult)
        silent = work.split == "search" and work.candidate % 3 == 0
        tokens = {i: n for i, n in result.measures["tokens"].items() if i.startswith("letters") and not silent}
        return replace(result, measures={"tokens": tokens})


def test_a_measure_of_some_tasks_counts_there_and_of_no_item_at_all_loses_the_candidate(tmp_path: Path) -> None:
    goals: dict[str, Any] = {"objectives": [{"of": "score"}, TOKENS], "constraints": [TOKENS_BOUND]}
    coordinator = open_simulated(tmp_path, campaign(budget={"candidates": 25}, **goals))
    run_inline(coordinator, Partly())
    verdict = coordinator.verdict()
    assert verdict is not None
    assert [bound.kept for bound in verdict.bounds] == [bound.value <= 18 for bound in verdict.bounds] != []
    assert all(5 <= member.values[1] <= 20 for member in verdict.front)
    lost = coordinator.run.store.rows(schema.ASSESSMENTS, state="lost")
    assert {row["cause"] for row in lost} == {
        "none of its items has a value of 'tokens', an objective: report it for every item"
    }
    assert {row["number"] % 3 for row in lost} == {0}
    json.dumps(verdict_to_dict(verdict), allow_nan=False)


class Silent(Counting):
    """Counts no tokens on the holdout: the measure is there, and empty."""

    def evaluate(self, work: Work) -> BlockResult | Failed:
        result = super().evaluate(work)
        assert isinstance(result, BlockResult)
        return replace(result, measures={"tokens": {}}) if work.split == "holdout" else result


@pytest.mark.parametrize("relative", [{}, {"relative_to": "base"}])
def test_a_bound_of_which_no_holdout_item_tells_is_unknown_and_no_number(
    relative: dict[str, str], tmp_path: Path
) -> None:
    coordinator = open_simulated(tmp_path, campaign(budget={"candidates": 25}, constraints=[TOKENS_BOUND | relative]))
    run_inline(coordinator, Silent())
    verdict = coordinator.verdict()
    assert verdict is not None
    (bound,) = verdict.bounds
    assert (bound.value, bound.margin, bound.interval, bound.kept) == (None, None, None, False)
    assert verdict.sentence.endswith(f" keeps {bound.title} is not known: no item tells")
    told = json.loads(json.dumps(verdict_to_dict(verdict), allow_nan=False))
    assert verdict_from_dict(told) == verdict
    assert bounds_table(verdict).rows == ((bound.title, "–", "–", "–", "–", "unknown"),)


class Losing(Counting):
    """Loses the base on the holdout."""

    def evaluate(self, work: Work) -> BlockResult | Failed:
        if work.split == "holdout" and work.candidate == 0:
            return Failed(work.lease, "out of memory", retryable=False)
        return super().evaluate(work)


def test_a_bound_whose_reference_is_lost_on_the_holdout_is_not_kept_but_unknown(tmp_path: Path) -> None:
    bounds = [{"of": "score", "relative_to": "base"}, TOKENS_BOUND]
    changes: dict[str, Any] = {"constraints": bounds, "comparators": ["parents"], "budget": {"candidates": 25}}
    coordinator = open_simulated(tmp_path / "lost", campaign(**changes))
    run_inline(coordinator, Losing())
    verdict = coordinator.verdict()
    assert verdict is not None
    assert [bound.title for bound in verdict.bounds] == ["tokens at most 18"]
    assert verdict.unscored == ("base",)
    assert not verdict.significant
    assert "is not shown to beat base" in verdict.sentence
    assert "whether score at least base -0.02 is not known: its reference was lost there" in verdict.notes


def stored(folder: Path) -> Results:
    return read_results(f"sqlite:///{folder}/campaign.sqlite", name="simulated")


def test_two_objectives_give_a_front_whose_members_meet_the_holdout_beside_the_winner(tmp_path: Path) -> None:
    coordinator, verdict = judged(tmp_path, objectives=[{"of": "score"}, TOKENS])
    assert verdict.objectives == ("score", "tokens")
    ledger = {row["candidate"]: row["reason"] for row in coordinator.run.store.rows(schema.LEDGER)}
    members = [number for number, reason in ledger.items() if reason in ("winner", "front")]
    assert verdict.winner == verdict.front[0].number
    assert {member.number for member in verdict.front} == set(members)
    assert 2 <= len(members) <= 8
    values = [member.values for member in verdict.front]
    assert max(score for score, _ in values) - min(score for score, _ in values) > 0.05
    assert sorted(values, key=lambda pair: pair[0]) != sorted(values, key=lambda pair: -pair[1])
    assert {comparison.comparator for comparison in verdict.comparisons}.isdisjoint(members)
    assert verdict_from_dict(verdict_to_dict(verdict)) == verdict
    coordinator.close()
    rows = [row for row in stored(tmp_path).candidates if row.stage and row.estimate is not None]
    by_estimate = [row.search_score for row in sorted(rows, key=lambda row: -(row.estimate or 0.0))]
    assert by_estimate == sorted(by_estimate, reverse=True)  # all saw the same items: nothing to correct
    drawn = front_figures(stored(tmp_path))
    assert [figure.title for figure in drawn] == ["Front: score against tokens"]
    assert drawn[0].data[1]["x"] == [member.values[0] for member in verdict.front]
    front = next(table for table in tables(stored(tmp_path)) if table.title == "Front")
    assert front.columns == ("model", "score", "tokens", "chance")
    assert "published" not in front.note  # it is only if it wins
    assert [row[0] for row in front.rows] == [member.label for member in verdict.front]
    study = optuna.load_study(study_name="simulated", storage=f"sqlite:///{tmp_path}/optuna.sqlite")
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert study.metric_names == ["score", "tokens"]
    rows = {row["number"]: row["objectives"] for row in coordinator.run.store.rows(schema.ASSESSMENTS, split="search")}
    assert sorted(trial.values for trial in study.get_trials()) == sorted(rows.values())


GROWS = {"items": {"window": {0: 15, 600: 60, 1500: 96}}, "budget": {"items": 3600}}


def test_windows_grow_and_who_has_lasted_is_scored_on_what_is_new_before_anything_else(tmp_path: Path) -> None:
    options = {"population": 8}
    coordinator = open_simulated(
        tmp_path, campaign(objectives=[{"of": "score"}, TOKENS], sampler_options=options, **GROWS)
    )
    evaluator = Counting()
    while coordinator.status().phase == "search":
        assert work_once(coordinator, evaluator, worker="w") is None
    state, points = coordinator.live.state, coordinator.live.points
    sizes = [cohort.size for cohort in state.cohorts]
    assert sorted(set(sizes)) == [15, 60, 96]
    search = {row["item"] for row in coordinator.run.store.rows(schema.ITEMS, split="search")}
    scores = coordinator.run.store.rows(schema.ITEM_SCORES, measure="score")
    assert state.spent == sum(row["item"] in search for row in scores)
    run = coordinator.run
    known = [run.space.point_of(baseline.recipe, baseline.weights) for baseline in run.baselines]
    for size in (60, 96):
        asked = [number for cohort in state.cohorts if cohort.size == size for number in cohort.members]
        before = [*known, *(points[number].params for number in range(asked[0]))]
        again = [points[number].params in before for number in asked]
        assert again[:8] == [True] * 8  # the archive, member by member
        assert sum(again) < len(again)
    live = coordinator.live.estimates()
    assert {row.number: row.estimate for row in stored(tmp_path).candidates if row.estimate is not None} == live
    whole = [
        c.number for c, o in machine.outcomes(state, "search") if o.complete and coordinator.live.window(c.number) == 96
    ]
    promoted = [c.number for c, _ in machine.outcomes(state, "selection") if "search" in c.outcomes and c.stage == 0]
    assert len(whole) >= 8
    assert len({*promoted} - {*whole}) <= 3 < len({*promoted} & {*whole})  # but for the best three by estimate
    coordinator.close()


def test_a_campaign_with_objectives_goes_on_after_a_kill_as_if_nothing_had_happened(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"objectives": [{"of": "score"}, {"of": "worst"}], "constraints": [{**TOKENS_BOUND}]}
    changes |= {"items": {"window": {0: 15, 330: 60}}, "sampler_options": {"population": 6}}
    whole, verdict = judged(tmp_path / "whole", **changes)
    expected = whole.run.store.rows(schema.CANDIDATES)
    whole.close()
    resume, steps = False, 0
    while True:
        coordinator = open_simulated(tmp_path / "killed", campaign(**changes), resume=resume)
        evaluator, resume = Counting(), True
        for step in range(41):  # then the process is gone: no close, and a result that nobody handed in
            work = coordinator.next_work("w")
            if not isinstance(work, Work):
                break
            result = evaluator.evaluate(work)
            steps += 1
            if step < 40:
                coordinator.submit("w", result)
        if coordinator.verdict() is not None:
            break
    assert steps > 40
    assert coordinator.run.store.rows(schema.CANDIDATES) == expected
    assert coordinator.verdict() == verdict
    coordinator.close()


def test_a_constraint_keeps_the_winner_within_its_bound_and_costs_it_some_score(tmp_path: Path) -> None:
    free, unbound = judged(tmp_path / "free", sampler="cma", items={"window": {0: 60}})
    free.close()
    bound, held = judged(tmp_path / "bound", sampler="cma", items={"window": {0: 60}}, constraints=[TOKENS_BOUND])
    bound.close()
    assert unbound.bounds == ()
    study = optuna.load_study(study_name="simulated", storage=f"sqlite:///{tmp_path}/bound/optuna.sqlite")
    infeasible = [trial for trial in study.get_trials() if max(trial.constraints.values()) > 0]
    assert 0 < len(infeasible) < len(study.get_trials())
    assert [(entry.title, entry.kept) for entry in held.bounds] == [("tokens at most 18", True)]
    assert held.score < unbound.score


def test_in_the_search_only_what_exceeds_a_standard_error_breaks_a_bound_and_on_selection_everything(
    tmp_path: Path,
) -> None:
    bound = {"of": "task:letters", "at_least": 0.55}
    budget, window = {"candidates": 25}, {"window": {0: 15}, "early_stopping": False}
    coordinator, _ = judged(tmp_path, constraints=[bound], budget=budget, items=window)
    pools, found = coordinator.run.pools, read_results(f"sqlite:///{tmp_path / 'campaign.sqlite'}", name="simulated")
    seen = set()
    for row in coordinator.run.store.rows(schema.ASSESSMENTS):
        first_window = found.candidate(row["number"]).cohort == 0
        if row["split"] == "holdout" or (row["split"] == "search" and not first_window):
            continue
        wanted = pools.window(0, 15) if row["split"] == "search" else pools.all("selection")
        mine = found.item_scores.of_candidate(row["number"]).on(row["split"])
        letters = [entry.score for entry in mine if entry.item in wanted and entry.task == "letters"]
        error = statistics.stdev(letters) / len(letters) ** 0.5 if row["split"] == "search" else 0.0
        short = 0.55 - statistics.mean(letters)
        assert (row["violation"] or 0.0) == pytest.approx(max(0.0, short - error)), row["number"]
        seen.add((row["split"], short > 0, short > error))
    assert ("search", True, False) in seen  # below the bound, and within the noise


def test_the_front_is_feasible_on_selection_and_the_holdout_says_of_every_member_what_it_breaks(tmp_path: Path) -> None:
    retention = {"of": "tasks", "relative_to": "best_parent", "at_least": -0.3}
    cheap = {"of": "tokens", "at_most": 14.0}
    coordinator, verdict = judged(tmp_path, objectives=[{"of": "score"}, TOKENS], constraints=[retention, cheap])
    rows = {row["number"]: row for row in coordinator.run.store.rows(schema.ASSESSMENTS, split="selection")}
    chosen = [rows[member.number] for member in verdict.front]
    least = min(row["violation"] for number, row in rows.items() if coordinator.live.points[number].stage >= 0)
    assert {row["violation"] for row in chosen} == {least}
    for member in verdict.front:
        assert ("tokens at most 14" in member.broken) == (member.values[1] > 14.0)
    winner = verdict.front[0]
    assert winner.broken == tuple(bound.title for bound in verdict.bounds if not bound.kept)
    assert not (verdict.significant and winner.broken)
    assert verdict_from_dict(json.loads(json.dumps(verdict_to_dict(verdict)))) == verdict
    told = next(table for table in tables(stored(tmp_path)) if table.title == "Front")
    assert told.columns[-1] == "constraints broken"
    assert [row[-1] for row in told.rows] == [", ".join(member.broken) or "none" for member in verdict.front]
    coordinator.close()


def test_a_winner_that_breaks_a_constraint_on_the_holdout_is_none(tmp_path: Path) -> None:
    keep = [{"of": "task:letters", "at_least": 0.4, "relative_to": "best_parent"}]
    coordinator, verdict = judged(tmp_path, sampler="cma", constraints=keep, comparators=["base"])
    assert all(comparison.beaten for comparison in verdict.comparisons)
    assert verdict.bounds[0].reference == "parent letters"
    assert not verdict.significant
    assert verdict.sentence.endswith("does not keep letters at least best parent +0.4")
    told = next(table for table in tables(stored(tmp_path)) if table.title == "Constraints")
    assert told.rows[0][0] == "letters at least best parent +0.4"
    assert told.rows[0][-1] == "no"
    reasons = {row["reason"] for row in coordinator.run.store.rows(schema.LEDGER)}
    assert reasons == {"winner", "base", "reference"}
    coordinator.close()


def test_a_measure_of_which_only_scoring_tells_is_an_error_at_the_first_score(tmp_path: Path) -> None:
    coordinator = open_simulated(tmp_path, campaign(objectives=[{"of": "score"}, {**TOKENS, "of": "measure:token"}]))
    with pytest.raises(CampaignError, match="reports the measure 'token'; did you mean 'tokens'"):
        run_inline(coordinator, Counting())
    assert len(coordinator.run.store.rows(schema.CANDIDATES)) == 1
