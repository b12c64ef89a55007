"""How a parameter varies along the layers: as a matrix from its values to the layers, so that a lift can be proved.

    value of layer l = Σ_k basis[l, k] · v_k

    none     one value for all layers                     blocks   one value per run of layers
    linear   k knots spread evenly, linear in between     cubic    the natural cubic spline through k knots

Rows of a basis sum to 1, so the same matrices hold in the unit cube. A natural spline has no second derivative at its
ends; it bends less than any other curve through the knots. Legend: L layers, K values, J[K', K] a lift.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["none", "blocks", "linear", "cubic"]
Matrix = NDArray[np.float64]
NEARLY = 1e-9  # of knots: below it a place is the knot itself
EXACT = 1e-11  # how far two bases may differ and still be the same: rounding of the interpolation


@dataclass(frozen=True)
class Depth:
    """A way to vary along the layers, with `count` values."""

    kind: Kind = "none"
    count: int = 1

    def places(self, layers: int) -> tuple[float, ...]:
        """Relative depth, from 0 to 1, of every value: its knot, or the first layer of its block."""
        if self.kind == "none":
            return (0.0,)
        if self.kind == "blocks":
            firsts = [next(n for n in range(layers) if block_of(n, self.count, layers) == k) for k in range(self.count)]
            return tuple(first / max(1, layers - 1) for first in firsts)
        return tuple(knot / (self.count - 1) for knot in range(self.count))

    def rows(self, depths: tuple[float, ...], layers: int) -> Matrix:
        """[P, K]: what the values give at these relative depths."""
        if self.kind == "none":
            return np.ones((len(depths), 1))
        if self.kind == "cubic":
            return _cubic(self.count, depths)
        rows = np.zeros((len(depths), self.count))
        for row, depth in zip(rows, depths, strict=True):
            if self.kind == "blocks":
                row[block_of(round(depth * (layers - 1)), self.count, layers)] = 1.0
                continue
            low, part = _between(depth, self.count)
            row[low] = 1.0 - part
            if part:
                row[low + 1] = part
        return rows

    def basis(self, layers: int) -> Matrix:
        """[L, K]"""
        return _basis(self, layers)


def block_of(layer: int, blocks: int, layers: int) -> int:
    """Which of `blocks` nearly equal runs of layers a layer belongs to."""
    return layer * blocks // layers


@lru_cache(maxsize=256)
def lift(coarse: Depth, fine: Depth, layers: int) -> Matrix | None:
    """J with basis_fine · J = basis_coarse, so that fine values J · v say exactly what v says; None where none does.

    A candidate is the coarse curve, looked up where the fine values lie; the equation is then checked, not believed.
    """
    found = coarse.rows(fine.places(layers), layers)
    found.setflags(write=False)  # it is remembered
    return found if np.abs(fine.basis(layers) @ found - coarse.basis(layers)).max() <= EXACT else None


@lru_cache(maxsize=256)
def _basis(depth: Depth, layers: int) -> Matrix:
    rows = depth.rows(tuple(layer / max(1, layers - 1) for layer in range(layers)), layers)
    rows.setflags(write=False)
    return rows


def _between(depth: float, knots: int) -> tuple[int, float]:
    """The knot before a relative depth, and how far on to the next one it lies (mergekit's interpolation)."""
    position = depth * (knots - 1)
    low = min(int(position + NEARLY), knots - 1)
    part = position - low
    return low, part if abs(part) > NEARLY else 0.0


@lru_cache(maxsize=256)
def _cubic(knots: int, depths: tuple[float, ...]) -> Matrix:
    """[P, K]: column k is the natural spline that is 1 at knot k and 0 at the others."""
    from scipy.interpolate import CubicSpline

    spline = CubicSpline(np.linspace(0.0, 1.0, knots), np.eye(knots), bc_type="natural")
    rows: Matrix = spline(np.array(depths))
    rows[np.abs(rows) < EXACT] = 0.0  # exactly 0 and 1 at the knots, so that a lift there is a plain copy
    rows[np.abs(rows - 1.0) < EXACT] = 1.0
    rows.setflags(write=False)
    return rows
