from collections.abc import Iterator
from pathlib import Path

import pytest

from cohort_pipelines import clock
from cohort_pipelines_tests.faults.projects import Faulty, opened, opening


@pytest.fixture
def at_an_opening() -> Iterator[None]:
    """Set the clock to the start of the two-hour window that is open, so that no test meets a window's end."""
    with clock.shifted(opening()):
        yield


@pytest.fixture
def project(tmp_path: Path, at_an_opening: None) -> Iterator[Faulty]:  # noqa: ARG001  the clock is set first
    """Return the demo's project, with everybody well."""
    with opened(tmp_path) as project:
        yield project
