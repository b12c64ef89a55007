"""Why what an evaluator sends back cannot be taken: other processes may send anything. Pure."""

from __future__ import annotations

import numbers
from collections.abc import Collection, Mapping

from search.ports import MOST, SCORE, BlockResult, can_be_counted
from search.queue import Unit


def refusal(result: BlockResult, unit: Unit | None, digests: Mapping[str, str]) -> str | None:
    """Why these scores cannot be taken, or None. `digests` are of the weights that recipe hashes had before."""
    if unit is not None and result.recipe_hash != unit.recipe_hash:
        return f"scored recipe {result.recipe_hash[:12]}, {unit.recipe_hash[:12]} was asked for"
    if unit is not None and set(result.scores) != set(unit.items):
        return f"got scores of {len(result.scores)} items, {len(unit.items)} others were asked for"
    for measure, values in ((SCORE, result.scores), *result.measures.items()):
        strange = () if _counted(values.values()) else [item for item, value in values.items() if not _is_number(value)]
        if strange:
            return f"{measure}: {len(strange)} values are no numbers within ±{MOST:g}, the first that of {strange[0]}"
        if not values.keys() <= result.scores.keys():
            return f"{measure}: got values of items that were not scored"
    digest = digests.get(result.recipe_hash, result.weights_digest)
    if digest != result.weights_digest:
        return f"weights {result.weights_digest[:12]} were scored, {digest[:12]} before under the same recipe hash"
    return None


def _counted(values: Collection[float]) -> bool:
    """Whether these are floats that can be counted, as nearly all are: asking for each whether it is a number takes
    far longer."""
    return {*map(type, values)} <= {float} and all(map(can_be_counted, values))


def _is_number(value: object) -> bool:
    """Whether this is a number that can be counted; None is no score."""
    return isinstance(value, numbers.Real) and can_be_counted(float(value))
