from pathlib import Path

import pytest

from cohort_pipelines_tests.delivery.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)
