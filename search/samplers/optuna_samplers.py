"""Optuna's samplers: `tpe`, `gp`, `random`, and any other by its import path, asked and told through a study.

A study in memory holds one trial per candidate of the search (baselines are trials without parameters, those that run
are RUNNING trials, which TPE and GP take into account). The sampler is made anew for every candidate, seeded by its
number, so that what it proposes depends on the study alone, which is a cache that a replay rebuilds. A sampler by
import path may keep more than trials there (`CmaEsSampler`, `QMCSampler`), so a replay lets it draw again. An argument
that is an object (the base sampler of a PartialFixedSampler, a crossover) is written as the import path of its class,
or as {path: its own arguments}.
"""

from __future__ import annotations

import importlib
import inspect
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from engine.errors import CampaignError, did_you_mean
from search.samplers.arguments import refusal
from search.samplers.contract import SEED_STEP, Sampler, Setup, Told
from search.samplers.points import Places, allowed
from search.space import Params, Value

if TYPE_CHECKING:
    import optuna

    Making = Callable[[int], optuna.samplers.BaseSampler]

VIOLATION = "violation"
_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
REHEARSED = 14
"""Trials of a rehearsal: TPE and GP look at scores, and at the options about them, after ten."""
FAILURES = (ArithmeticError, AttributeError, ImportError, LookupError, RuntimeError, TypeError, ValueError)
"""What classes of others raise, where they do not fit."""


class OptionsRefused(ValueError):
    """What Optuna's class has against the options, with their key; the campaign file is `make_sampler`'s to name."""


class OptunaSampler(Sampler):
    """A study and `make(seed)`, which gives the sampler of one candidate. Knows one stage, and its constraints.

    `imported` is the name of a class that is not one of ours (""): a replay asks it again for what it knows, so that it
    leaves in the study what it left before, and what it raises is told of as its failure.
    """

    def __init__(self, setup: Setup, make: Making, *, imported: str = "") -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.setup = setup
        self._make, self._imported = make, imported
        self._trials: dict[int, int] = {}  # candidate → trial
        self._places = Places(setup.space.stages[0])
        self._distributions = setup.space.stages[0].distributions()  # slow to make, and never changed
        self.study = optuna.create_study(study_name="campaign", directions=["maximize"] * setup.objectives)

    def ask(self, stage: int, number: int) -> dict[str, Value]:
        """The point of trial `number`; elites of earlier campaigns before anything that the sampler draws."""
        elite = self.setup.first(stage, number)
        if elite is not None:
            return elite
        return self._proposed(stage, number)

    def draw(self, number: int) -> tuple[int, dict[str, Any]]:
        """A new trial, and what the sampler of candidate `number` draws for it."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that something is experimental is no news for whoever runs a campaign
            self.study.sampler = self._make((self.setup.seed * SEED_STEP + number) % 2**32)
            with self._blamed(number):
                return self._drawn()

    @contextmanager
    def _blamed(self, number: int) -> Iterator[None]:
        try:
            yield
        except FAILURES as failure:
            if not self._imported:
                raise
            told = f"{type(failure).__name__}: {failure}".replace("\n", " ")
            raise CampaignError(f"sampler: {self._imported} fails at candidate {number}: {told}") from failure

    def _proposed(self, stage: int, number: int) -> dict[str, Value]:
        """What the sampler draws; where that may not be, the trial fails and the point that is scored gets another."""
        trial, drawn = self.draw(number)
        space = self.setup.space
        point = allowed(space, stage, space.stages[stage].rounded(drawn))
        self._trials[number] = trial
        if space.constrained and point != drawn:
            self.study.tell(trial, state=_states().FAIL)
            self._run(number, point)
        return point

    def _drawn(self) -> tuple[int, dict[str, Any]]:
        """A new trial: an axis that makes no difference there is not drawn, and stands at its start."""
        if not self._places.conditional:
            trial = self.study.ask(dict(self._distributions))
            return trial.number, dict(trial.params)
        trial = self.study.ask()
        params: dict[str, Any] = {}
        while True:
            known = {axis.name: params.get(axis.name, axis.start) for axis in self._places.stage.axes}
            idle = self._places.idle(known)
            missing = next((name for name in self._distributions if name not in idle and name not in params), None)
            if missing is None:
                return trial.number, known
            params[missing] = _suggested(trial, missing, self._distributions[missing])

    def enter(self, stage: int, number: int, params: Params) -> None:
        """Add a running trial, unless asking has made it already."""
        if number in self._trials:
            return
        if self._imported and self.setup.drawn(number) >= 0 and self.setup.first(stage, number) is None:
            again = self.ask(stage, number)
            if again == params:
                return
            self.study.tell(self._trials[number], state=_states().FAIL)  # a fork's sampler did not draw it
        self._run(number, params)

    def _run(self, number: int, params: Params) -> None:
        import optuna

        drawn = {name: value for name, value in params.items() if name not in self._places.idle(params)}
        running = optuna.trial.create_trial(
            state=optuna.trial.TrialState.RUNNING,
            params=drawn,
            distributions={name: self._distributions[name] for name in drawn},
        )
        self._trials[number] = len(self.study.get_trials(deepcopy=False))
        self.study.add_trial(running)

    def tell(self, stage: int, results: Sequence[Told]) -> None:
        """Close the trials; a lost candidate is a failed one, one that was stopped early is a pruned one."""
        from optuna.trial import Trial

        for result in results:
            trial = self._trials[result.number]
            if result.score is None or result.stopped:
                self.study.tell(trial, state=_states().FAIL if result.score is None else _states().PRUNED)
                continue
            if self.setup.constrained:
                frozen = self.study.get_trials(deepcopy=False)[trial]
                Trial(self.study, frozen._trial_id).set_constraint(VIOLATION, result.violation)
            with warnings.catch_warnings(), self._blamed(result.number):
                warnings.simplefilter("ignore")  # at every trial: that a sampler makes no use of constraints
                self.study.tell(trial, list(result.goals))


def tpe(setup: Setup, options: Mapping[str, Any]) -> OptunaSampler:
    """Multivariate TPE; grouped where the space is conditional, so that a candidate learns from those like itself."""
    import optuna

    known = {"multivariate": True, "group": Places(setup.space.stages[0]).conditional} | dict(options)
    return _tried(setup, optuna.samplers.TPESampler, known)


def gp(setup: Setup, options: Mapping[str, Any]) -> OptunaSampler:
    """A Gaussian process that knows that scores are noisy."""
    import optuna

    known = {"deterministic_objective": False, "warn_independent_sampling": False} | dict(options)
    return _tried(setup, optuna.samplers.GPSampler, known)


def random(setup: Setup, options: Mapping[str, Any]) -> OptunaSampler:
    """Even draws."""
    import optuna

    return _tried(setup, optuna.samplers.RandomSampler, options)


def imported(path: str, *, origin: str) -> Callable[[Setup, Mapping[str, Any]], OptunaSampler]:
    """The sampler class at `module:Class`, for the table. CampaignError where there is no Optuna sampler."""
    cls = _imported_class(path, origin=origin)

    def make(setup: Setup, options: Mapping[str, Any]) -> OptunaSampler:
        return _tried(setup, cls, options, imported=cls.__name__)

    return make


def _tried(
    setup: Setup, cls: type[optuna.samplers.BaseSampler], options: Mapping[str, Any], *, imported: str = ""
) -> OptunaSampler:
    """A sampler of this class, which has drawn a point in a study that is thrown away; one that is not ours, or that
    has options, has been through a little campaign there.

    OptionsRefused where it refuses an option, some look at their values only when they draw, or cannot work like this.
    """
    known = inspect.signature(cls).parameters
    seeded, rest = "seed" in known, any(entry.kind is entry.VAR_KEYWORD for entry in known.values())
    for name in options:
        if name == "seed" or (name not in known and not rest):
            told = "comes from the campaign's `seed`" if name == "seed" else did_you_mean(name, {*known} - {"seed"})
            raise OptionsRefused(f"sampler_options.{name}: {cls.__name__}: {told}")
    refused = refusal(cls, options)
    if refused is not None:
        raise OptionsRefused(refused)
    try:
        with_objects(options, 0)
    except ValueError as error:
        raise OptionsRefused(str(error)) from None

    def make(seed: int, given: Mapping[str, Any] = options) -> optuna.samplers.BaseSampler:
        return cls(**with_objects(given, seed), **({"seed": seed} if seeded else {}))

    failure = _failure(setup, make, thorough=bool(imported or options))
    if failure is not None:
        raise OptionsRefused(f"{_blame(setup, make, cls.__name__, options)}: {failure}")
    return OptunaSampler(setup, make, imported=imported)


def with_objects(options: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The options, with an object, seeded if it can be, where one is written as the path of its class.

    ValueError names the option whose class is not there, or cannot be made like this.
    """
    return {name: _object(name, value, seed) for name, value in options.items()}


def _object(name: str, value: Any, seed: int) -> Any:
    alone = isinstance(value, Mapping) and len(value) == 1
    path, given = next(iter(value.items())) if alone else (value, None)
    if not (isinstance(path, str) and _PATH.fullmatch(path) and isinstance(given, Mapping | None)):
        return value
    module, _, attribute = path.partition(":")
    try:
        cls = getattr(importlib.import_module(module), attribute)
        if not inspect.isclass(cls):
            raise TypeError("no class, and nothing else is called")
        seeded = {"seed": seed} if "seed" in inspect.signature(cls).parameters else {}
        return cls(**with_objects(given or {}, seed), **seeded)
    except (ImportError, AttributeError, TypeError, ValueError) as failure:
        raise ValueError(f"sampler_options.{name}: {path!r} cannot be made: {failure}") from None


def _failure(setup: Setup, make: Making, *, thorough: bool) -> str | None:
    """What goes wrong at a first draw, or in all that happens in a campaign; nothing of it is kept."""
    try:
        OptunaSampler(setup, make).draw(0)
        if thorough:
            _rehearse(OptunaSampler(setup, make))
    except FAILURES as failure:
        return str(failure).replace("\n", " ")
    return None


def _rehearse(sampler: OptunaSampler) -> None:
    """A baseline, a point that others proposed, and draws that are scored or lost, until the sampler uses scores."""
    start, values = sampler.setup.space.stages[0].start(), (0.5,) * sampler.setup.objectives
    for number, params in ((0, {}), (1, start)):
        sampler.enter(0, number, params)
        sampler.tell(0, [Told(number, params, 0.5, values)])
    for number in range(2, REHEARSED):
        point = sampler._proposed(0, number)
        sampler.tell(0, [Told(number, point, None if number == 3 else 0.5, values)])


def _blame(setup: Setup, make: Callable[..., Any], name: str, options: Mapping[str, Any]) -> str:
    """The option without which it works; all of them where there is none, and the sampler where there are none."""
    if not options:
        return f"sampler: {name} cannot search this campaign"
    for guilty in options:
        others = {known: value for known, value in options.items() if known != guilty}
        if _failure(setup, partial(make, given=others), thorough=True) is None:
            return f"sampler_options.{guilty}: got {options[guilty]!r}, which {name} refuses"
    return f"sampler_options: {name} refuses them"


def _states() -> type[optuna.trial.TrialState]:
    import optuna

    return optuna.trial.TrialState


def _suggested(trial: optuna.Trial, name: str, distribution: Any) -> Any:
    """One parameter of a trial that is defined as it runs."""
    from optuna.distributions import CategoricalDistribution, IntDistribution

    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(name, distribution.low, distribution.high, step=distribution.step)
    return trial.suggest_float(name, distribution.low, distribution.high, step=distribution.step)


def _imported_class(path: str, *, origin: str) -> type[optuna.samplers.BaseSampler]:
    import optuna

    module_name, _, class_name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), class_name, None)
    except ImportError as failure:
        raise CampaignError(f"{origin}: sampler: {path!r} cannot be imported: {failure}") from None
    if not (inspect.isclass(found) and issubclass(found, optuna.samplers.BaseSampler)):
        raise CampaignError(
            f"{origin}: sampler: {path!r} is no Optuna sampler; a class derived from optuna.samplers.BaseSampler "
            "expected, as in optuna.samplers:TPESampler"
        )
    return found
