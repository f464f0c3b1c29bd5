"""F41: kill -9 of a command at any step: the next one goes on within a minute; one signal ends one that waits."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import httpx
import pytest
from sqlalchemy import func, select

from cohort_pipelines.core.files import Stage
from cohort_pipelines.ledger import schema
from cohort_pipelines.orchestration.instance import instance_at
from cohort_pipelines_tests.live import until
from cohort_pipelines_tests.live_project import LAUNCH_LIST, MODULE, LiveProject, new_project

pytestmark = pytest.mark.slow

ENGAGE = "/api/query/engage"
GROUP = "Mixpanel: Launch List"
STARTS_AND_DELIVERS = 20.0  # seconds, on a busy machine


@pytest.fixture
def project(tmp_path: Path) -> Iterator[LiveProject]:
    with new_project(tmp_path / "live") as project:
        declared = f'[tool.dg.project]\nroot_module = "{MODULE}"\n'
        (project.folder / "pyproject.toml").write_text(declared, encoding="utf-8")
        yield project


def never_answer(project: LiveProject) -> None:
    slow = {"kind": "delay", "match": ENGAGE, "contains": "page=1", "seconds": 600}
    httpx.post(f"{project.standins.mixpanel_url}/standin/faults", json=slow).raise_for_status()


@contextmanager
def exporting(project: LiveProject, name: str) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "cohort_pipelines", "export", LAUNCH_LIST, "--name", name]
    environment = {**os.environ, **project.environment, "DAGSTER_HOME": str(project.folder)}
    with subprocess.Popen(
        command, cwd=project.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def permits(project: LiveProject) -> int:
    with project.ledger.read() as connection:
        return connection.execute(select(func.count()).select_from(schema.reading)).scalar_one()


@pytest.mark.parametrize("ends", [signal.SIGINT, signal.SIGTERM])
def test_f41_after_a_kill_of_a_reading_command_the_next_one_delivers_and_one_signal_ends_a_waiting_one(
    project: LiveProject, ends: signal.Signals
) -> None:
    never_answer(project)
    with exporting(project, "killed") as killed:
        until(lambda: project.traffic()[ENGAGE], "page 0, of which the next page never comes", 60)
        with exporting(project, "interrupted") as waiting:
            until(lambda: permits(project) == 2, "a command that waits for its turn to read")
            waiting.send_signal(ends)
            interrupted = time.monotonic()
            assert waiting.wait(30) != 0
            assert time.monotonic() - interrupted < 15
        killed.kill()
        began = time.monotonic()
    httpx.delete(f"{project.standins.mixpanel_url}/standin/faults").raise_for_status()

    with exporting(project, "next") as following:
        output, _ = following.communicate(timeout=90)

    assert following.returncode == 0, output
    assert time.monotonic() - began < 60
    assert project.group(GROUP) == project.payload(LAUNCH_LIST, "next")
    assert permits(project) <= 1  # the dead one's may lie there; it has run out, and the next one clears it away
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project.folder)  # dagster.yaml's paths are relative
        with instance_at(str(project.folder)) as instance:
            ended = {run.tags["dagster/partition"]: run.status for run in instance.get_runs()}
    assert ended.pop("interrupted") in {dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED}
    assert ended == {"killed": dg.DagsterRunStatus.FAILURE, "next": dg.DagsterRunStatus.SUCCESS}


@pytest.mark.parametrize("stage", [Stage.COHORT_SNAPSHOT, Stage.IDENTIFIED_USERS, Stage.PARTNER_PAYLOAD])
def test_f41_after_a_kill_at_the_end_of_a_step_the_same_export_delivers(project: LiveProject, stage: Stage) -> None:
    sealed = project.folder / "data" / "history" / f"sync={LAUNCH_LIST}" / f"stage={stage}"

    with exporting(project, "killed") as killed:
        until(lambda: any(sealed.rglob("*.parquet")), f"the file of {stage}", 60)
        killed.kill()
        began = time.monotonic()
    with exporting(project, "killed") as following:
        output, _ = following.communicate(timeout=90)

    assert following.returncode == 0, output
    assert time.monotonic() - began < 60 + STARTS_AND_DELIVERS  # it may have held the target's lease
    assert project.group(GROUP) == project.payload(LAUNCH_LIST, "killed")
