"""What a campaign does next: a pure machine, (state, event) → (state, decisions). No clock, no IO, no random draw.

    search      baselines and Sobol points share the first window; then cohorts of a stage's population, each on another
                window (`fresh`), or each from the first item on, so that larger windows hold smaller ones. A full
                cohort with all its results is *told* to the sampler, in completion order. Asking never waits: whoever
                is free draws from the present distribution, filling the one open cohort.
    selection   the nominees (select.py) are scored on selection items; the best one is the winner
    holdout     winner and comparators, fixed before it opens, are scored on it once; who was lost is tried once more
    done        judged

The coordinator feeds events and asks `plan_next` when a worker is free and no work is queued. Replaying the same
events gives the same state, so a restart continues exactly where the store's rows end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from search.events import Cohort as Cohort  # the machine's vocabulary: `machine.Scored` says more than `Scored`
from search.events import Event as Event
from search.events import HoldoutOpened as HoldoutOpened
from search.events import Judged as Judged
from search.events import Lost as Lost
from search.events import LostTriedAgain as LostTriedAgain
from search.events import Nominated as Nominated
from search.events import Origin as Origin
from search.events import Proposed as Proposed
from search.events import Reopened as Reopened
from search.events import Resized as Resized
from search.events import Scored as Scored
from search.events import SearchEnded as SearchEnded
from search.events import SelectionOpened as SelectionOpened
from search.events import Stopped as Stopped
from search.ports import Phase, Split
from search.rules import Rules as Rules
from search.rules import StageRule as StageRule
from search.shelf import Shelf


@dataclass(frozen=True)
class Outcome:
    """A candidate on one split: open (neither), scored, or lost for good.

    `stopped`: scored on a part of its window only, because that part showed enough (stopping.py). `values` and
    `violation` belong to the campaign's objectives and constraints (objectives.py).
    """

    score: float | None = None
    cause: str | None = None
    stopped: bool = False
    values: tuple[float, ...] = ()
    violation: float = 0.0

    @property
    def open(self) -> bool:
        """Still to come."""
        return self.score is None and self.cause is None

    @property
    def complete(self) -> bool:
        """Scored on everything it was asked for."""
        return self.score is not None and not self.stopped


@dataclass(frozen=True)
class Candidate:
    number: int
    stage: int  # -1 for baselines
    origin: Origin
    cohort: int | None
    recipe_hash: str
    outcomes: Mapping[Split, Outcome]


@dataclass(frozen=True)
class State:
    rules: Rules
    phase: Phase = "search"
    candidates: Shelf[Candidate] = field(default_factory=Shelf)
    cohorts: tuple[Cohort, ...] = ()
    stage: int = 0
    told: tuple[int, ...] = ()  # candidates told so far, per stage
    populations: tuple[int, ...] = ()  # candidates of the next cohort, per stage: a sampler's restart doubles it
    spent: int = 0  # search items of all windows, less what was not scored of them
    ended: str | None = None  # why the search was ended before its budget
    winner: int | None = None
    entrants: tuple[tuple[int, str], ...] = ()  # (candidate, reason) on the holdout, the winner first
    tried_again: bool = False  # those of them who were lost


@dataclass(frozen=True)
class Tell:
    """Decision: this cohort is complete; tell it to its stage's sampler."""

    cohort: int


# ------------------------------------------------------------------------------------------------------- what is next


@dataclass(frozen=True)
class Ask:
    """Draw candidate `number` from the sampler of `stage` (or take baseline `number`), for this cohort."""

    number: int
    stage: int
    origin: Origin
    cohort: Cohort


@dataclass(frozen=True)
class Nominate:
    """The search is over: name the candidates for selection."""


@dataclass(frozen=True)
class OpenHoldout:
    entrants: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class TryAgain:
    """These entrants were lost on the holdout, for the first time."""

    numbers: tuple[int, ...]


@dataclass(frozen=True)
class Judge:
    """All entrants are scored on the holdout, or lost there."""


@dataclass(frozen=True)
class Idle:
    """Results are out; nothing to start before they are in."""


@dataclass(frozen=True)
class GiveUp:
    """Nothing works: whole cohorts are lost."""

    cause: str


Next = Ask | Nominate | OpenHoldout | TryAgain | Judge | Idle | GiveUp


def begin(rules: Rules) -> State:
    """The state before the first event."""
    return State(rules, told=(0,) * len(rules.stages), populations=tuple(stage.population for stage in rules.stages))


def plan_next(state: State) -> Next | None:
    """What a free worker should lead to; None once the campaign is done. Changes nothing."""
    if state.phase == "done":
        return None
    hopeless = _hopeless(state)
    if hopeless is not None:
        return GiveUp(hopeless)
    if state.phase == "search":
        cohort = _open_cohort(state)
        if cohort is not None:
            return _ask(state, cohort)
    if any(outcome.open for _, outcome in outcomes(state, state.phase)):
        return Idle()
    if state.phase == "search":
        return Nominate()
    if state.phase == "selection":
        return _choose(state)
    lost = lost_on(state, "holdout")
    return TryAgain(lost) if lost and not state.tried_again else Judge()


def advance(state: State, event: Event) -> tuple[State, tuple[Tell, ...]]:
    """The state after `event`, and which cohorts to tell because of it."""
    if isinstance(event, Scored):
        outcome = Outcome(score=event.score, values=event.values, violation=event.violation)
        return _with_outcome(state, event.number, split=event.split, outcome=outcome)
    if isinstance(event, Lost):
        return _with_outcome(state, event.number, split=event.split, outcome=Outcome(cause=event.cause))
    if isinstance(event, Stopped):
        return _with_stopped(state, event)
    return _moved(state, event), ()


def _moved(state: State, event: Event) -> State:
    """The state after an event that brings no result."""
    match event:
        case Proposed():
            return _with_candidate(state, event)
        case Nominated():
            return replace(_entered(state, {event.number}, split="selection"), phase="selection")
        case SelectionOpened():
            return replace(state, phase="selection")
        case HoldoutOpened():
            entered = _entered(state, {number for number, _ in event.entrants}, split="holdout")
            winner = event.entrants[0][0]
            return replace(entered, phase="holdout", entrants=event.entrants, winner=winner)
        case LostTriedAgain():
            kept = state.candidates
            for number in lost_on(state, "holdout"):
                held = {**kept[number].outcomes, "holdout": Outcome()}
                kept = kept.changed(number, replace(kept[number], outcomes=held))
            return replace(state, candidates=kept, tried_again=True)
        case Resized():
            sizes = state.populations
            resized = (*sizes[: event.stage], event.population, *sizes[event.stage + 1 :])
            return replace(state, populations=resized)
        case SearchEnded():
            return replace(state, ended=event.reason)
        case Reopened():
            return replace(state, phase="search", ended=None)
        case _:
            return replace(state, phase="done")


def outcomes(state: State, split: Split) -> Iterator[tuple[Candidate, Outcome]]:
    """Every candidate that was sent to `split`, with what came of it."""
    for candidate in state.candidates:
        if split in candidate.outcomes:
            yield candidate, candidate.outcomes[split]


def scored(state: State, split: Split) -> list[tuple[Candidate, float]]:
    """Candidates with a score on `split`."""
    return [(candidate, outcome.score) for candidate, outcome in outcomes(state, split) if outcome.score is not None]


def lost_on(state: State, split: Split) -> tuple[int, ...]:
    """Candidates that could not be scored on `split`."""
    return tuple(candidate.number for candidate, outcome in outcomes(state, split) if outcome.cause is not None)


# ------------------------------------------------------------------------------------------------------------ search


def _open_cohort(state: State) -> Cohort | None:
    """The cohort that the next candidate joins; None when the search is over."""
    if state.ended is not None and state.cohorts:
        return None
    if state.cohorts and not state.cohorts[-1].full:
        return state.cohorts[-1]  # always filled before another opens, so that no result stays untold
    rules, number = state.rules, len(state.cohorts)
    if number == 0:
        return Cohort(0, 0, len(rules.kinds) + rules.sobol, 0, rules.window_size(0))
    if state.stage >= len(rules.stages):
        return None
    size = rules.window_size(state.spent)
    capacity = state.populations[state.stage]
    start = rules.start_after(state.cohorts[-1].start, state.cohorts[-1].size)
    if rules.budget_items is not None and state.spent + capacity * rules.items(size) > rules.budget_items:
        return None
    if rules.budget_candidates is not None and len(state.candidates) + capacity > rules.budget_candidates:
        return None
    return Cohort(number, state.stage, capacity, start, size)


def _ask(state: State, cohort: Cohort) -> Ask:
    number = len(state.candidates)
    if number < len(state.rules.kinds):
        return Ask(number, -1, "baseline", cohort)
    return Ask(number, cohort.stage, "sobol" if cohort.number == 0 else "sampler", cohort)


def _with_candidate(state: State, event: Proposed) -> State:
    cohort = event.cohort
    candidate = Candidate(
        number=event.number,
        stage=event.stage,
        origin=event.origin,
        cohort=None if cohort is None else cohort.number,
        recipe_hash=event.recipe_hash,
        outcomes={event.split: Outcome()},
    )
    state = replace(state, candidates=state.candidates.plus(candidate))
    if cohort is None:
        return replace(state, phase=event.split)
    joined = replace(cohort, members=(*cohort.members, event.number))
    cohorts = (*state.cohorts[: cohort.number], joined)
    items = state.rules.items(cohort.size) - _met(state, event.recipe_hash, cohort)
    return replace(state, cohorts=cohorts, spent=state.spent + items)


def _met(state: State, recipe_hash: str, cohort: Cohort) -> int:
    """How much of this window the recipe was scored on already, in a smaller one that it holds."""
    if state.rules.fresh:
        return 0
    smaller = [other for other in state.cohorts if other.size < cohort.size]
    twins = (
        (other.size, state.candidates[number].outcomes["search"])
        for other in smaller
        for number in other.members
        if state.candidates[number].recipe_hash == recipe_hash
    )
    return max((state.rules.items(size) for size, outcome in twins if outcome.complete), default=0)


def _with_outcome(state: State, number: int, *, split: Split, outcome: Outcome) -> tuple[State, tuple[Tell, ...]]:
    before = state.candidates[number]
    if not before.outcomes[split].open:
        return state, ()
    after = replace(before, outcomes={**before.outcomes, split: outcome})
    state = replace(state, candidates=state.candidates.changed(number, after))
    if split != "search" or before.cohort is None:
        return state, ()
    cohort = state.cohorts[before.cohort]
    waiting = any(state.candidates[member].outcomes["search"].open for member in cohort.members)
    if waiting or not cohort.full:
        return state, ()
    return _with_told(state, cohort), (Tell(cohort.number),)


def _with_stopped(state: State, event: Stopped) -> tuple[State, tuple[Tell, ...]]:
    """A candidate that was stopped early; the items it was not scored on go back to the budget."""
    before = state.candidates[event.number]
    if before.cohort is not None and before.outcomes["search"].open:
        unspent = max(0, state.rules.items(state.cohorts[before.cohort].size) - event.items)
        state = replace(state, spent=state.spent - unspent)
    outcome = Outcome(score=event.score, stopped=True, values=event.values, violation=event.violation)
    return _with_outcome(state, event.number, split="search", outcome=outcome)


def _with_told(state: State, cohort: Cohort) -> State:
    """Count the cohort; the stage ends when its quota is told. Results that come later still go to their own stage."""
    cohorts = (*state.cohorts[: cohort.number], replace(cohort, told=True), *state.cohorts[cohort.number + 1 :])
    points = sum(state.candidates[member].origin != "baseline" for member in cohort.members)
    told = tuple(count + (points if stage == cohort.stage else 0) for stage, count in enumerate(state.told))
    stage = state.stage
    quota = state.rules.stages[stage].quota if stage < len(state.rules.stages) else None
    if quota is not None and told[stage] >= quota:
        stage += 1
    return replace(state, cohorts=cohorts, told=told, stage=stage)


def _hopeless(state: State) -> str | None:
    """The first cause, where nothing of the first, or the last two, cohorts could be scored and the search goes on."""
    told = [cohort for cohort in state.cohorts if cohort.told]
    recent = told[:1] if len(told) == 1 else told[-2:]
    causes = (state.candidates[member].outcomes["search"].cause for cohort in recent for member in cohort.members)
    first = next(causes, None)
    if state.phase == "search" and state.ended is None and first is not None and None not in causes:
        return first
    if state.phase == "selection":
        nominees = [outcome.cause for entry, outcome in outcomes(state, "selection") if entry.origin != "baseline"]
        return nominees[0] if nominees and all(nominees) else None
    return None


# ------------------------------------------------------------------------------------------- selection and holdout


def _choose(state: State) -> OpenHoldout:
    """Winner by selection score (ties: the lower number), and the comparators, all fixed here.

    Base and parents may be on selection too, for constraints to be compared with; they are no contenders.
    """
    return OpenHoldout(entrants_for(state, contenders(state)[0].number))


def contenders(state: State) -> list[Candidate]:
    """Who may win: the nominees with a selection score, the best first (ties: the lower number)."""
    found = [(candidate, score) for candidate, score in scored(state, "selection") if candidate.origin != "baseline"]
    return [candidate for candidate, _ in sorted(found, key=lambda pair: (-pair[1], pair[0].number))]


def entrants_for(state: State, number: int) -> tuple[tuple[int, str], ...]:
    """The winner, and the comparators that it has to meet on the holdout.

    Base and parents that could not be scored in the search are among them: whoever is lost there again is not beaten. A
    baseline that could not is a merge that nobody can use.
    """
    winner, ranked = state.candidates[number], contenders(state)
    entrants = [(winner.number, "winner")]
    groups = {"base": "base", "parent": "parents", "baseline": "baselines"}
    for candidate, outcome in outcomes(state, "search"):
        kind = state.rules.kinds[candidate.number] if candidate.origin == "baseline" else ""
        if groups.get(kind) in state.rules.comparators and (outcome.score is not None or kind != "baseline"):
            entrants.append((candidate.number, kind))
    best_global = next((candidate for candidate in ranked if candidate.stage == 0), None)
    wanted = "best_global" in state.rules.comparators and len(state.rules.stages) > 1
    # a winner that is the best global candidate itself makes no claim to beat it
    if wanted and best_global is not None and best_global.recipe_hash != winner.recipe_hash:
        entrants.append((best_global.number, "best global"))
    return tuple(entrants)


def _entered(state: State, numbers: set[int], *, split: Split) -> State:
    """The state with these candidates open on `split`; those that have been there keep what came of it."""
    candidates = state.candidates
    for number in numbers:
        before = candidates[number]
        candidates = candidates.changed(number, replace(before, outcomes={split: Outcome(), **before.outcomes}))
    return replace(state, candidates=candidates)


def stage_of(state: State) -> int:
    """The stage that is being searched, the last one when the search is over."""
    return min(state.stage, len(state.rules.stages) - 1)
