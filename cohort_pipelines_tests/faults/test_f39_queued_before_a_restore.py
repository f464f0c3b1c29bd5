"""F39: a run that was queued before `restore --pause` is superseded, and sends nothing."""

from datetime import timedelta

import dagster as dg
import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.ledger import pauses
from cohort_pipelines.orchestration.resolved import STAGES
from cohort_pipelines.reporting import listing
from cohort_pipelines_tests.faults.projects import Faulty, said, to_the_window_before
from cohort_pipelines_tests.orchestration.demo_project import APPTIMIZE, TAPLYTICS

each_sync = pytest.mark.parametrize("name", [TAPLYTICS, APPTIMIZE])


def restore_and_pause(project: Faulty, name: str, window: str) -> None:
    job = project.definitions.resolve_job_def("restore")
    wanted = {"sync": name, "window": window, "pause": True, "because": "the wrong people were invited"}
    config = {"ops": {"restore_audience": {"config": wanted}}}
    assert said(job.execute_in_process(instance=project.instance, run_config=config, raise_on_error=False)) == ""


def require_superseded(project: Faulty, name: str, result: dg.ExecuteInProcessResult) -> None:
    """Refuse a run that delivered, broke, or gave way to something else."""
    node = project.syncs[name].key("destination_upload").to_python_identifier()
    assert said(result) == ""
    assert not result.asset_materializations_for_node(node)
    assert newest(project, name).state == "superseded"


def newest(project: Faulty, name: str) -> listing.Entry:
    return listing.entries(project.ledger, name)[0]


@each_sync
def test_f39_a_run_queued_before_a_restore_with_pause_sends_nothing(project: Faulty, name: str) -> None:
    """It may have come as far as the upload."""
    with clock.shifted(to_the_window_before()):
        good = project.window(name)
        assert project.run(name).success
    project.churn(0.2)
    assert project.run(name, stages=STAGES[:3]).success
    restore_and_pause(project, name, good)
    restored, asked = project.held(name), project.judge.asked()
    assert restored == project.judge.payload(name, good) != project.judge.payload(name, project.window(name))

    for stages in (STAGES[3:], STAGES):
        require_superseded(project, name, project.run(name, stages=stages))
        assert project.held(name) == restored
        assert project.judge.asked() == asked

    pauses.resume(project.ledger, name)
    require_superseded(project, name, project.run(name, stages=STAGES[3:]))  # still older than the restore
    assert project.held(name) == restored
    assert project.judge.asked() == asked


@each_sync
def test_f39_a_run_that_had_not_begun_before_a_restore_with_pause_sends_nothing(project: Faulty, name: str) -> None:
    """It reads its snapshot when it begins: that is newer than the restore, which was asked for later all the same."""
    with clock.shifted(to_the_window_before()):
        good = project.window(name)
        assert project.run(name).success
    waiting = [project.queue(name), project.queue(name)]
    project.churn(0.2)
    restore_and_pause(project, name, good)
    restored = project.held(name)

    assert project.begin(waiting[0])
    assert newest(project, name).state == "superseded"
    pauses.resume(project.ledger, name)
    assert project.begin(waiting[1])
    assert newest(project, name).state == "superseded"
    assert "asked for before the restore" in newest(project, name).reason
    assert project.held(name) == restored == project.judge.payload(name, good)

    assert project.run(name).success  # asked for afterwards
    assert project.held(name) == project.judge.payload(name, project.window(name)) != restored


@each_sync
def test_f39_the_first_window_after_the_pause_wins(project: Faulty, name: str) -> None:
    with clock.shifted(to_the_window_before()):
        good = project.window(name)
        assert project.run(name).success
    project.churn(0.2)
    assert project.run(name).success
    restore_and_pause(project, name, good)
    pauses.resume(project.ledger, name)

    cadence = project.syncs[name].cadence
    assert cadence is not None
    with clock.shifted(cadence.value + timedelta(seconds=1)), dg.partition_loading_context(effective_dt=clock.now()):
        window = project.window(name)
        result = project.run(name, window)

    assert said(result) == ""
    assert project.held(name) == project.judge.payload(name, window) != project.judge.payload(name, good)
