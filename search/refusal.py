"""Why what an evaluator sends back cannot be taken: other processes may send anything. Pure."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping

from search.ports import SCORE, BlockResult
from search.queue import Unit


def refusal(result: BlockResult, unit: Unit | None, digests: Mapping[str, str]) -> str | None:
    """Why these scores cannot be taken, or None. `digests` are of the weights that recipe hashes had before."""
    if unit is not None and result.recipe_hash != unit.recipe_hash:
        return f"scored recipe {result.recipe_hash[:12]}, {unit.recipe_hash[:12]} was asked for"
    if unit is not None and set(result.scores) != set(unit.items):
        return f"got scores of {len(result.scores)} items, {len(unit.items)} others were asked for"
    for measure, values in ((SCORE, result.scores), *result.measures.items()):
        strange = [item for item, value in values.items() if not _is_number(value)]
        if strange:
            return f"{measure}: {len(strange)} values are not finite numbers, the first that of {strange[0]}"
        if not values.keys() <= result.scores.keys():
            return f"{measure}: got values of items that were not scored"
    digest = digests.get(result.recipe_hash, result.weights_digest)
    if digest != result.weights_digest:
        return f"weights {result.weights_digest[:12]} were scored, {digest[:12]} before under the same recipe hash"
    return None


def _is_number(value: object) -> bool:
    """Whether this is a finite number; None is no score."""
    if type(value) is float:  # as nearly all are; asking whether a number is real takes ten times as long
        return math.isfinite(value)
    return isinstance(value, numbers.Real) and math.isfinite(value)
