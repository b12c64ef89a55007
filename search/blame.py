"""Whose fault is a failure: the candidate's or the worker's? Pure, and rebuilt from the leases' rows.

    two workers fail one candidate          the candidate is quarantined, with both causes
    a worker fails three candidates that    the worker is cordoned: it gets no further work, and its failures count
    pass elsewhere                          against no candidate

A worker that went away (preempted, killed, cut off) has failed nothing: queue.py counts such losses.
"""

from __future__ import annotations

from collections import defaultdict

CORDON_AFTER = 3


class Blame:
    """Failures by recipe and worker, and who passed what somebody failed."""

    def __init__(self) -> None:
        self._failed: dict[str, dict[str, str]] = defaultdict(dict)  # recipe hash → worker → cause
        self._passed: dict[str, set[str]] = defaultdict(set)

    def fail(self, worker: str, recipe_hash: str, cause: str) -> None:
        """This worker could not score this recipe."""
        self._failed[recipe_hash].setdefault(worker, cause)

    def succeed(self, worker: str, recipe_hash: str) -> None:
        """This worker scored items of this recipe."""
        self._passed[recipe_hash].add(worker)

    def failed_by(self, worker: str) -> set[str]:
        """Recipes that this worker has failed."""
        return {recipe_hash for recipe_hash, workers in self._failed.items() if worker in workers}

    def quarantine(self, recipe_hash: str) -> str | None:
        """Why nobody should try this recipe again, or None."""
        cordoned = self.cordoned()
        causes = {w: cause for w, cause in self._failed.get(recipe_hash, {}).items() if w not in cordoned}
        if len(causes) < 2:
            return None
        return "quarantined: it failed on " + " and on ".join(f"{w} ({cause})" for w, cause in causes.items())

    def cordoned(self) -> dict[str, str]:
        """Workers that get no further work, and why."""
        suspects: dict[str, list[str]] = defaultdict(list)
        for recipe_hash, workers in self._failed.items():
            for worker, cause in workers.items():
                if self._passed.get(recipe_hash, set()) - workers.keys():
                    suspects[worker].append(cause)
        return {
            worker: f"it failed {len(causes)} candidates that others scored, the last with: {causes[-1]}"
            for worker, causes in suspects.items()
            if len(causes) >= CORDON_AFTER
        }
