import dagster as dg
import pytest
from dagster import DagsterInstance, DagsterRunStatus
from dagster._core.test_utils import create_run_for_test

from cohort_pipelines.orchestration.dead_runs import end_dead_runs

ALIVE = [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]
NOT_ALIVE = [
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.SUCCESS,
    DagsterRunStatus.FAILURE,
    DagsterRunStatus.CANCELED,
]


@pytest.mark.parametrize("status", ALIVE)
def test_a_run_that_nobody_works_on_any_more_is_ended(status: DagsterRunStatus) -> None:
    with dg.instance_for_test() as instance:
        run = create_run_for_test(instance, status=status)

        assert end_dead_runs() == 1

        assert status_of(instance, run) == DagsterRunStatus.FAILURE
        assert end_dead_runs() == 0


@pytest.mark.parametrize("status", NOT_ALIVE)
def test_any_other_run_stays_as_it_is(status: DagsterRunStatus) -> None:
    with dg.instance_for_test() as instance:
        run = create_run_for_test(instance, status=status)

        assert end_dead_runs() == 0

        assert status_of(instance, run) == status


def status_of(instance: DagsterInstance, run: dg.DagsterRun) -> DagsterRunStatus:
    found = instance.get_run_by_id(run.run_id)
    assert found is not None
    return found.status
