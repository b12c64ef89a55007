"""The machine together with its sampler: what a coordinator keeps in memory, and what a restart rebuilds from rows.

Live and replayed events take the same path (`apply`), so a restart continues exactly where the rows end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeGuard

from search import campaign as machine
from search.baselines import Baseline
from search.campaign import Cohort, Event, HoldoutOpened, Lost, Proposed, Scored, State, Stopped
from search.campaign_file import Campaign
from search.judging.rivals import outgrown
from search.judging.scores import WindowScore, estimates, window_numbers
from search.run import Run
from search.samplers import Sampler, Setup, Told, make_sampler
from search.space import Params, Space
from search.store import schema
from search.store.store import Store
from search.store.transaction import Row

EVENT_KINDS: dict[type[Event], str] = {
    machine.SearchEnded: "ended",
    machine.Reopened: "reopened",
    machine.SelectionOpened: "selection",
    machine.LostTriedAgain: "tried again",
}
"""What the events that have rows of their own are called there."""


ItemsOf = Callable[[int], Mapping[str, float]]
"""Candidate → the scores of the items of its search window."""


Elites = Mapping[int, Sequence[tuple[Params, float]]]


@dataclass(frozen=True)
class Point:
    """Where a candidate lies: the stage whose axes `params` names ({} for a baseline), and what reports call it."""

    stage: int
    params: Params
    label: str


def make_rules(
    campaign: Campaign, space: Space, baselines: tuple[Baseline, ...], sampler: Sampler, *, pool: tuple[int, ...] = ()
) -> machine.Rules:
    """The machine's rules; `pool` is the number of search items of every task.

    Where the sampler ranks within cohorts, each of them may see other items; where it scores survivors again, windows
    are nested and may grow; all others compare whatever they were told: one window for all.
    """
    grows = campaign.items.fresh and (sampler.by_cohort or sampler.rescores)
    return machine.Rules(
        kinds=tuple(baseline.kind for baseline in baselines),
        sobol=campaign.space.stages[0].sobol,
        stages=tuple(machine.StageRule(stage.population, stage.entry.candidates) for stage in space.stages),
        window=(campaign.items.window or sampler.window) if grows else {0: campaign.items.window_size(0)},
        comparators=campaign.comparators,
        budget_items=campaign.budget.items,
        budget_candidates=campaign.budget.candidates,
        fresh=grows and sampler.by_cohort,
        pool=pool,
    )


class LiveCampaign:
    """`state` of the machine, `points` of all candidates by number, and the sampler."""

    def __init__(self, run: Run, *, items_of: ItemsOf) -> None:
        campaign, space, baselines = run.campaign, run.space, run.baselines
        self.space = space
        self.objectives = campaign.objectives
        self.baselines = baselines
        self.sampler: Sampler = sampler_of(campaign, space, baselines=len(baselines), elites=run.elites)
        rules = make_rules(campaign, space, baselines, self.sampler, pool=run.pools.searched)
        self.state: State = machine.begin(rules)
        self._items_of = items_of
        self.listener: Callable[[Event], None] | None = None
        self.points: list[Point] = []
        self._seen: dict[int, int] = {}  # candidate that was stopped → items that it was scored on
        self.losses = 0  # assessments that came to nothing
        self.lessons = 0  # how often the sampler was told something: its proposals may change with each
        self._best: tuple[tuple[int, ...], tuple[int, float] | None] = ((), None)

    def apply(self, event: Event, *, point: Point | None = None) -> None:
        """Feed one event to machine and sampler. `point` comes with Proposed."""
        before = self.state
        self.state, decisions = machine.advance(before, event)
        self.losses += isinstance(event, Lost) and self.state is not before
        if isinstance(event, Stopped):
            self._seen[event.number] = event.items
        if isinstance(event, machine.LostTriedAgain):
            self.losses -= len(machine.lost_on(before, "holdout"))
        if isinstance(event, Proposed):
            assert point is not None
            self.points.append(point)
            if event.split == "search":
                self.sampler.enter(max(0, point.stage), event.number, point.params)
        elif not self.sampler.by_cohort and _ends_search(event):
            self.lessons += 1
            self.sampler.tell(max(0, self.points[event.number].stage), [self._told(event.number)])
        for decision in decisions:
            self._tell(self.state.cohorts[decision.cohort])
        if self.listener is not None:
            self.listener(event)

    def estimates(self) -> dict[int, float]:
        """Shrunk estimates of all candidates scored in the search on all of their window."""
        alike = window_numbers([(cohort.start, cohort.size) for cohort in self.state.cohorts])
        windows = [
            WindowScore(
                entry.number,
                entry.stage,
                alike[entry.cohort],
                self.state.rules.items(self.state.cohorts[entry.cohort].size),
                score,
                stopped=entry.outcomes["search"].stopped,
            )
            for entry, score in machine.scored(self.state, "search")
            if entry.cohort is not None
        ]
        gone = outgrown(self.state)
        return {number: estimate for number, estimate in estimates(windows).items() if number not in gone}

    def best(self) -> tuple[int, float] | None:
        """The candidate with the highest estimate, and that; looked up anew when another cohort is told."""
        if self._best[0] != self.state.told or self._best[1] is None:
            best = max(self.estimates().items(), key=lambda pair: (pair[1], -pair[0]), default=None)
            self._best = (self.state.told, best)
        return self._best[1]

    def _tell(self, cohort: Cohort) -> None:
        """A complete cohort, to samplers that learn from such; the first one holds the baselines and is no draw."""
        if not self.sampler.by_cohort:
            return
        self.lessons += 1
        members = [self._told(number) for number in cohort.members]
        if cohort.number == 0:
            self.sampler.tell_start([told for told in members if told.params])
        else:
            self.sampler.tell(cohort.stage, members)
        population = self.sampler.population(cohort.stage)
        if population is not None and population != self.state.populations[cohort.stage]:
            self.state, _ = machine.advance(self.state, machine.Resized(cohort.stage, population))

    def _told(self, number: int) -> Told:
        """A search candidate as the sampler sees it; a baseline stands for its equivalent point, if it has one."""
        params = self.points[number].params
        if number < len(self.baselines):
            baseline = self.baselines[number]
            params = self.space.point_of(baseline.recipe, baseline.weights) or {}
        outcome = self.state.candidates[number].outcomes["search"]
        items = self._items_told(number) if self.sampler.wants_items and outcome.score is not None else {}
        signs = [entry.sign for entry in self.objectives]
        values = tuple(sign * value for sign, value in zip(signs, outcome.values, strict=False))
        return Told(
            number,
            params,
            outcome.score,
            values,
            outcome.violation,
            stopped=outcome.stopped,
            window=self.window(number),
            items=items,
        )

    def _items_told(self, number: int) -> Mapping[str, float]:
        """The items that its score comes from: a restart may know more of its recipe by now, from others."""
        return dict(islice(self._items_of(number).items(), self._seen.get(number)))

    def window(self, number: int) -> int:
        """How many items a candidate's window of the search has."""
        cohort = self.state.candidates[number].cohort
        return 0 if cohort is None else self.state.cohorts[cohort].size

    def propose(self, stage: int, number: int, cohort: Cohort) -> Params:
        """The next point of the search: a survivor that was not scored on so large a window yet, else a new draw."""
        waiting = [survivor.params for survivor in self.sampler.survivors(stage) if survivor.window < cohort.size]
        if waiting:
            alike = [other for other in (*self.state.cohorts, cohort) if other.size >= cohort.size]
            out = [point.params for other in alike for m in other.members if (point := self.points[m]).stage == stage]
            again = next((params for params in waiting if params not in out), None)
            if again is not None:
                return again
        return self.sampler.ask(stage, number)


def sampler_of(campaign: Campaign, space: Space, *, baselines: int, elites: Elites | None = None) -> Sampler:
    """The campaign's sampler. CampaignError where it does not fit the space, the objectives or its options."""
    setup = Setup(
        space,
        seed=campaign.seed,
        objectives=max(1, len(campaign.objectives)),
        constrained=bool(campaign.constraints),
        baselines=baselines,
        candidates=_most_candidates(campaign),
        elites=elites or {},
    )
    return make_sampler(campaign.sampler, setup, campaign.sampler_options, origin=campaign.origin)


def _most_candidates(campaign: Campaign) -> int | None:
    """How many candidates the budget has room for, where all are scored on the first window."""
    items = campaign.budget.items
    limits = [campaign.budget.candidates, None if items is None else items // campaign.items.window_size(0)]
    return min((limit for limit in limits if limit is not None), default=None)


def _ends_search(event: Event) -> TypeGuard[Scored | Stopped | Lost]:
    """Whether this is what came of a candidate in the search."""
    return isinstance(event, Stopped) or (isinstance(event, Scored | Lost) and event.split == "search")


def stored_events(store: Store) -> Iterator[tuple[int, Event, Point | None]]:
    """(sequence number, event, point) of everything the rows tell, in the order in which it happened."""
    candidates = {row["number"]: row for row in store.rows(schema.CANDIDATES)}
    cohorts: dict[int, Row] = {row["number"]: {**row, "members": []} for row in store.rows(schema.COHORTS)}
    found: list[tuple[int, Event, Point | None]] = []
    seen: set[int] = set()
    for row in sorted(store.rows(schema.ASSESSMENTS), key=lambda row: int(row["asked"])):
        if row["split"] != "holdout":
            candidate = candidates[row["number"]]
            found.append((row["asked"], *_asked_event(row, candidate, cohorts, new=row["number"] not in seen)))
            seen.add(row["number"])
        if row["state"] == "scored":
            goals = tuple(row["objectives"] or ()), row["violation"] or 0.0
            found.append((row["finished"], Scored(row["number"], row["split"], row["score"], *goals), None))
        elif row["state"] == "stopped":
            goals = tuple(row["objectives"] or ()), row["violation"] or 0.0
            found.append((row["finished"], Stopped(row["number"], row["score"], row["items"], *goals), None))
        elif row["state"] == "lost":
            found.append((row["finished"], Lost(row["number"], row["split"], row["cause"]), None))
    opened = store.rows(schema.ASSESSMENTS, split="holdout")
    if opened:
        entrants = sorted(((row["candidate"], row["reason"]) for row in store.rows(schema.LEDGER)), key=winner_first)
        found.append((opened[0]["asked"], HoldoutOpened(tuple(entrants)), None))
    for row in store.rows(schema.EVENTS):
        found.append((row["sequence"], _noted(row), None))
    yield from sorted(found, key=lambda entry: entry[0])


def _noted(row: Row) -> Event:
    """An event that has a row of its own, see EVENT_KINDS."""
    if row["kind"] == "ended":
        return machine.SearchEnded(row["reason"])
    made: dict[str, Event] = {
        "reopened": machine.Reopened(),
        "selection": machine.SelectionOpened(),
        "tried again": machine.LostTriedAgain(),
    }
    return made[row["kind"]]


def winner_first(entrant: tuple[int, str]) -> tuple[bool, int]:
    """Sort key of holdout entrants: the winner, then by number."""
    return entrant[1] != "winner", entrant[0]


def _asked_event(row: Row, candidate: Row, cohorts: dict[int, Row], *, new: bool) -> tuple[Event, Point | None]:
    if not new:
        return machine.Nominated(row["number"]), None
    point = Point(candidate["stage"], candidate["params"], candidate["label"])
    cohort = None
    if candidate["cohort"] is not None:
        told = cohorts[candidate["cohort"]]
        members = tuple(told["members"])
        cohort = Cohort(told["number"], told["stage"], told["capacity"], told["start"], told["size"], members)
        told["members"].append(row["number"])
    event = Proposed(
        number=row["number"],
        stage=candidate["stage"],
        origin=candidate["origin"],
        recipe_hash=candidate["recipe_hash"],
        split=row["split"],
        cohort=cohort,
    )
    return event, point
