"""Exact top-k of magnitudes without sorting: what TIES keeps, what Breadcrumbs cuts off at both ends, what SCE selects.

The k-th largest |score| is found by counting: its float32 bits, as integers, are in the order of the magnitudes, so a
histogram of the upper 15 bits finds the bin, a second one of the lower 16 bits within that bin the exact value, for all
rows of scores in one pass each. Elements that equal the threshold are counted in index order until there are k; where
that cuts through them, one more pass counts them per block and a look into one block finds the last index. So exactly k
are counted off, always the same ones, however the tensor is cut. Mostly a guess saves the histograms (`guess`).

Legend: S rows of scores (mostly the M task vectors), P cuts through each, every one after its own k largest.
The fact "trim" is int64[2, P, S]: threshold bits, last index. In float64 recipes magnitudes are compared after rounding
to float32.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from engine.methods import guess
from engine.methods.contract import Array, Block, Call, Facts, RawBlock, Reuse, Stage
from engine.methods.deltas import deltas
from engine.numerics import kth_from_above

if TYPE_CHECKING:
    from torch import Tensor

    from engine.kernels.trim import Keep

_HIGH, _LOW = 1 << 15, 1 << 16


@dataclass(frozen=True)
class Cuts:
    """Which scores are ranked, and where they are cut.

    Attributes:
        ks: (call, counts[S, bins] of the first histogram) → how many are counted off, [P][S].
        settings: of each source, that its `ks` depend on; none where rows are not those of the sources.
        guessed: `ks` does not look at the counts, so that thresholds can be guessed before.
        cuts: P.
        rows: call → S.
        scores: block → the S rows of scores, in torch.
        raw_scores: (call, raw block) → rows[1 + S, ≥ n] of stored bits; differences from the first are the scores.
    """

    ks: Callable[[Call, Array], Sequence[Sequence[int]]]
    settings: tuple[str, ...] = ()
    guessed: bool = True
    cuts: int = 1
    rows: Callable[[Call], int] = lambda call: len(call.source_ids)
    scores: Callable[[Block], list[Tensor]] = deltas
    raw_scores: Callable[[Call, RawBlock], Array] = lambda call, raw: raw.rows

    def stages(self) -> tuple[Stage, ...]:
        """The stages that lead to "trim"."""
        ints = np.int64
        way: Reuse = "way" if self.settings else "never"
        return (
            *(self._guesses(way) if self.guessed else ()),
            Stage(
                *("high", self._finish_high, self._shape_high, ints, "counts", self._measure_high, self._kernel_high),
                only=lambda facts: _unless_settled(facts, guess.HIGH),
                seldom=self.guessed,
                reuse=way,
            ),
            Stage(
                *("low", _finish_low, self._shape_low, ints, "counts", self._measure_low, self._kernel_low),
                only=lambda facts: _unless_settled(facts, guess.LOW),
                seldom=self.guessed,
                reuse=way,
            ),
            Stage(
                *("ties", _finish_ties, self._shape, ints, "per_block", self._measure_ties, self._kernel_ties),
                only=_need_ties,
                seldom=True,
                reuse=way,
            ),
            Stage(
                *("trim", _finish_trim, self._shape, ints, "counts", self._measure_last, self._kernel_last),
                only=_need_last,
                seldom=True,
                reuse="source" if self.settings else "never",
                settings=self.settings,
            ),
        )

    def _guesses(self, way: Reuse) -> tuple[Stage, ...]:
        """The stages that mostly settle it."""
        return (
            Stage(
                *("guess", self._finish_guess, self._shape_high, np.int64, "counts"),
                *(self._measure_guess, self._kernel_guess),
                reuse=way,
            ),
            Stage(
                *("counted", self._finish_counted, self._shape_counted, np.int64, "per_block"),
                *(self._measure_counted, self._kernel_counted),
                reuse=way,
            ),
        )

    def _shape(self, call: Call) -> tuple[int, ...]:
        return self.cuts, self.rows(call)

    def _shape_high(self, call: Call) -> tuple[int, ...]:
        return self.rows(call), _HIGH

    def _shape_low(self, call: Call) -> tuple[int, ...]:
        return *self._shape(call), _LOW

    def _shape_counted(self, call: Call) -> tuple[int, ...]:
        return 3, *self._shape(call)

    def _measure_guess(self, call: Call, block: Block, facts: Facts) -> Tensor:
        return _histogram([score[: guess.SAMPLE] for score in self.scores(block)])

    def _kernel_guess(self, call: Call, raw: RawBlock, facts: Facts, out: Array) -> None:
        from engine.kernels import measure

        measure.histogram_few(self.raw_scores(call, raw), min(raw.elements, guess.SAMPLE), out)

    def _finish_guess(self, call: Call, partial: Any, facts: Facts) -> Array:
        return guess.bins(partial, self.ks(call, partial), call.elements)

    def _measure_counted(self, call: Call, block: Block, facts: Facts) -> Tensor:
        import torch

        bits = [magnitude_bits(score) for score in self.scores(block)]
        counts = []
        for row, _, number in _places(facts["guess"]):
            lowest = number << 16
            matches = bits[row] > lowest + 0xFFFF, bits[row] > lowest, bits[row] == lowest
            counts.append(torch.stack([torch.count_nonzero(match) for match in matches]))
        return torch.stack(counts, dim=-1).view(self._shape_counted(call))

    def _kernel_counted(self, call: Call, raw: RawBlock, facts: Facts, out: Array) -> None:
        from engine.kernels import measure

        measure.count_around(self.raw_scores(call, raw), raw.elements, facts["guess"], out)

    def _finish_counted(self, call: Call, partial: Any, facts: Facts) -> Array:
        return guess.counted(partial, facts["guess"], self.ks(call, partial))

    def _measure_high(self, call: Call, block: Block, facts: Facts) -> Tensor:
        return _histogram(self.scores(block))

    def _kernel_high(self, call: Call, raw: RawBlock, facts: Facts, out: Array) -> None:
        from engine.kernels import measure

        measure.histogram_high(self.raw_scores(call, raw), raw.elements, out)

    def _finish_high(self, call: Call, partial: Any, facts: Facts) -> Array:
        """int64[3, P, S]: k, upper bits of the threshold (−1: none is kept), how many elements lie above that bin."""
        known = guess.settled(facts, guess.HIGH)
        if known is not None:
            return cast(Array, known)
        found = [
            [(k, *kth_from_above(counts, k)) if k else (0, -1, 0) for counts, k in zip(partial, ks, strict=True)]
            for ks in self.ks(call, partial)
        ]
        return np.moveaxis(np.array(found, np.int64), -1, 0)

    def _measure_low(self, call: Call, block: Block, facts: Facts) -> Tensor:
        import torch

        bits = [magnitude_bits(score) for score in self.scores(block)]
        counts = []
        for row, _, high in _places(facts["high"][1]):
            inside = (bits[row] >> 16) == high
            places = torch.where(inside, bits[row] & 0xFFFF, _LOW)
            counts.append(torch.bincount(places, minlength=_LOW + 1)[:_LOW])
        return torch.stack(counts).view(self._shape_low(call))

    def _kernel_low(self, call: Call, raw: RawBlock, facts: Facts, out: Array) -> None:
        from engine.kernels import measure

        measure.histogram_low(self.raw_scores(call, raw), raw.elements, facts["high"][1], out)

    def _measure_ties(self, call: Call, block: Block, facts: Facts) -> Tensor:
        import torch

        bits = [magnitude_bits(score) for score in self.scores(block)]
        counts = [torch.count_nonzero(bits[row] == threshold) for row, _, threshold in _places(facts["low"][0])]
        return torch.stack(counts).view(self._shape(call))

    def _kernel_ties(self, call: Call, raw: RawBlock, facts: Facts, out: Array) -> None:
        from engine.kernels import measure

        measure.count_ties(self.raw_scores(call, raw), raw.elements, facts["low"][0], out)

    def _measure_last(self, call: Call, block: Block, facts: Facts) -> Tensor:
        import torch

        bits = [magnitude_bits(score) for score in self.scores(block)]
        found = []
        for row, cut, number in _places(facts["ties"][0]):
            index = torch.zeros((), dtype=torch.int64, device=bits[row].device)
            if number == block.number:
                ties = bits[row] == int(facts["low"][0, cut, row])
                index = block.start + torch.nonzero(ties)[int(facts["ties"][1, cut, row]) - 1, 0]
            found.append(index)
        return torch.stack(found).view(self._shape(call))

    def _kernel_last(self, call: Call, raw: RawBlock, facts: Facts, out: Array) -> None:
        from engine.kernels import measure

        scores = self.raw_scores(call, raw)[:, : raw.elements]
        for row, cut, number in _places(facts["ties"][0]):
            if number == raw.number:
                threshold, rank = int(facts["low"][0, cut, row]), int(facts["ties"][1, cut, row])
                out[cut, row] += raw.start + measure.locate_tie(scores[row + 1], scores[0], threshold, rank)


def kept(call: Call, block: Block, facts: Facts) -> list[Tensor]:
    """δ_j where it is counted off by the first cut, and not by the second, if there is one; else 0."""
    import torch

    if "trim" not in facts:
        return deltas(block)
    out = []
    for row, delta in enumerate(deltas(block)):
        keep = counted_off(block, delta, facts["trim"][:, 0, row])
        if facts["trim"].shape[1] == 2:
            keep = keep & ~counted_off(block, delta, facts["trim"][:, 1, row])
        out.append(torch.where(keep, delta, torch.zeros_like(delta)))
    return out


def keep(call: Call, raw: RawBlock, facts: Facts) -> Keep:
    """The same for the kernels."""
    from engine.kernels import trim

    whole = trim.keep_all(len(call.source_ids))
    if "trim" not in facts:
        return whole
    thresholds, lasts = facts["trim"]
    kind = trim.MAGNITUDE if len(thresholds) == 1 else trim.BAND
    return whole._replace(kind=kind, thresholds=thresholds.astype(np.int32), lasts=lasts - raw.start)


def counted_off(block: Block, scores: Tensor, cut: Array) -> Tensor:
    """Where |score| is above the cut's threshold, or equals it at an index up to the last."""
    import torch

    threshold, last = cut.tolist()
    bits = magnitude_bits(scores)
    index = block.start + torch.arange(scores.numel(), device=scores.device)
    above: Tensor = (bits > threshold) | ((bits == threshold) & (index <= last))
    return above


def _histogram(scores: list[Tensor]) -> Tensor:
    """int64[S, bins] by the upper 15 bits of magnitudes."""
    import torch

    return torch.stack([torch.bincount(magnitude_bits(score) >> 16, minlength=_HIGH) for score in scores])


def magnitude_bits(score: Tensor) -> Tensor:
    """int32: the bits of |score| as float32."""
    import torch

    return score.to(torch.float32).view(torch.int32) & 0x7FFFFFFF


def _places(fact: Array) -> Iterator[tuple[int, int, int]]:
    """(row, cut, value) of an array [P, S]."""
    for cut, values in enumerate(fact.tolist()):
        for row, value in enumerate(values):
            yield row, cut, value


def _finish_low(call: Call, partial: Any, facts: Facts) -> Array:
    """int64[3, P, S]: threshold bits, how many of its equals to keep, how many equals there are."""
    known = guess.settled(facts, guess.LOW)
    if known is not None:
        return cast(Array, known)
    out: Array = np.empty(facts["high"].shape, np.int64)
    for row, cut, high in _places(facts["high"][1]):
        if high < 0:
            out[:, cut, row] = guess.ABOVE_ALL, 0, 0
            continue
        counts = partial[cut, row]
        wanted = int(facts["high"][0, cut, row] - facts["high"][2, cut, row])
        low, above_in_bin = kth_from_above(counts, wanted)
        out[:, cut, row] = (high << 16) | low, wanted - above_in_bin, int(counts[low])
    return out


def _goes_through(facts: Facts) -> Array:
    """bool[P, S]: does the cut go through elements that equal the threshold?"""
    _, keep, equal = facts["low"]
    through: Array = (keep > 0) & (keep < equal)
    return through


def _need_ties(facts: Facts) -> Collection[int] | None:
    return None if guess.settled(facts, guess.TIES) is None and _goes_through(facts).any() else ()


def _unless_settled(facts: Facts, what: slice) -> Collection[int] | None:
    return None if guess.settled(facts, what) is None else ()


def _finish_ties(call: Call, partial: Any, facts: Facts) -> Array:
    """int64[2, P, S]: the block in which the last kept equal lies (−1: no cut), and its rank there, from 1."""
    known = guess.settled(facts, guess.TIES)
    if known is not None:
        return cast(Array, known)
    out: Array = np.empty((2, *facts["low"].shape[1:]), np.int64)
    for row, cut, through in _places(_goes_through(facts)):
        keep = int(facts["low"][1, cut, row])
        out[:, cut, row] = guess.last_equal(partial[:, cut, row], keep) if through else (-1, 0)
    return out


def _need_last(facts: Facts) -> Collection[int] | None:
    return {number for number in facts["ties"][0].ravel().tolist() if number >= 0}


def _finish_trim(call: Call, partial: Any, facts: Facts) -> Array:
    thresholds, keep, _ = facts["low"]
    whole = np.where(keep > 0, call.elements, -1)
    return np.stack([thresholds, np.where(_goes_through(facts), partial, whole)])
