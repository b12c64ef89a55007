"""A coordinator's memory and the rows it is about to write: candidates enter, are finished or lost, here.

Every method changes memory and leaves the same change in `pending`, which `Coordinator` commits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from engine.errors import MergefleetError
from search import campaign as machine
from search.blame import Blame
from search.board import Assessment, Board
from search.drafts import Entry
from search.gauge import Gauge, Measured
from search.judging import stopping
from search.judging.rivals import nobody_beats, rivals
from search.live import EVENT_KINDS, LiveCampaign, Point
from search.ports import SCORE, BlockResult, Split
from search.queue import WorkQueue
from search.run import Run, Services
from search.store import schema
from search.store.blocks import BlockScores
from search.store.pending import Pending
from search.store.transaction import Row

BLAMED_S = 3600.0
Turn = machine.SearchEnded | machine.Reopened | machine.SelectionOpened | machine.LostTriedAgain
_IMPOSSIBLE = "impossible-"


class Desk:
    """`live` decides, `board` knows scores, `queue` holds work; `pending` are the rows that are not committed yet."""

    def __init__(self, run: Run, services: Services) -> None:
        self.run = run
        self.services = services
        self.live = LiveCampaign(run, items_of=self.search_items)
        self.board = Board(run.pools)
        self.queue = WorkQueue(lease_s=services.lease_s)
        self.blame = Blame()
        # the run's own file holds no other campaign: nothing to ask it before every candidate
        self.shared = run.campaign.store is not None
        self._items_of: dict[str, list[str]] = defaultdict(list)
        for item, key in run.pools.score_key_of.items():
            self._items_of[key].append(item)
        self.looks = run.campaign.items.early_stopping_looks
        self.recipes: list[Mapping[str, Any]] = []
        self.gauge = Gauge(run, self.board, services, self.recipes)
        self.digests: dict[str, str] = {}
        self.sequence = 0
        self.pending = Pending()

    def next_sequence(self) -> int:
        """The number of the next event; the order of these numbers is the order of the campaign."""
        self.sequence += 1
        return self.sequence

    def entry(self, number: int, point: Point, recipe: Mapping[str, Any]) -> Entry:
        """A candidate with its recipe's hash; one whose recipe cannot work has a name of its own instead, and why."""
        try:
            return Entry(point, recipe, self.services.hash_recipe(recipe))
        except MergefleetError as failure:
            return Entry(point, recipe, f"{_IMPOSSIBLE}{number}", failure.message)

    def enter(self, proposed: machine.Proposed, entry: Entry) -> None:
        """A new candidate, on the split that `proposed` says."""
        recipe_hash, cohort = entry.recipe_hash, proposed.cohort
        event = machine.Proposed(
            number=proposed.number,
            stage=proposed.stage,
            origin=proposed.origin,
            recipe_hash=recipe_hash,
            split=proposed.split,
            cohort=cohort,
        )
        row: dict[str, Any] = {"number": event.number, "stage": event.stage, "origin": event.origin}
        row |= {"label": entry.point.label, "cohort": None if cohort is None else cohort.number}
        row |= {"params": dict(entry.point.params), "recipe": dict(entry.recipe), "recipe_hash": recipe_hash}
        self.pending.add(schema.CANDIDATES, row)
        if cohort is not None and not cohort.members:
            self.pending.add(schema.COHORTS, {name: getattr(cohort, name) for name in schema.COHORT_FIELDS})
        if self.shared and recipe_hash not in self.board.scores:
            self.recall([recipe_hash])
        self.recipes.append(entry.recipe)
        self.ask_row(event.number, event.split, sequence=self.next_sequence())
        self.live.apply(event, point=entry.point)
        self.start(event.number, event.split, lost=entry.cause)

    def note(self, event: Turn) -> None:
        """Apply an event that no other row tells, and queue its row."""
        row = {"sequence": self.next_sequence(), "kind": EVENT_KINDS[type(event)], "at": self.services.now()}
        self.pending.add(
            schema.EVENTS, row | {"reason": event.reason if isinstance(event, machine.SearchEnded) else ""}
        )
        self.live.apply(event)

    def ask_row(self, number: int, split: Split, *, sequence: int) -> None:
        """Queue the row of an assessment that begins."""
        self.pending.add(schema.ASSESSMENTS, {"number": number, "split": split, "asked": sequence, "state": "open"})

    def recall(self, recipe_hashes: Sequence[str]) -> None:
        """Learn what the store knows of these recipes, whichever campaign scored them."""
        for known in self.run.store.shared_scores(recipe_hashes):
            pairs = zip(known.block.score_keys, known.values, strict=True)
            by_item = {item: value for key, value in pairs for item in self._items_of.get(key, ())}
            self.board.restore(known.recipe_hash, known.measure, by_item)
        self.digests |= self.run.store.weights_digests(recipe_hashes)

    def keep(self, result: BlockResult, fresh: Mapping[str, float]) -> None:
        """Rows for the scores that are new."""
        key_of = self.run.pools.score_key_of
        item_of = {key_of[item]: item for item in fresh}
        for measure, values in ((SCORE, result.scores), *result.measures.items()):
            found = {key: (item, float(values[item])) for key, item in item_of.items() if item in values}
            if found:
                block = BlockScores.of(result.recipe_hash, found, lease=result.lease, measure=measure)
                self.pending.add_scores([block])

    def remember(self, lease: Row) -> None:
        """Whose fault an earlier failure was; after an hour a machine may have been mended, and gets another chance."""
        if lease["ended"] is not None and lease["ended"] < self.services.now() - BLAMED_S:
            return
        recipe_hash = self.live.state.candidates[lease["candidate"]].recipe_hash
        if lease["state"] == "failed":
            self.blame.fail(lease["worker"], recipe_hash, lease["cause"])
        elif lease["state"] == "done":
            self.blame.succeed(lease["worker"], recipe_hash)

    def start(self, number: int, split: Split, *, lost: str | None = None) -> None:
        """Queue the units that an assessment needs; finished at once where all scores are known, or it is `lost`."""
        assessment = self._assessment(number, split)
        units = self.board.open(assessment, out=self.queue.items_out(assessment.recipe_hash))
        if lost is not None:
            self.lose(assessment.recipe_hash, lost)
            return
        self.queue.add(units)
        if not units:
            self.finish(assessment.recipe_hash)

    def finish(self, recipe_hash: str) -> None:
        """Close the assessments of a recipe that are complete."""
        for assessment in self.board.complete(recipe_hash):
            number, split = assessment.number, assessment.split
            measured = self.gauge.measure(self.live.state, number, split, items=assessment.items)
            unknown = self.gauge.unknown(measured)
            if unknown is not None:
                self._lose(assessment, unknown)
                continue
            row = {
                "state": "scored",
                "score": measured.score,
                "finished": self.next_sequence(),
                **_goal_columns(measured),
            }
            self.pending.change(schema.ASSESSMENTS, row, number=number, split=split)
            self.live.apply(machine.Scored(number, split, **vars(measured)))

    def proceed(self, recipe_hash: str) -> None:
        """Look at the waiting assessments of a recipe whose rung is complete: stop them, or queue the next rung.

        Called only when scores came in, never by a restart: a look that was passed is not held again. Without rungs all
        units are out already, and to look for more takes time in proportion to the items of the split.
        """
        for assessment in [entry for entry in self.board.waiting.get(recipe_hash, ()) if len(entry.rungs) > 1]:
            units = self.board.units(assessment, out=self.queue.items_out(recipe_hash))
            if not units:
                continue
            seen = self.board.seen(assessment)
            if seen and self._look(assessment, seen) is not None:
                self._stop(assessment, seen)
            else:
                self.queue.add(units)

    def _look(self, assessment: Assessment, seen: Mapping[str, float]) -> stopping.Reason | None:
        state, goals = self.live.state, self.gauge.goals
        cohort = state.cohorts[state.candidates[assessment.number].cohort or 0]
        known = rivals(state, cohort)
        if goals.objectives:
            own, *others = (
                self.gauge.facts(state, number, items=tuple(seen))
                for number in (assessment.number, *nobody_beats(state, goals, known))
            )
            return stopping.dominated(own, others, goals)
        best = max(known, key=lambda pair: (pair[1], -pair[0].number), default=None)
        field = stopping.Field(
            incumbent=None if best is None else self.board.scores[best[0].recipe_hash],
            complete=tuple(score for member, score in known if member.cohort == cohort.number),
            capacity=cohort.capacity,
        )
        measure = stopping.Measure(self.run.pools.task_of, self.run.campaign.task_weights)
        return stopping.look(seen, assessment.items, field, measure)

    def _stop(self, assessment: Assessment, seen: Mapping[str, float]) -> None:
        self.board.stop(assessment)
        number, split = assessment.number, assessment.split
        measured = self.gauge.measure(self.live.state, number, split, items=tuple(seen))
        row = {"state": "stopped", "score": measured.score, "items": len(seen), "finished": self.next_sequence()}
        self.pending.change(schema.ASSESSMENTS, row | _goal_columns(measured), number=number, split=split)
        self.live.apply(machine.Stopped(number, items=len(seen), **vars(measured)))

    def lose(self, recipe_hash: str, cause: str) -> None:
        """Give up on a recipe: every candidate that waits for it is lost, recorded and told as a failure."""
        self.queue.drop(recipe_hash)
        for assessment in self.board.lose(recipe_hash):
            self._lose(assessment, cause)

    def _lose(self, assessment: Assessment, cause: str) -> None:
        number, split = assessment.number, assessment.split
        values = {"state": "lost", "cause": cause, "finished": self.next_sequence()}
        self.pending.change(schema.ASSESSMENTS, values, number=number, split=split)
        self.live.apply(machine.Lost(number, split, cause))

    def search_items(self, number: int) -> Mapping[str, float]:
        """The scores of a candidate on the items of its search window, as far as they are known."""
        assessment = self._assessment(number, "search")
        known = self.board.scores[assessment.recipe_hash]
        return {item: known[item] for item in assessment.items if item in known}

    def blocks_of_draw(self, cohort: machine.Cohort) -> tuple[tuple[str, ...], ...]:
        """The blocks of items that a draw is scored on at once; none where it may be stopped in mid-window."""
        items = self.run.pools.window(cohort.start, cohort.size)
        return self.run.pools.blocks(items) if len(self._rungs(len(items))) <= 1 else ()

    def _rungs(self, size: int) -> tuple[int, ...]:
        """After how many items of a window of `size` a draw may be stopped; none or one number: never."""
        return self.looks.rungs(size, parts=self.gauge.goals.parts) if self.live.sampler.stops_losers else ()

    def _assessment(self, number: int, split: Split) -> Assessment:
        candidate = self.live.state.candidates[number]
        if split == "search" and candidate.cohort is not None:
            cohort = self.live.state.cohorts[candidate.cohort]
            items = self.run.pools.window(cohort.start, cohort.size)
            # baselines are scored on all of it: reports compare with them
            rungs = () if candidate.origin == "baseline" else self._rungs(len(items))
            return Assessment(number, split, candidate.recipe_hash, items, rungs)
        return Assessment(number, split, candidate.recipe_hash, self.run.pools.all(split))


def is_impossible(recipe_hash: str) -> bool:
    """Whether this stands for a recipe that could not be hashed."""
    return recipe_hash.startswith(_IMPOSSIBLE)


def _goal_columns(measured: Measured) -> dict[str, Any]:
    """The columns of an assessment's objectives and bounds, where there are such."""
    values = list(measured.values) or None
    return {"objectives": values, "violation": measured.violation} if values or measured.violation else {}
