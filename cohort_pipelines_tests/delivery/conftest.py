from pathlib import Path

import pytest

from cohort_pipelines.history import History
from cohort_pipelines_tests.delivery.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def tmp_history(tmp_path: Path) -> History:
    return History(tmp_path / "history")
