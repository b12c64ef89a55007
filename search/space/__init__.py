"""The searched space: coordinates ↔ recipes ↔ Optuna distributions, and the lift from a coarse stage to a finer one.

A stage has one *axis* per parameter × source (none for what belongs to the whole merge) × place; the place depends on
the granularity `by`:

    global           one value for every tensor
    module           one per module group (attention, mlp, ...) and one for the rest
    layer_block      one per block of layers; tensors before (after) the layers go with the first (last) block
    module_layer     one per module group × block, and one for the rest
    gradient         k knots spread evenly over the layers, linear or a natural spline in between
    module_gradient  k knots per module group, and one value for the rest
    patterns         one per pattern of tensor names and one for the rest, over blocks or knots if wanted

Besides, `method` and `use/SOURCE` are categories, and `layers/...` a sequence of layers (passthrough).

    entry.py        `space:` of a campaign file      methods.py      what the engine's table says of methods
    build.py        entry → Space                    checks.py       everything that can be wrong with it
    axes.py         axes, stages, grid, unit cube    depth.py        values → layers, as matrices
    codec.py        Space: points ↔ recipes          lifting.py      points and Gaussians to a finer stage
    sequence.py     layer sequences                  feasible.py     constraints.py: what may be; repair
    known.py        baselines that are points        moves.py        blocks of axes, crossover
"""

from __future__ import annotations

from search.space.axes import Axis, Params, Shape, Stage, Value
from search.space.build import make_space
from search.space.checks import check_tensors
from search.space.codec import Space
from search.space.lifting import Gaussian
from search.space.moves import coordinate_blocks, crossover

__all__ = [
    "Axis",
    "Gaussian",
    "Params",
    "Shape",
    "Space",
    "Stage",
    "Value",
    "check_tensors",
    "coordinate_blocks",
    "crossover",
    "make_space",
]
