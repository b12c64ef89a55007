"""The cost `forwards` of an answer: how many layers run, one after another, until it is there. Pure.

    a generated answer       layers · (tokens + 1): a pass through the model for each token, and one that ends it
    texts, likelihoods       layers: a text, and every choice, is read in one pass

It is what an answer takes on a device that batches well, and unlike time it is the same everywhere; unlike a count of
calls it does not depend on what else is in the batch. A merge that is deeper, or says more, costs more. What a function
of the user's reports under this name stays as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from search.judging.objectives import Facts

FORWARDS, TOKENS = "forwards", "tokens"


def with_forwards(facts: Facts, *, layers: int, read: Collection[str]) -> Facts:
    """The same facts with the measure `forwards`. `read` are items that are texts: their tokens are not generated."""
    tokens = facts.measures.get(TOKENS, {})
    costs = {item: float(layers) if item in read else layers * (tokens.get(item, 0.0) + 1) for item in facts.scores}
    reported = facts.measures.get(FORWARDS, {})
    measures: Mapping[str, Mapping[str, float]] = {**facts.measures, FORWARDS: costs | dict(reported)}
    return Facts(facts.scores, measures, facts.parameters)
