"""F1: the four assets in a process that is really killed, at every kind of point; the next run is exact."""

import csv
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import dagster as dg
import httpx
import pytest

from cohort_pipelines import clock
from cohort_pipelines.orchestration import project_definitions
from cohort_pipelines.orchestration.project import component_tree, resolved_syncs
from cohort_pipelines.standins.server import running
from cohort_pipelines.standins.settings import Addresses, Settings
from cohort_pipelines_tests.faults import projects
from cohort_pipelines_tests.faults.checker import Checker
from cohort_pipelines_tests.faults.writer import ROOT
from cohort_pipelines_tests.orchestration.demo_project import PACKAGE

LEASE_IS_OVER = timedelta(minutes=2)
FLAGS, MESSAGES, FILES = "beta_users_taplytics", "beta_users_apptimize", "beta_users_files"
FILE_PROJECT = {
    "mixpanel": projects.MIXPANEL,
    "apptimize_files": projects.FILES,
    FILES: projects.sync("apptimize_files", "Beta Users", "recurring"),
}


@dataclass(frozen=True)
class Mortal:
    """Projects whose services are in a process of their own, as is each run that is to die."""

    standins: Addresses
    folder: Path
    packages: dict[str, Path]

    @property
    def judge(self) -> Checker:
        return Checker(self.folder / "data", self.standins)

    def die(self, name: str, kind: str, number: int, moment: str) -> int:
        """Let a run of the open window die; return its exit code."""
        shift = str(clock.offset().total_seconds())
        command = ["-m", "cohort_pipelines_tests.faults.killed", str(self.packages[name]), name, shift]
        command += [kind, str(number), moment]
        return subprocess.run([sys.executable, *command], check=False, cwd=ROOT, capture_output=True).returncode

    def run(self, name: str) -> str:
        """Run the sync in this process; return the window's key."""
        package = self.packages[name]
        sync = next(sync for sync in resolved_syncs(component_tree(package)) if sync.name == name)
        job = project_definitions(package).resolve_job_def(sync.job)
        job = job.get_subset(asset_selection=set(sync.keys), asset_check_selection=set(sync.inline_checks))
        assert sync.cadence is not None
        key = sync.cadence.window_at(clock.now()).key
        with dg.DagsterInstance.ephemeral() as instance:
            result = job.execute_in_process(instance=instance, partition_key=key, raise_on_error=False)
        assert projects.said(result) == ""
        assert result.asset_materializations_for_node(sync.key("destination_upload").to_python_identifier())
        return key

    def churn(self) -> None:
        httpx.post(f"{self.standins.mixpanel_url}/standin/churn", json={"fraction": 0.1}).raise_for_status()

    def members(self, name: str) -> set[str]:
        """Return whom the receiver holds; a file is read as whoever imports it would."""
        if name == FLAGS:
            return self.judge.segment()
        if name == MESSAGES:
            return self.judge.group()
        with (self.folder / "imports" / "Beta%20Users" / "current.csv").open(encoding="utf-8", newline="") as file:
            _header, *rows = csv.reader(file)
        return {user for (user,) in rows}


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mortal]:
    folder = tmp_path_factory.mktemp("mortal")
    with (
        pytest.MonkeyPatch.context() as patch,
        running(Settings(members=120, page_size=50, queries_per_hour=1000)) as standins,
        clock.shifted(projects.opening()),
    ):
        files = projects._write(folder, FILE_PROJECT)
        environment = {"COHORT_PIPELINES_DATA": str(folder / "data"), "IMPORTS": str(folder / "imports")}
        for name, value in {**standins.environment(), **environment}.items():
            patch.setenv(name, value)
        patch.delenv("COHORT_PIPELINES_LEDGER", raising=False)
        yield Mortal(standins, folder, {FLAGS: PACKAGE, MESSAGES: PACKAGE, FILES: files})


@pytest.mark.parametrize(
    ("name", "kind", "number", "moment"),
    [
        (FLAGS, "request", 1, "after"),  # the first fill
        (FLAGS, "request", 20, "before"),
        (FLAGS, "commit", 3, "after"),
        (FLAGS, "file", 1, "before"),
        (FLAGS, "file", 5, "after"),
        (FLAGS, "mark", 1, "before"),
        (MESSAGES, "request", 2, "before"),
        (MESSAGES, "request", 1, "after"),
        (MESSAGES, "commit", 6, "before"),
        (MESSAGES, "commit", 7, "after"),
        (MESSAGES, "mark", 1, "after"),
        (FILES, "pointer", 1, "before"),
        (FILES, "pointer", 1, "after"),
        (FILES, "commit", 6, "after"),
    ],
)
def test_f01_a_killed_run_of_the_four_assets_is_made_good_by_the_next(
    mortal: Mortal, name: str, kind: str, number: int, moment: str
) -> None:
    mortal.churn()
    assert mortal.die(name, kind, number, moment) == -signal.SIGKILL

    with clock.shifted(LEASE_IS_OVER):
        window = mortal.run(name)

    assert mortal.members(name) == mortal.judge.payload(name, window)
    assert len(mortal.members(name)) > 80
    assert mortal.judge.damaged() == []
