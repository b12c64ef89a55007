"""Candidates that are drawn before they are due are those that would be drawn when they are."""

from __future__ import annotations

from search.campaign import Ask
from search.drafts import Drafts, Entry
from search.events import Cohort
from search.live import Point


def ask(number: int, *, first: int = 0, capacity: int = 6) -> Ask:
    """Candidate `number` for the cohort that begins with `first`."""
    return Ask(number, 0, "sampler", Cohort(1, 0, capacity, 0, 15, tuple(range(first, number))))


def drafts(drawn: list[int], *, ahead: int) -> Drafts:
    def draw(ask: Ask) -> Entry:
        drawn.append(ask.number)
        return Entry(Point(0, {"x": float(ask.number)}, ""), {}, f"hash {ask.number}")

    return Drafts(draw, ahead=ahead)


def test_a_few_are_drawn_at_once_up_to_the_end_of_their_cohort_and_each_but_once() -> None:
    drawn: list[int] = []
    made = drafts(drawn, ahead=4)
    counts = []
    for number in range(6):
        assert made.take(ask(number), lessons=0).recipe_hash == f"hash {number}"
        counts.append(len(drawn))
    assert counts == [4, 4, 4, 4, 6, 6]
    assert drawn == [*range(6)]
    assert made.take(ask(6, first=6), lessons=0).point.params == {"x": 6.0}


def test_what_was_drawn_before_the_sampler_was_told_something_is_drawn_again() -> None:
    drawn: list[int] = []
    made = drafts(drawn, ahead=3)
    made.take(ask(0), lessons=0)
    made.take(ask(1), lessons=1)
    assert drawn == [0, 1, 2, 1, 2, 3]


def test_numbers_that_others_took_meanwhile_are_passed_over() -> None:
    drawn: list[int] = []
    made = drafts(drawn, ahead=3)
    made.take(ask(0), lessons=0)
    assert made.take(ask(2), lessons=0).recipe_hash == "hash 2"  # candidate 1 is a nominee of an earlier end
    assert made.take(ask(9, first=6), lessons=0).recipe_hash == "hash 9"
