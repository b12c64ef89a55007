"""A campaign as a run of Weights & Biases; offline it lies in the run's directory, for `wandb sync`.

API of wandb 0.31: wandb.init(id=, resume="allow"), define_metric, log, summary, finish. The key is WANDB_API_KEY, or
that of `wandb login`. Nothing is watched that nobody asked for: no console, no code, no machine statistics.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from typing import Any

from search.trackers.contract import Ended, Judged, Opening, Told, Tracker, metrics_of


def open_wandb(opening: Opening) -> tuple[str, Tracker]:
    """The run, made or continued. Its id is ours to choose."""
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    run = opening.run or secrets.token_hex(8)
    opening.place.mkdir(parents=True, exist_ok=True)
    made = wandb.init(
        project=opening.settings["project"],
        entity=opening.settings["entity"],
        mode=opening.settings["mode"],
        id=run,
        name=opening.started.campaign,
        resume="allow",
        dir=str(opening.place),
        config=dict(opening.started.facts),
        settings=wandb.Settings(
            console="off",
            disable_git=True,
            save_code=False,
            x_disable_stats=True,
            x_disable_meta=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
        ),
    )
    made.define_metric("items")
    made.define_metric("*", step_metric="items")

    def tell(news: Sequence[Told | Ended]) -> None:
        for entry in news:
            _tell(made, entry)

    return run, tell


def _tell(run: Any, entry: Told | Ended) -> None:
    if isinstance(entry, Ended):
        run.summary["status"] = entry.status
        run.finish(exit_code=int(entry.status == "failed"))
        return
    if isinstance(entry, Judged):
        run.summary.update({"verdict": entry.sentence, "significant": entry.significant, "winner": entry.label})
    run.log(metrics_of(entry), step=entry.at)
