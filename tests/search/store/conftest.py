"""Databases of both kinds, empty."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.store.store import store_url


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'campaign.sqlite'}"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    """An empty database: every test of the contract runs on both kinds."""
    if request.param == "sqlite":
        return str(request.getfixturevalue("sqlite_url"))
    return store_url(request.getfixturevalue("postgres_url"), default=Path())
