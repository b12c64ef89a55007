"""What the tests of the methods share."""

import pytest

from bench.families import Family
from bench.torture import torture_family


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """Awkward shapes and all dtypes."""
    return torture_family(tmp_path_factory.mktemp("torture"), mixed=True, giant=False)
