"""Runs in mergekit's environment: `python mergekit_batch.py JOBS RESULTS` merges a list of (out, recipe text).

JOBS is JSON [[output directory, YAML], …]; RESULTS becomes {output directory: null or the error's text}. One process
for all recipes, because importing mergekit costs four CPU-seconds.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def merge_all(jobs: list[tuple[str, str]]) -> dict[str, str | None]:
    """Merge each job with mergekit's defaults, quietly; what each failed with, None where it worked."""
    return {out: _merge(out, text) for out, text in jobs}


def _merge(out: str, text: str) -> str | None:
    import yaml
    from mergekit.config import MergeConfiguration  # type: ignore[import-not-found]
    from mergekit.merge import run_merge  # type: ignore[import-not-found]
    from mergekit.options import MergeOptions  # type: ignore[import-not-found]

    try:
        run_merge(MergeConfiguration.model_validate(yaml.safe_load(text)), out, MergeOptions(quiet=True, random_seed=0))
    except Exception as error:  # noqa: BLE001  one oracle process serves all recipes; each failure is a result
        return f"{type(error).__name__}: {error}"
    return None


if __name__ == "__main__":
    jobs_file, results_file = map(Path, sys.argv[1:])
    results_file.write_text(json.dumps(merge_all(json.loads(jobs_file.read_text()))))
