from collections.abc import Iterator
from pathlib import Path

import pytest

from cohort_pipelines import clock
from cohort_pipelines.standins.server import in_thread
from cohort_pipelines.standins.settings import Settings
from cohort_pipelines_tests.databases import KINDS, postgres_url
from cohort_pipelines_tests.delivery.world import World
from cohort_pipelines_tests.faults.projects import Faulty, opened, opening
from cohort_pipelines_tests.faults.wires import Wired


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Count all that lies here among the slow tests: whole projects, real servers, real processes."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.slow)


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


@pytest.fixture(params=KINDS)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    if request.param == "sqlite":
        yield World(tmp_path)
    else:
        with postgres_url() as url:
            yield World(tmp_path, url=url)


@pytest.fixture(params=["flags", "messages"])
def wired(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Wired]:
    """Return a target that is full of strangers, and that nothing was delivered to."""
    with in_thread(Settings(members=10)) as standins:
        wired = Wired(request.param, standins, tmp_path)
        wired.meet_strangers()
        yield wired
