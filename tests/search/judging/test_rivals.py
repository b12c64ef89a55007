"""Who is compared with whom: one window, nested windows, and nobody who is out of bounds."""

from __future__ import annotations

from search import campaign as machine
from search.campaign import Cohort, Proposed, Rules, Scored, StageRule, State
from search.judging.objectives import ObjectiveEntry, make_goals
from search.judging.rivals import nobody_beats, outgrown, rivals, superseded

RULES = Rules(kinds=(), sobol=2, stages=(StageRule(2),), window={0: 10, 40: 30}, fresh=False)
GOALS = make_goals([ObjectiveEntry(of="score"), ObjectiveEntry(of="tokens")], [], task_of={}, weights={})
Row = tuple[str, float, tuple[float, ...], float]


def scored(rows: list[Row], rules: Rules = RULES) -> State:
    """The state after so many candidates (recipe, score, values, violation), one after the other."""
    state = machine.begin(rules)
    for number, (recipe_hash, score, values, violation) in enumerate(rows):
        ask = machine.plan_next(state)
        assert isinstance(ask, machine.Ask)
        state, _ = machine.advance(state, Proposed(number, 0, ask.origin, recipe_hash, "search", ask.cohort))
        state, _ = machine.advance(state, Scored(number, "search", score, values, violation))
    return state


def row(recipe_hash: str, score: float = 0.5, *values: float, violation: float = 0.0) -> Row:
    return (recipe_hash, score, values, violation)


def test_windows_that_grow_hold_the_smaller_ones_and_cost_what_is_new_in_them() -> None:
    state = scored([row("a"), row("b"), row("c"), row("d"), row("a"), row("e")])
    assert [(cohort.start, cohort.size) for cohort in state.cohorts] == [(0, 10), (0, 10), (0, 30)]
    assert state.spent == 4 * 10 + (30 - 10) + 30


def test_a_recipe_that_was_scored_again_counts_by_its_larger_window() -> None:
    rows = [row("a"), row("b"), row("c"), row("d"), row("a"), row("e")]
    assert outgrown(scored(rows)) == {0}
    assert outgrown(scored(rows[:4])) == set()
    fresh = Rules(kinds=(), sobol=2, stages=(StageRule(2),), window={0: 10, 40: 30})
    assert outgrown(scored(rows, fresh)) == set()
    assert scored(rows, fresh).spent == 4 * 10 + 2 * 30  # other items: nothing of it is known


def test_of_results_in_any_order_the_one_on_the_largest_window_that_begins_alike_counts() -> None:
    results = [(0, "a", (0, 15)), (1, "b", (0, 15)), (2, "a", (0, 60)), (3, "a", (0, 30)), (4, "b", (15, 60))]
    assert superseded(results) == {0, 3}
    assert superseded(results[::-1]) == {0, 3}
    assert superseded([(0, "a", (0, 15)), (1, "a", (0, 15))]) == set()
    assert superseded([(0, "a", (0, 15)), (1, "a", (0, 15)), (2, "a", (0, 30))]) == {0, 1}


def test_a_twin_on_the_same_window_costs_as_much_so_that_a_search_that_finds_nothing_new_ends() -> None:
    assert scored([row("a"), row("a")]).spent == 20
    assert outgrown(scored([row("a"), row("a")])) == set()


def test_who_is_out_of_bounds_is_nobodys_rival() -> None:
    state = scored([row("a", 0.9, violation=0.1), row("b", 0.4)])
    assert [member.number for member, _ in rivals(state, state.cohorts[0])] == [1]


def test_rivals_saw_the_same_window() -> None:
    state = scored([row("a"), row("b"), row("c"), row("d"), row("a")])
    assert [member.number for member, _ in rivals(state, state.cohorts[0])] == [0, 1, 2, 3]
    assert [member.number for member, _ in rivals(state, state.cohorts[2])] == [4]
    other = Cohort(3, 0, 2, 50, 30)
    assert rivals(state, other) == []


def test_whoever_is_dominated_is_so_by_the_front() -> None:
    state = scored([row("a", 0.9, 0.9, 30.0), row("b", 0.5, 0.5, 10.0), row("c", 0.8, 0.8, 40.0)])
    known = rivals(state, state.cohorts[0])
    assert nobody_beats(state, GOALS, known) == [0, 1]
    assert nobody_beats(state, GOALS, []) == []
