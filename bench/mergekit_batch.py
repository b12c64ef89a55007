"""Runs in mergekit's environment: `python mergekit_batch.py JOBS RESULTS` merges a list of (out, recipe text).

JOBS is JSON [[output directory, YAML], …]; RESULTS becomes {output directory: null or the error's text}. One process
for all recipes, because importing mergekit costs four CPU-seconds.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def merge_all(jobs: list[tuple[str, str]]) -> dict[str, str | None]:
    """Merge each job with mergekit's defaults, quietly."""
    import yaml
    from mergekit.config import MergeConfiguration  # type: ignore[import-not-found]
    from mergekit.merge import run_merge  # type: ignore[import-not-found]
    from mergekit.options import MergeOptions  # type: ignore[import-not-found]

    options = MergeOptions(quiet=True, random_seed=0)
    results: dict[str, str | None] = {}
    for out, text in jobs:
        try:
            run_merge(MergeConfiguration.model_validate(yaml.safe_load(text)), out, options)
            results[out] = None
        except Exception as error:  # noqa: BLE001  one oracle process serves all recipes; each failure is a result
            results[out] = f"{type(error).__name__}: {error}"
    return results


if __name__ == "__main__":
    jobs_file, results_file = map(Path, sys.argv[1:])
    results_file.write_text(json.dumps(merge_all(json.loads(jobs_file.read_text()))))
