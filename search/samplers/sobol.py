"""`sobol`: the points of one scrambled Sobol sequence, whatever comes of them."""

from __future__ import annotations

from collections.abc import Sequence

from search.part import Part
from search.samplers.contract import Sampler, Setup, Told
from search.samplers.points import sobol_point
from search.space import Value


class Sobol(Sampler):
    """The candidates after the baselines are the points of the sequence, in order."""

    def __init__(self, setup: Setup, options: Part | None = None) -> None:
        self.setup = setup

    def ask(self, stage: int, number: int) -> dict[str, Value]:
        """The point of candidate `number`."""
        index = number - self.setup.baselines
        return sobol_point(self.setup.space, stage, index, seed=self.setup.seed)

    def tell(self, stage: int, results: Sequence[Told]) -> None:
        """Nothing to learn."""
