"""What crosses the borders of `search`: items, work, results, progress, and the two protocols that exchange them.

    Evaluator   ← Work    a resident model that scores items; it knows nothing of campaigns
    WorkSource  → Work    what a worker sees of the coordinator: the coordinator itself, or a Ray handle wrapped in one

Everything here is frozen, pickles, and imports nothing heavy. Item keys are opaque strings, unique over all splits
and stable over restarts (an evaluator makes them, for example "demo_letters_search/0042").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

Split = Literal["search", "selection", "holdout"]
SPLITS: tuple[Split, ...] = ("search", "selection", "holdout")
SCORE = "score"  # what the score is called among the measures of an item
MOST = 1e18
"""No score or measure may be beyond: squares of them are summed, and a verdict over such numbers is one of rounding."""
Measures = Mapping[str, Mapping[str, float]]  # measure → item → value


@dataclass(frozen=True)
class Item:
    """One question of one task.

    key      unique over all splits, stable over restarts
    task     the `name` of the campaign's task entry (not the per-split lm-eval name)
    content  digest of what is asked and what is right: equal content in two splits is a leak
    stratum  items of one task and stratum are exchangeable; "" where the task has no finer division
    score_key  digest of all that its score depends on besides the weights: content, task settings, engine, machine;
             campaigns of one store share the scores of equal ones. "" where an evaluator tells none
    text     digest of what the item says, case and white space apart: equal texts in two splits are a leak, too; ""
             where it is not known
    """

    key: str
    task: str
    content: str
    stratum: str = ""
    score_key: str = ""
    text: str = ""


@dataclass(frozen=True)
class Inventory:
    """What an evaluator measures: its evaluation key, and the items of each split in the order of the task's files.

    `key` digests everything that scores depend on besides weights and items: resolved task YAML, metric, few-shot and
    generation settings, engine and its version, dtype, threads, batch size. Two evaluators that differ in it must not
    work for one campaign; scores are stored under the `score_key` of each item. `notes`
    are what a reader of the verdict should know of the items: near copies between splits, public test sets. `measures`
    are the names of all that is measured of items besides their score; None: only scoring tells. `former_key`: what
    earlier versions called the very same, where that was something else; a run under it goes on under `key`.
    """

    key: str
    items: Mapping[Split, tuple[Item, ...]]
    notes: tuple[str, ...] = ()
    measures: tuple[str, ...] | None = None
    former_key: str | None = None

    def present_key(self, key: str) -> str:
        """A key of the store as this version calls it."""
        return self.key if key == self.former_key else key


@dataclass(frozen=True)
class Work:
    """One work unit: score one candidate on one block of items.

    `recipe` is a mergekit-compatible mapping (`engine.parse_recipe(dict(work.recipe), origin=...)`), `recipe_hash` its
    canonical hash. The same items always make the same block of `selection` and `holdout`. `lease`, `attempt` (1 for
    the first) and `epoch` identify this handing out.
    """

    candidate: int
    recipe: Mapping[str, Any]
    recipe_hash: str
    split: Split
    block: int
    items: tuple[str, ...]
    lease: str
    attempt: int
    epoch: int


@dataclass(frozen=True)
class BlockResult:
    """Scores of exactly the items of a Work, larger is better.

    `measures` are what else was measured of some or all of these items (`tokens`: generated tokens of the answer, a
    second metric of the task), by measure and item; none is called "score". They are stored beside the scores.
    `recipe_hash` is what was loaded in the model before *and* after scoring (the evaluator checks both and returns
    Failed where they differ); `weights_digest` is the live model's, which the published files must reproduce.
    `took_s` is how long that took, where it is not how long the lease was out (ahead.py).
    """

    lease: str
    recipe_hash: str
    weights_digest: str
    scores: Mapping[str, float]
    measures: Measures = field(default_factory=dict)
    took_s: float | None = None


@dataclass(frozen=True)
class Failed:
    """A work unit without scores: why, and whether another attempt may do better (out of memory, not a NaN).

    `blameless`: the worker went away (it was killed or preempted); that says nothing about the candidate or the worker.
    `outage`: what the evaluator needs did not answer (a judge); the attempt counts for nothing, see outage.py.
    `took_s`: as in a BlockResult.
    """

    lease: str
    cause: str
    retryable: bool
    blameless: bool = False
    outage: bool = False
    took_s: float | None = None


@dataclass(frozen=True)
class Wait:
    """Nothing to do now; ask again after so many seconds."""

    after_s: float


@dataclass(frozen=True)
class Finished:
    """Nothing to do ever again in this run: the campaign is `done`, or was `paused`."""

    reason: Literal["done", "paused"]


def can_be_counted(value: float) -> bool:
    """Whether this may be a score or a measure: neither NaN nor beyond `MOST`."""
    return -MOST <= value <= MOST


class Evaluator(Protocol):
    """A resident model that scores blocks of items.

    Contract, checked by tests/search/evaluators: before the first item of a block is scored, `audit.record_attempt`
    has appended (candidate, item, attempt, pid, epoch) of all its items to the campaign's audit file; scores are finite
    (a NaN is `Failed`); a failure is a `Failed`, never a number and never an exception, except for errors of the
    campaign itself (unknown task or metric), which are CampaignError and come out of construction or `inventory`.
    """

    def inventory(self) -> Inventory:
        """The evaluation key and the items; the same in every process that builds the same evaluator."""

    def evaluate(self, work: Work) -> BlockResult | Failed:
        """Merge the candidate into the live model (nothing to do if it is loaded already) and score the block."""

    def close(self) -> None:
        """Release model and checkpoints."""


@runtime_checkable
class Rehearses(Protocol):
    """An evaluator that runs code of the user's, or asks a judge: whether these do their part, only a trial tells."""

    def rehearse(self) -> None:
        """Try it on a few search items of the base. Raises CampaignError for what would fail every candidate."""


def rehearsed(evaluator: Evaluator) -> Inventory:
    """What an evaluator measures, after a rehearsal where it needs one: before a run is opened."""
    if isinstance(evaluator, Rehearses):
        evaluator.rehearse()
    return evaluator.inventory()


class WorkSource(Protocol):
    """The coordinator, as a worker sees it."""

    def next_work(self, worker: str) -> Work | Wait | Finished:
        """A unit under a fresh lease for this worker."""

    def submit(self, worker: str, result: BlockResult | Failed) -> None:
        """Hand in the result of a lease; one that was already answered is ignored."""

    def heartbeat(self, worker: str) -> None:
        """This worker is alive: extend its leases."""


Phase = Literal["search", "selection", "holdout", "done"]


@dataclass(frozen=True)
class CampaignStatus:
    """A snapshot for progress bars; all counts over the whole life of the campaign, resumes included.

    `items_done` of `items_total` are item evaluations of the present phase; `items_per_s` is measured over the last
    minute of this run, `seconds_left` covers this and the following phases (None while nothing was measured yet).
    `best_score` is the shrunk estimate of the best candidate's mean score on search items, 0 to 1 for accuracies.
    `outage` says what evaluators wait for, `gave_up` that the campaign paused because of it.
    """

    name: str
    phase: Phase
    stage: str
    candidates: int
    failed: int
    best_score: float | None
    best_candidate: int | None
    items_done: int
    items_total: int
    items_per_s: float | None
    seconds_left: float | None
    workers: int
    epoch: int
    paused: bool = False
    note: str = ""
    outage: str = ""
    gave_up: str = ""


LEVEL = 0.05
"""Of significance: the chance at which a winner may be named that is no better."""


@dataclass(frozen=True)
class Comparison:
    """Winner minus one comparator on the holdout; scores are weighted means over tasks, 0 to 1 for accuracies.

    `lower` is the one-sided 95 % lower bound of `difference` (stratified paired bootstrap), `interval` the two-sided
    95 % interval, `flip_p` the one-sided p-value of the paired sign-flip test.
    """

    comparator: int
    label: str
    score: float
    difference: float
    lower: float
    interval: tuple[float, float]
    flip_p: float | None  # None in a verdict of before it was asked for
    wins: int
    losses: int

    @property
    def beaten(self) -> bool:
        """Whether the winner is shown to be better: by the bootstrap and, which knows few items better, by flips."""
        return self.lower > 0 and (self.flip_p is None or self.flip_p <= LEVEL)


@dataclass(frozen=True)
class FrontMember:
    """A model of the front on the holdout. `values` and their two-sided 95 % intervals are in the order of
    `Verdict.objectives`, in the units of the campaign file; `chance` is the share of bootstrap resamples in which no
    other member is as good in everything and better in something, `broken` names the constraints that it does not keep
    there."""

    number: int
    label: str
    recipe_hash: str
    values: tuple[float, ...]
    intervals: tuple[tuple[float, float], ...]
    chance: float
    broken: tuple[str, ...] = ()


@dataclass(frozen=True)
class BoundKept:
    """A constraint on the winner, on the holdout. `margin` is what is left to the bound (below 0: broken) with its
    two-sided 95 % interval; `reference` is whom it is compared with, "" for nobody. None: no item tells."""

    title: str
    value: float | None
    reference: str
    margin: float | None
    interval: tuple[float, float] | None

    @property
    def kept(self) -> bool:
        """Whether the holdout says so; `interval` says how surely."""
        return self.margin is not None and self.margin >= 0


@dataclass(frozen=True)
class Verdict:
    """The answer of a campaign. `significant` only if the winner beats every comparator (an intersection test).

    `score` and `interval` are None where the winner could not be scored on the holdout and somebody ended the campaign.
    """

    winner: int
    label: str
    recipe_hash: str
    score: float | None
    interval: tuple[float, float] | None
    comparisons: tuple[Comparison, ...]
    holdout_items: int
    resamples: int
    seed: int
    unscored: tuple[str, ...] = ()  # comparators (and references of constraints) lost on the holdout: not beaten
    notes: tuple[str, ...] = ()
    objectives: tuple[str, ...] = ()
    front: tuple[FrontMember, ...] = ()
    bounds: tuple[BoundKept, ...] = ()

    @property
    def significant(self) -> bool:
        """Whether every comparator is beaten, and there is one, and every constraint is kept."""
        compared = bool(self.comparisons) and not self.unscored
        beaten = compared and all(comparison.beaten for comparison in self.comparisons)
        return beaten and all(bound.kept for bound in self.bounds)

    @property
    def sentence(self) -> str:
        """The verdict in one line for people."""
        if self.significant:
            return f"candidate {self.winner} ({self.label}) beats all {len(self.comparisons)} comparators"
        if self.score is None:
            return f"no winner: {self.label} could not be scored on the holdout"
        broken = [bound.title for bound in self.bounds if bound.margin is not None and not bound.kept]
        if broken:
            return f"no winner: {self.label} does not keep {', '.join(broken)}"
        unknown = [bound.title for bound in self.bounds if bound.margin is None]
        if unknown:
            return f"no winner: whether {self.label} keeps {', '.join(unknown)} is not known: no item tells"
        unbeaten = [c.label for c in self.comparisons if not c.beaten] + list(self.unscored)
        return f"no significant winner: {self.label} is not shown to beat {', '.join(unbeaten) or 'anything'}"
