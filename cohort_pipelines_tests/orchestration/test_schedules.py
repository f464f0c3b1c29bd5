from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import dagster as dg
import pytest

from cohort_pipelines import progress
from cohort_pipelines.orchestration.assets import build_assets
from cohort_pipelines.orchestration.checks import build_checks
from cohort_pipelines.orchestration.resources import Records
from cohort_pipelines.orchestration.schedules import SYNCS_TAG, build_jobs_and_schedules
from cohort_pipelines_tests.orchestration.demo_project import APPTIMIZE, TAPLYTICS, Project

NOON = datetime(2026, 11, 10, 12, 0, tzinfo=UTC)
JOBS = {TAPLYTICS: "dynamic_syncs", APPTIMIZE: "recurring_syncs"}
each_sync = pytest.mark.parametrize("name", [TAPLYTICS, APPTIMIZE])


def tick(project: Project, job: str, at: datetime, definitions: dg.Definitions | None = None) -> dg.ScheduleExecutionData:
    definitions = definitions or project.definitions
    context = dg.build_schedule_context(
        instance=project.instance, scheduled_execution_time=at, repository_def=definitions.get_repository_def()
    )
    return definitions.resolve_schedule_def(job).evaluate_tick(context)


@each_sync
def test_a_tick_requests_one_run_of_the_window_that_opens(project: Project, name: str) -> None:
    [run] = tick(project, JOBS[name], NOON).run_requests or []

    sync = project.syncs[name]
    assert run.partition_key == "2026-11-10T1200Z"
    assert run.asset_selection == sync.keys
    assert run.asset_check_keys == sync.inline_checks
    assert run.tags[SYNCS_TAG] == name
