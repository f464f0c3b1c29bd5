from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.devtools.standins.server import in_thread
from cohort_pipelines.devtools.standins.settings import Settings
from cohort_pipelines.orchestration import project_definitions
from cohort_pipelines.orchestration.project import component_tree, resolved_syncs
from cohort_pipelines_tests.orchestration.demo_project import PACKAGE, Project


@pytest.fixture
def _opening() -> Iterator[None]:
    """Set the clock to the start of the two-hour window that is open, so that no test meets a window's end."""
    now = datetime.now().astimezone()
    since = timedelta(hours=now.hour % 2, minutes=now.minute, seconds=now.second, microseconds=now.microsecond)
    with clock.shifted(timedelta(seconds=1) - since):
        yield


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _opening: None) -> Iterator[Project]:
    monkeypatch.setenv("COHORT_PIPELINES_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("COHORT_PIPELINES_LEDGER", raising=False)
    with in_thread(Settings(members=400, page_size=100)) as standins, dg.DagsterInstance.ephemeral() as instance:
        for name, value in standins.environment().items():
            monkeypatch.setenv(name, value)
        tree = component_tree(PACKAGE)
        syncs = {sync.name: sync for sync in resolved_syncs(tree)}
        yield Project(standins, project_definitions(PACKAGE), instance, syncs)
