"""Who proposes: sampler names → samplers, all behind one Optuna study that is asked and told.

`auto` and `cma` are StagedCma: a steady-state CMA-ES on `cmaes`, one optimiser per stage. Cohorts are told as they
complete and none is dropped (Optuna's own CMA-ES drops 83 % of the results of 64 workers). A proposal is a function of
what was told, the seed and the candidate's number alone, so a restart that replays the rows proposes the same. A lost
candidate ranks last in its cohort: CMA-ES looks at ranks only, so no score is invented for it.

`tpe` and `random` are Optuna's, seeded anew for every candidate for the same reason; `sobol` goes on with the Sobol
sequence. These three know one stage only, and score every candidate on the same window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from search.campaign_file import SamplerName
from search.space import Params, Space

if TYPE_CHECKING:
    import cmaes
    import optuna

RESAMPLINGS = 20  # draws outside the bounds are repeated this often, then clipped
SOBOL_LOG2 = 10  # a scrambled Sobol sequence is balanced over powers of two


@dataclass(frozen=True)
class Told:
    """One member of a complete cohort: its point, and its score (None: lost; `stopped`: of a part of the window)."""

    number: int
    params: Params
    score: float | None
    stopped: bool = False


class StagedCma:
    """One CMA-ES per stage; each starts from the mean of the stage before, lifted.

    A stage's optimiser comes to life with the first cohort told to it. Until then draws come from its start, which
    follows the results that still reach the stage before: with many workers no result is in vain.
    """

    def __init__(self, space: Space, *, seed: int) -> None:
        self.space = space
        self.seed = seed
        self._optimisers: list[cmaes.CMA | None] = [None for _ in space.stages]
        self._first = space.stages[0].to_unit(space.stages[0].start())
        self.history: list[list[dict[str, float]]] = [[] for _ in space.stages]

    def ask(self, stage: int, number: int) -> dict[str, float]:
        """A draw from the stage's present distribution, on the grid."""
        optimiser = self._optimisers[stage] or self._make(stage)
        optimiser.reseed_rng((self.seed * 1_000_003 + number) % 2**32)
        return self.space.stages[stage].from_unit(optimiser.ask())

    def ask_sobol(self, index: int) -> dict[str, float]:
        """Point `index` of a scrambled Sobol sequence over the first stage."""
        from scipy.stats import qmc

        stage = self.space.stages[0]
        sequence = qmc.Sobol(len(stage.axes), scramble=True, rng=np.random.default_rng(self.seed))
        return stage.from_unit(sequence.random_base2(SOBOL_LOG2)[index % 2**SOBOL_LOG2])

    def tell(self, stage: int, cohort: Sequence[Told]) -> None:
        """Take in a complete cohort of the stage's population; one that was lost altogether teaches nothing."""
        ranked = _ranked(cohort)
        if not ranked:
            return
        optimiser = self._optimisers[stage] or self._make(stage)
        self._optimisers[stage] = optimiser
        unit = self.space.stages[stage].to_unit
        optimiser.tell([(unit(member.params), float(rank)) for rank, member in enumerate(ranked)])
        self.history[stage].append(self.mean(stage))

    def tell_start(self, points: Sequence[Told]) -> None:
        """Start the first stage at the weighted mean of the better half of `points` (CMA-ES' own weights)."""
        ranked = [member for member in _ranked(points) if member.score is not None]
        best = ranked[: max(1, len(ranked) // 2)]
        if not best:
            return
        weights = np.log(len(best) + 0.5) - np.log(np.arange(1, len(best) + 1))
        units = np.array([self.space.stages[0].to_unit(member.params) for member in best])
        self._first = (weights / weights.sum()) @ units

    def mean(self, stage: int) -> dict[str, float]:
        """The centre of the stage's distribution, on the grid: a candidate of its own, usually the best."""
        return self.space.stages[stage].rounded(self._centre(stage))

    def _centre(self, stage: int) -> dict[str, float]:
        optimiser = self._optimisers[stage]
        unit = self._start(stage) if optimiser is None else np.clip(optimiser.mean, 0.0, 1.0)
        axes = self.space.stages[stage].axes
        return {axis.name: axis.low + float(u) * (axis.high - axis.low) for axis, u in zip(axes, unit, strict=True)}

    def _start(self, stage: int) -> NDArray[np.float64]:
        if stage == 0:
            return self._first
        lifted = self.space.lift(stage - 1, self._centre(stage - 1))
        return self.space.stages[stage].to_unit(lifted)

    def _make(self, stage: int) -> cmaes.CMA:
        import cmaes

        rule = self.space.stages[stage]
        return cmaes.CMA(
            mean=np.clip(self._start(stage), 0.0, 1.0),
            sigma=rule.entry.sigma,
            bounds=np.array([[0.0, 1.0]] * len(rule.axes)),
            n_max_resampling=RESAMPLINGS,
            seed=self.seed % 2**32,
            population_size=rule.population,
        )


def _ranked(cohort: Sequence[Told]) -> list[Told]:
    """Best first: scores falling, equal ones by number; stopped ones next, lost ones last. Empty: nothing scored."""
    if all(member.score is None for member in cohort):
        return []
    return sorted(cohort, key=lambda m: (m.score is None, m.stopped, -(m.score or 0.0), m.number))


class Proposer:
    """The campaign's Optuna study with its sampler: candidate n of the search is trial n.

    The study is a cache: `restore` and `finish` rebuild it from the store's rows.
    """

    def __init__(self, space: Space, *, sampler: SamplerName, seed: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.space = space
        self.seed = seed
        self.cma = StagedCma(space, seed=seed)
        self._sampler = sampler
        self._given = _given_sampler()
        self._distributions = [stage.distributions() for stage in space.stages]  # slow to make, and never changed
        self.study = optuna.create_study(direction="maximize", study_name="campaign")

    def ask(self, number: int, *, stage: int, sobol: int | None) -> dict[str, float]:
        """Draw candidate `number`; `sobol` is the index of a Sobol point, None for the sampler's own draw."""
        self.study.sampler = self._sampler_for(number, stage, sobol)
        trial = self.study.ask(dict(self._distributions[stage]))
        if trial.number != number:
            raise AssertionError(f"trial {trial.number} stands for candidate {number}: the study lost its rows")
        return self.space.stages[stage].rounded(trial.params)

    def restore(self, *, stage: int, params: Params) -> None:
        """Add the next candidate as a running trial without asking: baselines (no params), and replays."""
        import optuna

        distributions = self._distributions[stage] if params else {}
        running = optuna.trial.create_trial(
            state=optuna.trial.TrialState.RUNNING, params=dict(params), distributions=dict(distributions)
        )
        self.study.add_trial(running)

    def finish(self, number: int, score: float | None, *, stopped: bool = False) -> None:
        """Tell the study a trial's score, or that it failed; one that was stopped early is a pruned trial."""
        import optuna

        states = optuna.trial.TrialState
        if stopped:
            self.study.tell(number, state=states.PRUNED)
            return
        self.study.tell(number, score, state=states.FAIL if score is None else states.COMPLETE)

    def _sampler_for(self, number: int, stage: int, sobol: int | None) -> optuna.samplers.BaseSampler:
        import optuna

        seed = (self.seed * 1_000_003 + number) % 2**32
        if self._sampler == "tpe" and sobol is None:
            return optuna.samplers.TPESampler(seed=seed, multivariate=True)
        if self._sampler == "random" and sobol is None:
            return optuna.samplers.RandomSampler(seed=seed)
        self._given.point = self.cma.ask(stage, number) if sobol is None else self.cma.ask_sobol(sobol)
        given: optuna.samplers.BaseSampler = self._given
        return given


def _given_sampler() -> Any:
    """An Optuna sampler whose `point` is the next trial (a class in a function, because optuna loads late)."""
    import optuna

    class Given(optuna.samplers.BaseSampler):
        point: Params = {}  # noqa: RUF012

        def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
            return {}

        def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
            return {}

        def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> float:
            return self.point[param_name]

    return Given()
