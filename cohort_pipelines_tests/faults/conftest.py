from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.devtools.standins.behaviour import Behaviour
from cohort_pipelines.devtools.standins.server import in_thread
from cohort_pipelines.devtools.standins.settings import Settings
from cohort_pipelines_tests.databases import KINDS, postgres_url
from cohort_pipelines_tests.delivery.world import World
from cohort_pipelines_tests.faults.projects import Faulty, opened, opening
from cohort_pipelines_tests.faults.traces import Traces
from cohort_pipelines_tests.faults.wires import Wired, skipping_waits


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


@pytest.fixture
def traces(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Traces:
    caplog.set_level(0)
    return Traces(caplog, capfd)


@pytest.fixture(params=KINDS)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    if request.param == "sqlite":
        yield World(tmp_path)
    else:
        with postgres_url() as url:
            yield World(tmp_path, url=url)


@pytest.fixture(params=[0.0, 20.0], ids=["at once", "later"])
def applies_after(request: pytest.FixtureRequest) -> float:
    """Return for how many seconds at most a partner leaves alone what it has acknowledged, less than a lease."""
    seconds: float = request.param
    return seconds


@pytest.fixture(params=["flags", "messages"])
def wired(request: pytest.FixtureRequest, applies_after: float, tmp_path: Path) -> Iterator[Wired]:
    """Return a target that is full of strangers, and that nothing was delivered to."""
    receiver = Behaviour(asynchronous=applies_after > 0, reordered=True, apply_after=applies_after, seed=7)
    apply_delay = timedelta(seconds=1.5 * applies_after)  # so that a busy machine does not break the promise
    with in_thread(Settings(members=10, taplytics=receiver, apptimize=receiver)) as standins:
        wired = Wired(request.param, standins, tmp_path, apply_delay)
        wired.meet_strangers()
        with skipping_waits(wired):
            yield wired
