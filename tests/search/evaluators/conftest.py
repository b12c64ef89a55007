"""The tiny tasks and models, made once."""

import pytest
from tiny_tasks import Bench, make_bench


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(tmp_path_factory.mktemp("bench") / "tasks")
