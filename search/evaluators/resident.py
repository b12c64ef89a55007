"""The resident model: a live `transformers` model that candidates are merged straight into, and its evaluator.

    recipe ─ plan ─ execute → live parameters → scorer → scores        nothing is written, nothing is reloaded

The model is *dirty* from the first copied block until the last; only then does it carry a recipe hash. A score counts
only if the hash is the candidate's before and after scoring, and if the parameters' bytes are still those that were
merged: their checksum (read at the speed of memory, a small part of one forward pass) is compared after every block. A
second look before the next block of the same candidate would tell nothing more: what somebody wrote in between is there
after that block, too, whose scores are thrown away then, and made again on a fresh merge. Tensors that are the same in
the candidate before are not merged again; facts about the sources are measured once, by whichever evaluator of the
node comes first.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from engine import digest
from engine.errors import CampaignError, EvaluationError, MergefleetError
from engine.execution.execute import Work as MergeWork
from engine.execution.execute import execute
from engine.execution.kept_facts import KeptFacts
from engine.execution.known_facts import KnownFacts
from engine.execution.sinks import LiveSink
from engine.execution.worker import RowPool
from search import collector
from search.baselines import make_baselines
from search.campaign_file import Campaign
from search.evaluators import floor
from search.evaluators.allocator import keep_freed_memory
from search.evaluators.audit import record_attempt
from search.evaluators.beside import beside_models
from search.evaluators.contract import (
    Scored,
    Scorer,
    Subject,
    Suite,
    TellsMeasures,
    Unreachable,
    evaluation_key,
    former_key,
    keyed_items,
    runtime_facts,
)
from search.evaluators.entries import EvaluatorEntry
from search.evaluators.loading import in_one_line, load_from_disk
from search.evaluators.norms import Norms
from search.evaluators.opening import open_scorer
from search.evaluators.plans import Planned, Plans
from search.evaluators.skeletons import Skeletons, Unsaved
from search.evaluators.vllm import Loaded as VllmLoaded
from search.evaluators.vllm import VllmModel, check_vllm
from search.ports import BlockResult, Failed, Inventory, Work

if TYPE_CHECKING:
    from engine.planning.plan import Plan

# What a scorer may raise: lm-eval and users' functions bring exceptions of any of these kinds.
_SCORING_ERRORS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_PASSING_ERRORS = (OSError, MemoryError)  # another attempt, elsewhere or later, may do better


class Made(NamedTuple):
    """One tensor of the live model: the hash of its recipe, and the digest of its published form."""

    recipe: str
    digest: str


@dataclass(frozen=True)
class Loaded:
    """What the live model holds: whose recipe, and which weights (digest of the published form); `tensors` by name;
    `checksum` of what lies in its memory."""

    planned: Planned
    weights_digest: str
    tensors: Mapping[str, Made]
    checksum: bytes

    @property
    def recipe_hash(self) -> str:
        return self.planned.recipe_hash

    @property
    def plan(self) -> Plan:
        return self.planned.plan


class ResidentModel:
    """One live model at a time. Not thread safe; one evaluator owns it.

    Checkpoints are opened once and stay open. A recipe whose output has another configuration (depth, tied heads,
    rope, vocabulary), tokenizer or chat template gets a new skeleton, the old one is let go.
    """

    def __init__(self, entry: EvaluatorEntry, *, plans: Plans | None = None, known: KnownFacts | None = None) -> None:
        self._entry = entry
        self._plans = plans or Plans()
        self._skeletons = Skeletons(entry, self._plans)
        self._known = known or KnownFacts(kept=KeptFacts())
        self._rows = RowPool()
        self._norms = Norms(self._plans)
        self.loaded: Loaded | None = None

    @property
    def subject(self) -> Subject:
        """Model and tokenizer. Raises EvaluationError before the first `load`."""
        if self._skeletons.current is None:
            raise EvaluationError("no recipe has been loaded into the resident model yet")
        return self._skeletons.current.subject

    def holds(self, recipe_hash: str) -> bool:
        """Whether that recipe was merged into the model, and nothing since. `is_intact` tells whether it is there."""
        return self.loaded is not None and self.loaded.recipe_hash == recipe_hash

    def load(self, recipe: Mapping[str, Any], *, expected_hash: str | None = None) -> Loaded:
        """Merge a recipe (mergekit's schema) into the live parameters, if the model does not `hold` it; all else of
        the model is as it was made.

        With `expected_hash`, a recipe that hashes otherwise on this machine is refused before a byte is merged.
        Raises EvaluationError then, NotFinite for NaN or Inf, InputError where recipe and sources do not fit.
        """
        self._skeletons.restore()
        if self.loaded is not None and self.loaded.recipe_hash == expected_hash:
            return self.loaded
        return self._merge(self._plans.expected(recipe, expected_hash))

    def _merge(self, planned: Planned) -> Loaded:
        plan = planned.plan
        skeleton = self._skeletons.serving(planned)
        if skeleton is None:
            self.loaded = None
            skeleton = self._skeletons.make(planned)
        kept = self._unchanged(planned)
        changed = {index for index, tensor in enumerate(plan.tensors) if tensor.name not in kept}
        self.loaded = None  # dirty from here on
        work = MergeWork(self._entry.threads, tensors=changed, known=self._known, pool=self._rows)
        done = execute(plan, self._plans.checkpoints, LiveSink(skeleton.binding), work=work)
        self._known.keep()
        tensors = dict(kept)
        for index, blocks in done.tensor_blocks(plan, changed).items():
            tensor = plan.tensors[index]
            tensors[tensor.name] = Made(planned.tensors[index], digest.of_tensor(tensor, blocks))
        weights = digest.of_weights({name: made.digest for name, made in tensors.items()})
        self.loaded = Loaded(planned, weights, tensors, skeleton.binding.checksum())
        return self.loaded

    def _unchanged(self, planned: Planned) -> dict[str, Made]:
        """By name the tensors that are in the live model already as this recipe has them; none of one that somebody
        wrote into."""
        if self.loaded is None:
            return {}
        before, pairs = self.loaded.tensors, zip(planned.plan.tensors, planned.tensors, strict=True)
        found = ((tensor.name, before.get(tensor.name), recipe) for tensor, recipe in pairs)
        kept = {name: made for name, made, recipe in found if made is not None and made.recipe == recipe}
        return kept if kept and self.is_intact() else {}

    def is_intact(self) -> bool:
        """Whether the live parameters still hold, bit for bit, what `load` merged into them."""
        loaded, skeleton = self.loaded, self._skeletons.current
        return loaded is not None and skeleton is not None and skeleton.binding.is_intact(loaded.checksum)

    def blown_up(self) -> str | None:
        """Why the loaded candidate's weights are out of all range, or None (search.evaluators.norms)."""
        assert self.loaded is not None
        assert self._skeletons.current is not None
        return self._norms.failure(self.loaded.planned, self._skeletons.current.binding)

    def close(self) -> None:
        """Let go of model and files."""
        self._skeletons.close()
        self.loaded = None
        self._plans.close()


class ResidentEvaluator:
    """The Evaluator of search.ports over a ResidentModel and a Scorer."""

    def __init__(
        self,
        scorer: Scorer,
        entry: EvaluatorEntry,
        *,
        audit: Path,
        plans: Plans | None = None,
        base: Mapping[str, Any] | None = None,
    ) -> None:
        self._scorer, self._entry, self._audit, self._base = scorer, entry, audit, base
        self.resident = ResidentModel(entry, plans=plans) if entry.engine == "hf" else VllmModel(entry, plans=plans)
        self._floor = entry.floor and entry.engine == "hf"
        self._inventory: Inventory | None = None
        self._prompts: list[str] | None = None
        self._floor_passed = ""
        self._speaks: dict[str, bool] = {}  # parents, by name: whether they do more than loop

    @collector.paused()
    def inventory(self) -> Inventory:
        """See search.ports.Evaluator; loads no model."""
        if self._inventory is None:
            runtime = runtime_facts(self._entry)
            key, items = evaluation_key(self._scorer, runtime), keyed_items(self._scorer, runtime)
            measures = self._scorer.measures() if isinstance(self._scorer, TellsMeasures) else None
            known = None if measures is None else tuple(sorted(measures))
            former = former_key(self._scorer, runtime)
            self._inventory = Inventory(key, items, tuple(self._scorer.notes()), known, former)
        return self._inventory

    def rehearse(self) -> None:
        """See search.ports.Rehearses. The base is loaded only where the scorer runs code of the user's, and stays.

        Raises CampaignError where that changes the model.
        """
        if isinstance(self._scorer, Suite):
            self._scorer.probe()
        if self._base is None or not (isinstance(self._scorer, Suite) and self._scorer.needs_rehearsal):
            return
        self.resident.load(self._base)
        self._set_threads()
        self._scorer.rehearse(self.resident.subject)
        if not self.resident.is_intact():
            raise CampaignError(
                "tasks: a function (`metric`) changed the model that it was tried on: its weights, or their format or "
                "place. Candidates are merged into that very model: measure without, or on a copy (copy.deepcopy)."
            )
        self._inventory = None  # the rehearsal may tell more

    def evaluate(self, work: Work) -> BlockResult | Failed:
        """See search.ports.Evaluator."""
        kept = self.resident.holds(work.recipe_hash)
        result = self._attempt(work)
        if kept and isinstance(result, Failed) and not self._still_holds(work.recipe_hash):
            return self._attempt(work)  # somebody may have written into the model before this block: merge it anew
        return result

    def _attempt(self, work: Work) -> BlockResult | Failed:
        try:
            loaded = self.resident.load(work.recipe, expected_hash=work.recipe_hash)
            record_attempt(self._audit, work)
            scored = self._score_above_floor(loaded, work.items)
            if not self._still_holds(work.recipe_hash):
                cause = "the weights in the live model changed while they were scored: the scores were thrown away"
                return Failed(work.lease, cause, retryable=True)
            if self._floor and floor.nothing_right(scored.scores):
                self._check_text(loaded)
        except CampaignError:
            raise
        except Unreachable as error:
            return Failed(work.lease, str(error), retryable=True, outage=True)
        except _PASSING_ERRORS as error:
            return Failed(work.lease, _cause(error), retryable=True)
        except (MergefleetError, *_SCORING_ERRORS) as error:
            return Failed(work.lease, _cause(error), retryable=False)
        except _kernel_errors() as error:
            return Failed(work.lease, _cause(error), retryable=False)
        return BlockResult(
            work.lease, loaded.recipe_hash, loaded.weights_digest, scored.scores, measures=scored.measures
        )

    def _still_holds(self, recipe_hash: str) -> bool:
        """Whether the live model is, bit for bit, the candidate that was merged into it."""
        if self.resident.holds(recipe_hash) and self.resident.is_intact():
            return True
        self.resident.loaded = None
        return False

    def _score_above_floor(self, loaded: Loaded | VllmLoaded, keys: Sequence[str]) -> Scored:
        """EvaluationError where the candidate is no language model; looked at once, with its first block."""
        subject = self.resident.subject
        if not self._floor or loaded.recipe_hash == self._floor_passed:
            return self._score(subject, keys)
        cause = self.resident.blown_up()
        if cause is not None:
            raise EvaluationError(cause)
        with floor.Watch(subject.model) as watch:
            scored = self._score(subject, keys)
        if not watch.looked and self.resident.is_intact():
            cause = floor.failure(floor.look_at(subject.model, subject.tokenizer, self._floor_prompts()))
        if cause is not None:
            raise EvaluationError(cause)
        self._floor_passed = loaded.recipe_hash
        return scored

    def _check_text(self, loaded: Loaded | VllmLoaded) -> None:
        """EvaluationError where the candidate's text only loops and that of none of its sources does.

        Parents take the candidate's place in the live model, so this comes after scoring; what they do is kept.
        """
        if not self._only_loops():
            return
        for source in loaded.plan.sources:
            name = str(source)
            if name not in self._speaks:
                self.resident.load({"merge_method": "passthrough", "models": [{"model": name}]})
                self._speaks[name] = not self._only_loops()
            if not self._speaks[name]:
                return
        raise EvaluationError("floor: no item is right, and every prompt is continued by one to four tokens in a loop")

    def _only_loops(self) -> bool:
        subject = self.resident.subject
        return floor.only_loops(subject.model, subject.tokenizer, self._floor_prompts())

    def _floor_prompts(self) -> list[str]:
        if self._prompts is None:
            self._prompts = floor.prompts_of(self._scorer.items(), self._scorer.texts())
        return self._prompts

    def rescore(self, directory: Path, blocks: Iterable[Sequence[str]]) -> dict[str, float]:
        """Scores of a model on disk, by item, from the same blocks of items as in the campaign.

        Loads it with `AutoModelForCausalLM.from_pretrained`, as its users will, in the evaluator's dtype. With equal
        weights, dtype, threads and blocks the scores are exactly those of the live model. Raises EvaluationError
        where a tensor is missing or left over.
        """
        if self._entry.engine == "vllm":
            raise EvaluationError("files are scored again by transformers, and these scores are vLLM's: --no-rescore")
        subject = load_from_disk(directory, self._entry)
        unsaved, scores = Unsaved(subject.model), dict[str, float]()
        for block in blocks:
            unsaved.restore()
            scores |= self._score(subject, block).scores
        return scores

    def _score(self, subject: Subject, keys: Sequence[str]) -> Scored:
        self._set_threads()
        return self._scorer.score(subject, keys)

    def _set_threads(self) -> None:
        """Each time: Ray and other libraries change it behind our back."""
        import torch

        torch.set_num_threads(self._entry.threads)

    def close(self) -> None:
        self.resident.close()


@collector.paused()
def open_evaluator(campaign: Campaign, *, audit: Path, plans: Plans | None = None) -> ResidentEvaluator:
    """The evaluator a campaign asks for. Raises CampaignError for a task, metric or GPU that is not there."""
    check_device(campaign)
    if campaign.evaluator.engine == "vllm":
        check_vllm(campaign.origin, campaign.tasks)
    if campaign.evaluator.device == "cpu":
        keep_freed_memory()
    base = next(baseline.recipe for baseline in make_baselines(campaign) if baseline.kind == "base")
    plans = plans or Plans.of(campaign)
    scorer = open_scorer(campaign).with_models(beside_models(campaign, plans))
    return ResidentEvaluator(scorer, campaign.evaluator, audit=audit, plans=plans, base=base)


def check_device(campaign: Campaign) -> None:
    """CampaignError where the campaign asks for a GPU and torch finds none, or not that one."""
    device = campaign.evaluator.device
    if device.startswith("cuda"):
        import torch

        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if found <= int(device.partition(":")[2] or 0):
            told = "no GPU here; use 'cpu'" if not found else f"{found} here, counted from 0"
            raise CampaignError(f"{campaign.origin}: evaluator.device: got {device!r}, torch finds {told}.")


def _kernel_errors() -> tuple[type[Exception], ...]:
    """What numba raises where it cannot compile a kernel for what a candidate gives it. Asked only once something was
    raised: who compiled nothing has not imported numba."""
    module = sys.modules.get("numba.core.errors")
    return () if module is None else (module.NumbaError,)


def _cause(error: BaseException) -> str:
    """What is told of a failure."""
    if isinstance(error, MergefleetError):
        return error.flagless
    if isinstance(error, _kernel_errors()):  # a page in colours, of which the first line names the step, the second why
        lines = [line.strip() for line in _COLOURS.sub("", str(error)).splitlines()]
        return f"{type(error).__name__}: {': '.join([*filter(None, lines)][:2])}"
    return in_one_line(error)
