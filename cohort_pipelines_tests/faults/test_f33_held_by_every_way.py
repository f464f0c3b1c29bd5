"""F33: a payload that a gate holds is held however its upload is started, until somebody lets it go."""

import dagster as dg
import pytest
from dagster import ReexecutionOptions

from cohort_pipelines import history
from cohort_pipelines.core import clock
from cohort_pipelines.ledger import approvals
from cohort_pipelines.orchestration import project_definitions
from cohort_pipelines_tests.faults.projects import BETA_USERS, Faulty, said, to_the_window_before
from cohort_pipelines_tests.orchestration.demo_project import APPTIMIZE, PACKAGE, TAPLYTICS

UPLOAD = ("destination_upload",)


def dynamic_job() -> dg.JobDefinition:
    """Return the job as another process finds it, which is what Dagster executes again."""
    return project_definitions(PACKAGE).resolve_job_def("dynamic_syncs")


def recurring_job() -> dg.JobDefinition:
    return project_definitions(PACKAGE).resolve_job_def("recurring_syncs")


def run_again_from_failure(project: Faulty, name: str, run_id: str) -> str:
    """Let Dagster execute a failed run again from where it failed, as its UI does; return what it said."""
    job = dg.reconstructable(dynamic_job if name == TAPLYTICS else recurring_job)
    parent = project.instance.get_run_by_id(run_id)
    assert parent is not None
    result = dg.execute_job(
        job,
        instance=project.instance,
        tags=parent.tags,
        reexecution_options=ReexecutionOptions.from_failure(run_id, project.instance),
    )
    steps = {event.step_key for event in result.filter_events(lambda event: event.is_step_start)}
    assert steps == {f"{name}__destination_upload"}  # the others had not failed
    failures = [event.step_failure_data for event in result.filter_events(lambda event: event.is_step_failure)]
    return "".join(each.user_failure_data.description or "" for each in failures if each.user_failure_data)


def rebuild(project: Faulty, name: str) -> None:
    """Work the payload out again, as after a change of rules."""
    job = project.definitions.resolve_job_def(f"rebuild_{project.syncs[name].job}")
    keys = [project.syncs[name].key(stage) for stage in ("identified_users", "partner_payload")]
    subset = job.get_subset(asset_selection=set(keys), asset_check_selection=set(project.syncs[name].payload_checks))
    assert subset.execute_in_process(instance=project.instance, partition_key=project.window(name)).success


@pytest.mark.parametrize("name", [TAPLYTICS, APPTIMIZE])
def test_f33_a_held_payload_stays_held_until_it_is_approved(project: Faulty, name: str) -> None:
    with clock.shifted(to_the_window_before()):
        assert project.run(name).success
    before, asked = project.held(name), project.judge.asked()
    mixpanel = project.standins.standins.mixpanel.project
    members = mixpanel.members(mixpanel.cohorts[BETA_USERS], only_with_profile=True)
    project.leave(mixpanel.distinct_id(number) for number in members[: len(members) * 3 // 4])

    first = project.run(name)
    ways = {
        "all four assets": said(first),
        "executed again from failure": run_again_from_failure(project, name, first.run_id),
        "the upload alone": said(project.run(name, stages=UPLOAD)),
        "the upload with its payload": said(project.run(name, stages=("partner_payload", *UPLOAD))),
        "all again": said(project.run(name)),
    }
    rebuild(project, name)
    ways["the upload alone after a rebuild"] = said(project.run(name, stages=UPLOAD))

    for way, sentence in ways.items():
        assert sentence.startswith("Held by the gate max_shrink"), way
    assert (project.held(name), project.judge.asked()) == (before, asked)

    approvals.approve(project.ledger, name, who="ada", why="the beta ends")
    assert project.run(name, stages=UPLOAD).success
    assert project.held(name) == project.judge.payload(name, project.window(name))
    assert len(project.held(name)) < len(before) / 3
    told = str(history.receipts(name).iloc[-1]["approved"])
    assert told.startswith(f"ada at {clock.now():%Y-%m-%d %H:}")
    assert told.endswith(" UTC: the beta ends")


def test_f33_a_backfill_of_a_held_window_is_held(project: Faulty) -> None:
    with clock.shifted(to_the_window_before(2)):
        assert project.run(TAPLYTICS).success
    before, asked = project.judge.segment(), project.judge.asked()
    project.leave(sorted(before)[: len(before) * 3 // 4])
    with clock.shifted(to_the_window_before()):
        window = project.window(TAPLYTICS)
        assert "Held by the gate" in said(project.run(TAPLYTICS))

    job = project.definitions.resolve_job_def("dynamic_syncs")
    filled = job.execute_in_process(
        instance=project.instance,
        partition_key=window,
        tags={"dagster/backfill": "a-backfill"},
        raise_on_error=False,
    )

    assert "Held by the gate" in said(filled)
    assert (project.judge.segment(), project.judge.asked()) == (before, asked)
