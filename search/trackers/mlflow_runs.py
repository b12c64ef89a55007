"""A campaign as a run of MLflow, through its client alone: no global state, no autologging, one call per batch.

API of mlflow-skinny 3.17: MlflowClient(tracking_uri), create_run, log_batch (at most 1000 metrics, 100 parameters and
100 tags a call), update_run, set_terminated. `uri` None is MLFLOW_TRACKING_URI, else MLflow's own default; user and
password are MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from search.trackers.contract import Ended, Judged, Opening, Started, Told, Tracker, metrics_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

METRICS_PER_CALL = 1000
_NOT_IN_NAMES = re.compile(r"[^\w./ -]")
STATUS = {"done": "FINISHED", "paused": "KILLED", "interrupted": "KILLED", "failed": "FAILED"}
"""MLflow knows no pause; a run that goes on is RUNNING again."""


def open_mlflow(opening: Opening) -> tuple[str, Tracker]:
    """The run, made or continued."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # whoever calls tries again, and later
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=opening.settings["uri"])
    run = opening.run
    if run is None:
        run = _new_run(client, opening.settings["experiment"], opening.started)
    else:
        client.update_run(run, status="RUNNING")

    def tell(news: Sequence[Told | Ended]) -> None:
        _tell(client, run, news)

    return run, tell


def _new_run(client: MlflowClient, name: str, started: Started) -> str:
    from mlflow.entities import Param
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            key = client.create_experiment(name)
        except MlflowException:  # another campaign was faster
            experiment = client.get_experiment_by_name(name)
    key = key if experiment is None else experiment.experiment_id
    tags = {"mlflow.source.name": "mergefleet", "mergefleet.campaign": started.campaign}
    run: str = client.create_run(key, run_name=started.campaign, tags=tags).info.run_id
    client.log_batch(run, params=[Param(_name(fact), value[:6000]) for fact, value in started.facts.items()])
    return run


def _tell(client: MlflowClient, run: str, news: Sequence[Told | Ended]) -> None:
    from mlflow.entities import Metric, RunTag

    told = [entry for entry in news if not isinstance(entry, Ended)]
    now = int(time.time() * 1000)
    metrics = [Metric(_name(n), value, now, entry.at) for entry in told for n, value in metrics_of(entry).items()]
    for start in range(0, len(metrics), METRICS_PER_CALL):
        client.log_batch(run, metrics=metrics[start : start + METRICS_PER_CALL])
    tags: dict[str, Any] = {}
    for entry in news:
        if isinstance(entry, Judged):
            tags |= {"mergefleet.verdict": entry.sentence, "mergefleet.significant": entry.significant}
            tags |= {"mergefleet.winner": entry.label}
        elif isinstance(entry, Ended):
            tags["mergefleet.status"] = entry.status
    if tags:
        client.log_batch(run, tags=[RunTag(name, str(value)) for name, value in tags.items()])
    for entry in news:
        if isinstance(entry, Ended):
            client.set_terminated(run, STATUS[entry.status])


def _name(text: str) -> str:
    """A key that MLflow takes: letters, digits, and _ . - / and spaces, at most 250."""
    return _NOT_IN_NAMES.sub("_", text)[:250]
