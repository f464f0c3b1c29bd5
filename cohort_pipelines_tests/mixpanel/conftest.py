"""A stand-in Mixpanel in a thread, the project it serves, and a history to file snapshots in."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.core.windows import Window
from cohort_pipelines.devtools.standins.server import InThread, in_thread
from cohort_pipelines.devtools.standins.settings import Addresses, Settings
from cohort_pipelines.history import History
from cohort_pipelines.mixpanel import Project


@pytest.fixture(scope="session")
def serving() -> Iterator[InThread]:
    """One server for all tests; it lets more through at once than a reading asks, since given-up requests linger."""
    with in_thread(Settings(members=2500, concurrency=50)) as running:
        yield running


@pytest.fixture
def standins(serving: InThread) -> InThread:
    """The stand-ins as they were at the start."""
    mixpanel, faults = serving.standins.mixpanel, serving.standins.mixpanel_faults
    mixpanel.role = "admin"
    mixpanel.active_integrations = 0
    faults.date_offset = 0.0
    mixpanel.budget.per_hour, mixpanel.budget.at_once = 60, 50
    mixpanel.budget.reset()
    faults.clear()
    faults.requests.clear()
    return serving


@pytest.fixture
def project_at() -> Callable[[Addresses], Project]:
    """Return the project that stand-ins at some address serve."""

    def at(addresses: Addresses) -> Project:
        return Project(
            project_id=addresses.credentials.project_id,
            service_account=addresses.credentials.service_account,
            secret=addresses.credentials.secret,
            api_url=addresses.mixpanel_url,
        )

    return at


@pytest.fixture
def project(standins: InThread, project_at: Callable[[Addresses], Project]) -> Project:
    return project_at(standins)


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "history")


@pytest.fixture
def window() -> Window:
    """A window that is open for some time yet, wherever in the hour the test runs."""
    opened = clock.now() - timedelta(minutes=1)
    return Window("2026-11-22T1215Z", opened, opened + timedelta(minutes=15))


@pytest.fixture
def closing_window() -> Window:
    """A window with little time left, so that waiting ends soon."""
    now = clock.now()
    return Window("2026-11-22T1215Z", now - timedelta(minutes=15), now + timedelta(seconds=2))
