"""What a coordinator does when the machine says so: propose, nominate, open the holdout, judge."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import chain, count

from engine.errors import EvaluationError
from search import campaign as machine
from search import choosing, ends
from search.desk import Desk
from search.drafts import AHEAD, Drafts, Entry
from search.judging.scores import RESAMPLES, Entrant, judge
from search.live import EVENT_KINDS, Point, winner_first
from search.ports import Verdict
from search.samplers.points import sobol_point
from search.select import Nominee, nominate
from search.space import Params
from search.store import schema
from search.store.store import Store, stored_config
from search.visits import day_of, visit_of

_OPEN_AGAIN = {"state": "open", "cause": None, "finished": None}
FEW_ITEMS = 20
"""Of a task's holdout. A bootstrap interval of n items is too narrow by sqrt((n − 1) / n), and more near 0 and 1."""


def drafts_of(desk: Desk) -> Drafts:
    """Several at once where what a sampler proposes hangs on the number alone until it is told another cohort."""
    return Drafts(partial(draw, desk), ahead=AHEAD if desk.live.sampler.by_cohort else 1)


def propose(desk: Desk, ask: machine.Ask, drafts: Drafts) -> None:
    """Enter the next candidate of the search: a baseline, a Sobol point, or a draw of the sampler."""
    entry = draw(desk, ask) if ask.origin == "baseline" else drafts.take(ask, lessons=desk.live.lessons)
    desk.enter(machine.Proposed(ask.number, ask.stage, ask.origin, "", "search", ask.cohort), entry)


def draw(desk: Desk, ask: machine.Ask) -> Entry:
    """What is asked for; nothing is changed by it."""
    run, number = desk.run, ask.number
    if ask.origin == "baseline":
        baseline = run.baselines[number]
        return desk.entry(number, Point(-1, {}, baseline.label), baseline.recipe)
    if ask.origin == "sobol":
        params: Params = sobol_point(run.space, ask.stage, number - len(run.baselines), seed=run.campaign.seed)
    else:
        params = desk.live.propose(ask.stage, number, ask.cohort)
    point = Point(ask.stage, params, f"{run.space.stages[ask.stage].name} {number}")
    return desk.entry(number, point, run.space.recipe(ask.stage, params))


def nominate_candidates(desk: Desk) -> None:
    """Send the nominees to selection; means and soups enter as new candidates.

    Base and parents go with them where constraints or objectives are measured by them.
    """
    before = desk.live.state.candidates
    labels = {point.label for point in desk.live.points}
    for nominee in (*_references(desk), *_nominees(desk)):
        if nominee.number is not None and "selection" in before[nominee.number].outcomes:
            continue  # it was there before the search was reopened
        if nominee.number is not None:
            desk.ask_row(nominee.number, "selection", sequence=desk.next_sequence())
            desk.live.apply(machine.Nominated(nominee.number))
            desk.start(nominee.number, "selection")
            continue
        event = machine.Proposed(len(desk.live.state.candidates), nominee.stage, nominee.origin, "", "selection")
        point = Point(nominee.stage, nominee.params, _free_label(nominee.label, labels))
        desk.enter(event, desk.entry(event.number, point, desk.run.space.recipe(nominee.stage, nominee.params)))
    if desk.live.state.phase == "search":
        desk.note(machine.SelectionOpened())


def given_up(desk: Desk, cause: str) -> EvaluationError:
    """Nothing works any more; what can be done with the points that were scored before, if there are such."""
    told, live = f"campaign {desk.run.campaign.name!r}: no candidate can be scored: {cause}", desk.live
    if live.state.phase == "search" and any(live.points[number].params for number in live.estimates()):
        hint = "`mergefleet stop` and --resume go on to selection with what was scored before."
        told = f"{told.rstrip('.')}. {hint}"
    return EvaluationError(told)


def _free_label(label: str, taken: set[str]) -> str:
    """The label, with a number where a nominee of an earlier end of the search has it."""
    names = chain([label], (f"{label} ({again})" for again in count(2)))
    free = next(name for name in names if name not in taken)
    taken.add(free)
    return free


def _nominees(desk: Desk) -> Sequence[Nominee]:
    searched = choosing.searched(desk)
    ended = desk.live.state.ended
    if not searched and ended is not None:
        raise EvaluationError(
            f"campaign {desk.run.campaign.name!r}: {ended}, before any candidate of the search was scored: raise "
            "`budget` and continue with --resume."
        )
    if not searched:
        raise EvaluationError(
            f"campaign {desk.run.campaign.name!r}: no candidate of the search could be scored{_usual_cause(desk)}"
        )
    means = desk.live.sampler.means()
    return nominate(desk.run.space, searched, means=means, rules=desk.run.campaign.selection)


def _usual_cause(desk: Desk) -> str:
    """What most of its candidates were lost by, of equally many the first; how a sentence goes on."""
    outcomes = machine.outcomes(desk.live.state, "search")
    causes = Counter(outcome.cause for entry, outcome in outcomes if outcome.cause and entry.origin != "baseline")
    return "".join(f": {number} of {causes.total()} were lost by: {cause}" for cause, number in causes.most_common(1))


def _references(desk: Desk) -> Sequence[Nominee]:
    return [Nominee("", -1, "sampler", {}, number) for number in choosing.references(desk)]


def open_holdout(desk: Desk, entrants: tuple[tuple[int, str], ...]) -> None:
    """Write into the ledger who meets the sealed items, and only then let them."""
    if not desk.gauge.goals.plain:
        entrants = choosing.chosen_entrants(desk)
    entrants = tuple(sorted(entrants, key=winner_first))
    sequence = desk.next_sequence()
    facts = {"items": desk.run.pools.size("holdout"), "epoch": desk.run.store.epoch, "at": desk.services.now()}
    for number, reason in entrants:
        desk.pending.add(schema.LEDGER, {"candidate": number, "reason": reason, **facts})
        desk.ask_row(number, "holdout", sequence=sequence)
    desk.pending.empty(schema.WISHES)  # one that is left ended the search, and says nothing of what comes now
    desk.live.apply(machine.HoldoutOpened(entrants))
    for number, _ in entrants:
        desk.start(number, "holdout")


def try_again(desk: Desk, numbers: Sequence[int]) -> None:
    """Give entrants that were lost on the holdout one more attempt, when all else is scored there.

    What was wrong may have passed meanwhile. They stay who they are, and nobody has seen a result.
    """
    desk.note(machine.LostTriedAgain())
    for number in numbers:
        desk.pending.change(schema.ASSESSMENTS, _OPEN_AGAIN, number=number, split="holdout")
        desk.start(number, "holdout")


def tried_again_at(store: Store) -> float:
    """When that was; attempts up to then are not held against a unit. −Inf: it was not."""
    events = store.rows(schema.EVENTS, kind=EVENT_KINDS[machine.LostTriedAgain])
    return max((float(row["at"]) for row in events), default=-math.inf)


def reopen(desk: Desk) -> None:
    """Note what this start may change; a larger budget opens a search again that had ended."""
    run, state = desk.run, desk.live.state
    config = stored_config(run.campaign)
    if config == run.stored_config:
        return
    desk.pending.change(schema.CAMPAIGNS, {"config": config})
    further = ends.reaches_further(run.campaign.budget, run.stored_config.get("budget", {}))
    if further and (state.phase == "selection" or (state.phase == "search" and state.ended)):
        desk.note(machine.Reopened())
        desk.pending.empty(schema.WISHES)  # a second stop came when the first had ended the search already


def is_stopped(store: Store) -> bool:
    """Whether somebody said `mergefleet stop`."""
    return any(row["wish"] == ends.STOP for row in store.rows(schema.WISHES))


def try_lost_again(store: Store) -> frozenset[int]:
    """Where the winner was lost on the holdout: take the losses there back, and return who is tried again.

    Without this no verdict would ever come. The ledger has their access, nobody has seen a result, and the entrants
    stay who they are: scoring the same items once more tells the search nothing.
    """
    lost = frozenset(row["number"] for row in store.rows(schema.ASSESSMENTS, split="holdout", state="lost"))
    winner = {row["candidate"] for row in store.rows(schema.LEDGER, reason="winner")}
    if not lost & winner:
        return frozenset()
    with store.transaction() as transaction:
        for number in sorted(lost):
            transaction.change(schema.ASSESSMENTS, _OPEN_AGAIN, number=number, split="holdout")
    return lost


def judge_entrants(desk: Desk) -> Verdict:
    """The verdict on the holdout scores.

    Where the winner itself could not be scored: EvaluationError, or a verdict that names no winner, if somebody said
    `mergefleet stop`. Without its items there is nothing to compare, and what it failed at is no score of 0.
    """
    state, points = desk.live.state, desk.live.points
    lost = {entry.number: outcome.cause for entry, outcome in machine.outcomes(state, "holdout") if outcome.cause}
    winner = state.entrants[0][0]
    if winner in lost:
        why = f"could not be scored on the holdout: {lost[winner].rstrip('.')}"
        if not is_stopped(desk.run.store):
            raise EvaluationError(
                f"the winner {why}. No verdict yet; --resume tries again whoever was lost there; `mergefleet stop` "
                "and then --resume end the campaign without a winner, if that fails, too."
            )
        return _no_verdict(desk, f"{points[winner].label} {why}")
    others = (choosing.FRONT, choosing.REFERENCE)
    entrants = [_entrant(desk, n) for n, reason in state.entrants if n not in lost and reason not in others]
    verdict = judge(
        entrants[0],
        entrants[1:],
        task_of=desk.run.pools.task_of,
        weights=desk.run.campaign.task_weights,
        seed=desk.run.campaign.seed,
    )
    unscored = tuple(
        points[number].label for number, reason in state.entrants if number in lost and reason != choosing.FRONT
    )
    told = tuple(
        f"{points[number].label} could not be scored on the holdout, where it was tried twice ({cause})"
        for number, cause in lost.items()
    )
    verdict = dataclasses.replace(verdict, unscored=unscored, notes=(*told, *_notes(desk)))
    return choosing.with_goals(desk, verdict)


def _no_verdict(desk: Desk, why: str) -> Verdict:
    """Of a winner without scores."""
    winner, items = desk.live.state.entrants[0][0], desk.run.pools.size("holdout")
    return Verdict(
        winner=winner,
        label=desk.live.points[winner].label,
        recipe_hash=desk.live.state.candidates[winner].recipe_hash,
        score=None,
        interval=None,
        comparisons=(),
        holdout_items=items,
        resamples=RESAMPLES,
        seed=desk.run.campaign.seed,
        notes=(why, *_notes(desk)),
    )


def _entrant(desk: Desk, number: int) -> Entrant:
    recipe_hash = desk.live.state.candidates[number].recipe_hash
    known = desk.board.scores[recipe_hash]
    scores = {item: known[item] for item in desk.run.pools.all("holdout")}
    return Entrant(number, desk.live.points[number].label, recipe_hash, scores)


def _notes(desk: Desk) -> tuple[str, ...]:
    """What a reader of the verdict should know besides the numbers."""
    state, points = desk.live.state, desk.live.points
    met = {number for number, _ in state.entrants}
    notes = [
        f"{points[candidate.number].label} is no comparator: it could not be scored ({outcome.cause})"
        for candidate, outcome in machine.outcomes(state, "search")
        if candidate.origin == "baseline" and outcome.cause is not None and candidate.number not in met
    ]
    winner = state.candidates[state.entrants[0][0]]
    counts = Counter(desk.run.pools.task_of[item] for item in desk.run.pools.all("holdout"))
    notes += [
        f"the holdout has only {number} items of {task}: intervals are rough, and little can be shown"
        for task, number in sorted(counts.items())
        if number < FEW_ITEMS
    ]
    keys = {desk.run.pools.score_key_of[item] for item in desk.run.pools.all("holdout")}
    notes += [
        f"{count} of the holdout's {len(keys)} items were met before by campaign {name!r} of this store"
        for name, count in desk.run.store.holdouts_met(keys).items()
    ]
    visits = map(visit_of, desk.run.store.rows(schema.VISITS))
    notes += [f"the holdout was met before the verdict by {v.model}, on {day_of(v.at)} UTC" for v in visits]
    notes += desk.blame.cordon().sentences
    if len(state.rules.stages) > 1 and winner.stage == 0:
        notes.append("the winner is a global candidate: the finer stages found nothing better on selection")
    return (*notes, *desk.run.notes)
