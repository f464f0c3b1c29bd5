import dagster as dg
import pytest
from dagster import DagsterInstance, DagsterRunStatus
from dagster._core.test_utils import create_run_for_test

from cohort_pipelines.orchestration.dead_runs import end_dead_runs, process_tag

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


@pytest.mark.parametrize(("signal", "ended"), [(None, 0), (ProcessLookupError, 1), (PermissionError, 1)])
def test_a_run_of_the_command_line_is_ended_unless_its_process_lives(
    monkeypatch: pytest.MonkeyPatch, signal: type[OSError] | None, ended: int
) -> None:
    """After a reboot its number may be that of another user's process."""

    def kill(_process: int, _signal: int) -> None:
        if signal:
            raise signal

    with dg.instance_for_test() as instance:
        create_run_for_test(instance, status=DagsterRunStatus.STARTED, tags=process_tag())
        monkeypatch.setattr("os.kill", kill)
        assert end_dead_runs() == ended


def test_a_run_is_ended_whose_process_number_has_come_to_another_process() -> None:
    [(tag, mine)] = process_tag().items()
    host, number, started = mine.rsplit(":", 2)
    with dg.instance_for_test() as instance:
        create_run_for_test(
            instance, status=DagsterRunStatus.STARTED, tags={tag: f"{host}:{number}:{int(started) - 1}"}
        )
        assert end_dead_runs() == 1


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
