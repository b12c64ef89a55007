"""The `trackers` key of a campaign file. Secrets do not belong there: they come from the environment alone."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from engine.remote.url import without_secrets
from search.part import Part

PACKAGES = {"mlflow": "mlflow-skinny", "wandb": "wandb"}
"""Tracker → the package that it needs, which is also the name of an extra's content."""


class MlflowEntry(Part):
    """`uri`: of the tracking server or database; None: MLFLOW_TRACKING_URI, else MLflow's own default."""

    uri: str | None = None
    experiment: str = Field(default="mergefleet", min_length=1)

    @field_validator("uri")
    @classmethod
    def _without_password(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if without_secrets(value) != value and not _has_only_a_port(value):
            raise ValueError(
                "got a URL with '@', '?' or '#', which may hold a secret and is not repeated here; give credentials in "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or the whole URL in MLFLOW_TRACKING_URI"
            )
        if "://" not in value and value != "databricks" and not value.startswith("file:"):
            raise ValueError(f"got {value!r}, a URL expected: sqlite:///{value.rstrip('/')}.db, or http://HOST:PORT")
        return value


class WandbEntry(Part):
    """`mode` offline: into the run's directory, for `wandb sync`."""

    project: str = Field(default="mergefleet", min_length=1)
    entity: str | None = None
    mode: Literal["online", "offline"] = "online"


class TrackerEntry(Part):
    """One tracker: `mlflow: {...}` or `wandb: {...}`, or the bare name for all defaults."""

    mlflow: MlflowEntry | None = None
    wandb: WandbEntry | None = None

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {value: {}}
        if isinstance(value, dict):
            return {name: {} if given is None and len(value) == 1 else given for name, given in value.items()}
        return value

    @model_validator(mode="after")
    def _one(self) -> TrackerEntry:
        if (self.mlflow is None) == (self.wandb is None):
            raise ValueError("a tracker is one of mlflow: {...}, wandb: {...}")
        return self

    @property
    def kind(self) -> str:
        """Which of them."""
        return "wandb" if self.mlflow is None else "mlflow"

    @property
    def settings(self) -> dict[str, Any]:
        """What its entry says, as plain data."""
        entry = self.mlflow or self.wandb
        assert entry is not None
        return entry.model_dump()


def _has_only_a_port(url: str) -> bool:
    """`without_secrets` takes `host:5000` for a name and a password; a port tells nothing."""
    host, _, port = url.partition("://")[2].partition("/")[0].partition(":")
    return port.isdigit() and not set(url.partition("://")[2]) & set("@?#") and bool(host)
