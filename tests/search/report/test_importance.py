"""Our PED-ANOVA is Optuna's."""

from __future__ import annotations

import random

import optuna
import pytest

from search.report.importance import Axis, importances

CHOICES = ("ties", "slerp", True)


def optunas(axes: dict[str, Axis], scores: list[float]) -> dict[str, float]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    kinds = {
        name: optuna.distributions.CategoricalDistribution(axis.choices)
        if axis.choices
        else optuna.distributions.FloatDistribution(axis.low, axis.high)
        for name, axis in axes.items()
    }
    for place, score in enumerate(scores):
        params = {name: axis.values[place] for name, axis in axes.items()}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=kinds, value=score))
    return optuna.importance.get_param_importances(study)


@pytest.mark.parametrize("count", [3, 12, 300])
@pytest.mark.parametrize("spread", [0.01, 0.4])
def test_importances_are_those_of_optuna(count: int, spread: float) -> None:
    rng = random.Random(count)
    axes = {
        "wide": Axis([rng.uniform(-1, 2) for _ in range(count)], -1.0, 2.0),
        "narrow": Axis([min(1.0, max(0.0, rng.gauss(0.7, spread))) for _ in range(count)], 0.0, 1.0),
        "at the ends": Axis([float(rng.choice((0, 0, 1))) for _ in range(count)], 0.0, 1.0),
        "kind": Axis([rng.choice(CHOICES) for _ in range(count)], choices=CHOICES),
        "single": Axis([0.5] * count, 0.5, 0.5),
    }
    scores = [axes["narrow"].values[n] * 0.3 - abs(axes["wide"].values[n]) + rng.gauss(0, 0.1) for n in range(count)]
    found, theirs = importances(axes, scores), optunas(axes, scores)
    assert found == pytest.approx(theirs, rel=1e-6, abs=1e-9)
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_equal_scores_tell_nothing_and_equal_parameters_share_alike() -> None:
    axes = {name: Axis([0.5] * 4, 0.5, 0.5) for name in "ab"}
    assert importances(axes, [0.5] * 4) == {}
    assert importances(axes, [0.1, 0.2, 0.3, 0.4]) == {"a": 0.5, "b": 0.5}
