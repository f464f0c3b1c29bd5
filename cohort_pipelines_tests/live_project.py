"""A project in a folder of its own against stand-ins in a process of their own, and what both of them then hold."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

import cohort_pipelines
from cohort_pipelines.core import clock
from cohort_pipelines.core.windows import Cadence
from cohort_pipelines.devtools.scaffold import write_instance_files
from cohort_pipelines.devtools.standins.server import running
from cohort_pipelines.devtools.standins.settings import Addresses, Settings
from cohort_pipelines.history import History
from cohort_pipelines.ledger.ledger import Ledger
from cohort_pipelines.orchestration import launch

TAPLYTICS = "beta_users_taplytics"
APPTIMIZE = "beta_users_apptimize"
LAUNCH_LIST = "launch_list"

MODULE = "live_syncs"
# The demo's declarations and a one-time export. What a tick does is the product's own schedule; only how often it is
# asked is not, so that nobody waits for a quarter of an hour. It is switched on by the test that needs it.
_DEFINITIONS = """
from collections.abc import Iterator, Mapping
from pathlib import Path

import dagster as dg

from cohort_pipelines.orchestration import project_definitions


@dg.definitions
def defs() -> dg.Definitions:
    ours = project_definitions(Path(__file__).parent)
    opens_a_window = ours.resolve_schedule_def("recurring_syncs")

    @dg.schedule(
        job_name="recurring_syncs",
        cron_schedule="* * * * *",
        execution_timezone="UTC",
        required_resource_keys={"records"},
    )
    def every_minute(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        tick = opens_a_window.evaluate_tick(context)
        yield from tick.run_requests or [dg.SkipReason(tick.skip_message)]

    return dg.Definitions(
        assets=ours.assets,
        asset_checks=ours.asset_checks,
        jobs=ours.jobs,
        schedules=[every_minute],
        sensors=ours.sensors,
        resources=ours.resources,
        executor=ours.executor,
    )
"""
_LAUNCH_LIST = """
type: cohort_pipelines.orchestration.CohortSync
attributes:
  source: demo_project
  cohort_id: 1478097
  destination: apptimize_by_name
  target: "Mixpanel: Launch List"
  type: one_time
"""
_BY_NAME = """
type: cohort_pipelines.orchestration.ApptimizeDestination
attributes:
  {region: eu, account: by_name, delivery: http, url: "{{ env.APPTIMIZE_URL }}", token: "{{ env.APPTIMIZE_TOKEN }}"}
"""


@dataclass(frozen=True)
class LiveProject:
    folder: Path
    standins: Addresses

    @property
    def environment(self) -> dict[str, str]:
        return {**self.standins.environment(), "COHORT_PIPELINES_DATA": str(self.folder / "data")}

    @property
    def ledger(self) -> Ledger:
        return Ledger(f"sqlite:///{self.folder / 'data' / 'ledger.sqlite'}")

    def payload(self, sync: str, window: str) -> set[str]:
        stored = self.ledger.payload(self.ledger.snapshot(sync, window).seq)
        batches = History(self.folder / "data" / "history").batches(stored)
        return {user for batch in batches for user in batch.column("partner_user_id").to_pylist()}

    def segment(self, name: str = "Beta Users") -> set[str]:
        return self._ids(f"{self.standins.taplytics_url}/standin/state?field={quote(name)}")

    def group(self, name: str = "Mixpanel: Beta Users") -> set[str]:
        return self._ids(f"{_origin(self.standins.apptimize_url)}/standin/state?group={quote(name)}")

    def traffic(self) -> Counter[str]:
        """Return how many requests the three services have answered since they started, by path."""
        urls = self.standins.mixpanel_url, self.standins.taplytics_url, _origin(self.standins.apptimize_url)
        answers = [httpx.get(f"{url}/standin/requests").raise_for_status().json() for url in urls]
        return Counter(row["path"] for answer in answers for row in answer["requests"] for _ in range(row["count"]))

    def deliver_windows(self, sync: str, churn_after: Mapping[int, float]) -> list[str]:
        """Run ``sync`` in this process in windows that lie so many back, by a clock set to each one's start.

        After each of them, that fraction of the cohort leaves and as many others join.
        """
        keys = []
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)  # dagster.yaml's paths are relative
            patch.setenv("DAGSTER_HOME", str(self.folder))
            for name, value in self.environment.items():
                patch.setenv(name, value)
            with launch.opened(Path()) as project:
                cadence = project.sync(sync).cadence
                assert cadence is not None
                now = clock.now()
                for back, fraction in churn_after.items():
                    window = cadence.window_at(now - back * cadence.value)
                    assert window.opens is not None
                    with clock.shifted(window.opens - now):
                        outcome = launch.run_sync(project, sync, window.key)
                    assert outcome.upload, outcome.error
                    keys.append(window.key)
                    self._churn(fraction)
        return keys

    def _churn(self, fraction: float) -> None:
        httpx.post(f"{self.standins.mixpanel_url}/standin/churn", json={"fraction": fraction}).raise_for_status()

    def _ids(self, url: str) -> set[str]:
        return {json.loads(line) for line in httpx.get(url).raise_for_status().text.splitlines()}


@contextmanager
def new_project(folder: Path, *, members: int = 400) -> Iterator[LiveProject]:
    """Write the project into ``folder`` and run its stand-ins."""
    write_project(folder)
    with running(Settings(members=members, page_size=100)) as standins:
        yield LiveProject(folder, standins)


def write_project(folder: Path) -> None:
    """Write the demo's declarations and a one-time export into ``folder``, as a project of its own."""
    package = folder / MODULE
    shutil.copytree(Path(cohort_pipelines.__file__).parent / "defs", package / "defs")
    declare(folder, LAUNCH_LIST, _LAUNCH_LIST)
    declare(folder, "apptimize_by_name", _BY_NAME)
    (package / "__init__.py").touch()
    (package / "definitions.py").write_text(_DEFINITIONS, encoding="utf-8")
    write_instance_files(folder, MODULE)


def declare(folder: Path, name: str, declared: str) -> None:
    """Add a declaration to the project in ``folder``."""
    declaration = folder / MODULE / "defs" / name
    declaration.mkdir()
    (declaration / "defs.yaml").write_text(declared, encoding="utf-8")


def roomy(cadence: Cadence) -> bool:
    """Tell whether the window that is open has a good minute left, so that a run started now can still deliver."""
    closes = cadence.window_at(clock.now()).closes
    assert closes is not None
    return closes - clock.now() > timedelta(seconds=75)


def _origin(url: str) -> str:
    return str(httpx.URL(url).copy_with(path="/")).rstrip("/")
