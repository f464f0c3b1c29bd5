from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

import dagster as dg
import httpx
import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.core.errors import DeliveryDeferred
from cohort_pipelines.delivery import Gates
from cohort_pipelines.ledger import approvals
from cohort_pipelines.ledger.approvals import Verdict
from cohort_pipelines.ledger.pauses import pause
from cohort_pipelines.ledger.schema import GREEN_STATES
from cohort_pipelines.orchestration import metadata, upload
from cohort_pipelines.orchestration.assets import build_assets
from cohort_pipelines.orchestration.resolved import STAGES, ResolvedSync
from cohort_pipelines_tests.orchestration.demo_project import APPTIMIZE, TAPLYTICS, Project, failure

pytestmark = pytest.mark.slow

UPLOAD = ("destination_upload",)
Checks = Mapping[str, dg.AssetCheckEvaluation]


def checks(result: dg.ExecuteInProcessResult) -> Checks:
    """Return what the upload's checks found, by name."""
    return {
        each.check_name: each
        for each in result.get_asset_check_evaluations()
        if each.asset_key.path[-1] == "destination_upload"
    }


def number(check: dg.AssetCheckEvaluation, name: str) -> object:
    return check.metadata[name].value


def uploads(result: dg.ExecuteInProcessResult) -> list[Mapping[str, object]]:
    """Return the numbers of the uploads that were materialized."""
    return [
        {name: value.value for name, value in event.materialization.metadata.items()}
        for event in result.get_asset_materialization_events()
        if event.asset_key and event.asset_key.path[-1] == "destination_upload"
    ]


def latest(project: Project, name: str, check: str) -> str:
    """Return how a check stands by the instance's own record, which is what the UI shows."""
    key = dg.AssetCheckKey(project.syncs[name].key("destination_upload"), check)
    records = project.instance.event_log_storage.get_latest_asset_check_execution_by_key([key])
    return records[key].status.value


def leave(project: Project, share: float) -> None:
    """Let a share of the audience leave the cohort."""
    members = sorted(project.segment)
    gone = members[: int(len(members) * share)]
    token = project.standins.credentials.project_token
    body = [{"$token": token, "$distinct_id": user, "$set": {"plan": "free"}} for user in gone]
    httpx.post(f"{project.standins.mixpanel_url}/engage", json=body).raise_for_status()


@pytest.fixture
def delivered(project: Project) -> Project:
    """Return a project whose segment was filled in the window before."""
    with clock.shifted(timedelta(hours=-2)):
        assert project.run(TAPLYTICS).success
    return project


def test_a_green_delivery_shows_every_gate_with_its_numbers(project: Project) -> None:
    result = project.run(APPTIMIZE)

    found = checks(result)
    assert set(found) == {*project.syncs[APPTIMIZE].gates.names, "delivered"}
    assert all(check.passed for check in found.values())
    assert (number(found["min_users"], "value"), number(found["min_users"], "limit")) == (len(project.group), 1)
    assert found["min_mapped_share"].description == number(found["min_mapped_share"], "finding")
    [receipt] = uploads(result)
    assert receipt["state"] == "delivered"
    assert "approved" not in receipt


def test_a_held_payload_is_red_and_shows_which_gate_held_it(delivered: Project) -> None:
    before = delivered.segment
    leave(delivered, 0.6)

    result = delivered.run(TAPLYTICS)

    assert "Held by the gate max_shrink" in failure(result)
    shrink = checks(result)["max_shrink"]
    assert not shrink.passed
    assert shrink.severity is dg.AssetCheckSeverity.ERROR
    assert number(shrink, "limit") == 0.5
    assert f"after {len(before):,}" in (shrink.description or "")
    assert checks(result)["min_users"].passed
    assert "delivered" not in checks(result)
    assert uploads(result) == []
    assert latest(delivered, TAPLYTICS, "max_shrink") == "FAILED"
    assert latest(delivered, TAPLYTICS, "min_users") == "SUCCEEDED"
    assert delivered.segment == before


def test_an_approved_payload_says_by_whose_word(delivered: Project) -> None:
    leave(delivered, 0.6)
    assert not delivered.run(TAPLYTICS).success
    approvals.approve(delivered.ledger, TAPLYTICS, who="ada", why="the beta ends")

    result = delivered.run(TAPLYTICS, stages=UPLOAD)

    assert result.success
    shrink = checks(result)["max_shrink"]
    assert (shrink.passed, shrink.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "ada" in str(number(shrink, "approved"))
    assert str(uploads(result)[0]["approved"]).endswith("the beta ends")
    assert delivered.segment == delivered.payload(TAPLYTICS, delivered.window(TAPLYTICS))


def test_a_delivery_that_is_deferred_is_amber_and_goes_on(delivered: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(delivered, 0.2)
    with monkeypatch.context() as over:
        over.setattr(upload, "deadline", lambda *_: clock.now())
        deferred = delivered.run(TAPLYTICS)

    assert deferred.success
    assert uploads(deferred) == []
    found = checks(deferred)["delivered"]
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "deferred at its deadline" in (found.description or "")
    assert int(str(number(found, "planned"))) > 0
    assert checks(deferred)["max_shrink"].passed

    again = delivered.run(TAPLYTICS, stages=UPLOAD)
    assert checks(again)["delivered"].passed
    assert len(uploads(again)) == 1
    assert delivered.segment == delivered.payload(TAPLYTICS, delivered.window(TAPLYTICS))


def test_a_paused_sync_is_amber_and_sends_nothing(delivered: Project) -> None:
    before = delivered.segment
    leave(delivered, 0.2)
    pause(delivered.ledger, TAPLYTICS, who="ada", why="a launch")

    result = delivered.run(TAPLYTICS)

    assert result.success
    assert uploads(result) == []
    found = checks(result)
    assert set(found) == {"delivered"}  # it did not come to the gates
    assert (found["delivered"].passed, found["delivered"].severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "paused by ada: a launch" in (found["delivered"].description or "")
    assert delivered.segment == before


def test_a_superseded_delivery_has_no_verdicts_and_breaks_nothing(delivered: Project) -> None:
    older = delivered.window(TAPLYTICS, back=1)
    assert delivered.run(TAPLYTICS).success

    result = delivered.run(TAPLYTICS, older)

    assert result.success
    assert checks(result) == {}
    assert uploads(result) == []


def test_a_delivery_that_stops_shows_what_the_gates_found(delivered: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(delivered, 0.2)
    monkeypatch.setenv("TAPLYTICS_API_KEY", "wrong")

    result = delivered.run(TAPLYTICS)

    assert not result.success
    assert all(check.passed for check in checks(result).values())
    assert set(checks(result)) == set(delivered.syncs[TAPLYTICS].gates.names)


def test_a_check_that_is_run_by_itself_delivers_nothing(project: Project) -> None:
    sync = project.syncs[TAPLYTICS]
    assert project.run(TAPLYTICS, stages=STAGES[:3]).success
    job = project.definitions.resolve_job_def(sync.job).get_subset(
        asset_selection=set(),
        asset_check_selection={dg.AssetCheckKey(sync.key("destination_upload"), "max_shrink")},
    )

    result = job.execute_in_process(instance=project.instance, partition_key=project.window(TAPLYTICS))

    assert result.success
    assert checks(result) == {}
    assert project.segment == set()


@pytest.mark.parametrize("wanted", [(), ("max_shrink",), ("delivered", "min_users")])
def test_checks_that_were_deselected_are_not_was_deferred(
    project: Project, caplog: pytest.LogCaptureFixture, wanted: tuple[str, ...]
) -> None:
    sync = project.syncs[TAPLYTICS]
    assert project.run(TAPLYTICS, stages=STAGES[:3]).success
    key = sync.key("destination_upload")
    job = project.definitions.resolve_job_def(sync.job).get_subset(
        asset_selection={key}, asset_check_selection={dg.AssetCheckKey(key, name) for name in wanted}
    )
    caplog.clear()

    result = job.execute_in_process(instance=project.instance, partition_key=project.window(TAPLYTICS))

    assert set(checks(result)) == set(wanted)
    assert len(uploads(result)) == 1
    assert "not selected" not in caplog.text


def test_an_upload_alone_shows_its_gates_too(project: Project) -> None:
    assert project.run(TAPLYTICS, stages=STAGES[:3]).success

    result = project.run(TAPLYTICS, stages=UPLOAD)

    assert set(checks(result)) == {*project.syncs[TAPLYTICS].gates.names, "delivered"}
    assert project.segment == project.payload(TAPLYTICS, project.window(TAPLYTICS))


def test_a_gate_that_is_on_is_a_check(project: Project) -> None:
    sync = replace(project.syncs[TAPLYTICS], gates=Gates(max_growth=0.5))

    names = {key.name for asset in build_assets(sync) for key in asset.check_keys}
    assert "max_growth" in names
    assert "max_churn" not in names
    assert {check.name for check in sync.inline_checks} == names


def run_otherwise(project: Project, sync: ResolvedSync) -> dg.ExecuteInProcessResult:
    """Run a sync that differs from the declared one."""
    job = dg.define_asset_job("otherwise", selection=dg.AssetSelection.assets(*sync.keys))
    definitions = dg.Definitions(
        assets=build_assets(sync), jobs=[job], resources=project.definitions.resources, executor=dg.in_process_executor
    )
    return definitions.resolve_job_def("otherwise").execute_in_process(
        instance=project.instance, partition_key=project.window(sync.name), raise_on_error=False
    )


def test_a_link_that_cannot_be_used_leaves_a_delivery_green(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINK", "https://a\tb")

    result = run_otherwise(project, replace(project.syncs[TAPLYTICS], link="{{ env.LINK }}"))

    [receipt] = uploads(result)
    assert receipt["state"] == "delivered"
    assert "link" not in receipt


def test_a_delivery_that_is_accepted_is_materialized_as_such(project: Project) -> None:
    sync = project.syncs[TAPLYTICS]
    assert project.run(TAPLYTICS, stages=STAGES[:3]).success

    result = run_otherwise(project, replace(sync, terms=replace(sync.terms, apply_delay=timedelta(minutes=5))))

    [receipt] = uploads(result)
    assert receipt["state"] == "accepted"
    assert number(checks(result)["delivered"], "state") in [state.value for state in GREEN_STATES]


@pytest.mark.parametrize(
    ("eta", "shown"), [(None, {}), (150.0, {"minutes still needed": 2.5}), (0.0, {"minutes still needed": 0.0})]
)
def test_how_far_a_delivery_came_is_shown(eta: float | None, shown: Mapping[str, float]) -> None:
    assert metadata.of_deferred(DeliveryDeferred(30, 100, eta)) == {"done": 30, "planned": 100, **shown}


def test_a_verdict_shows_who_let_it_pass() -> None:
    verdict = Verdict("max_shrink", 0.6, 0.5, held=True, finding="too few")
    approval = approvals.Approval(1, "ada", "the beta ends", clock.now(), clock.now())

    assert metadata.of_verdict(verdict, None) == {"value": 0.6, "limit": 0.5, "finding": "too few"}
    assert metadata.of_verdict(verdict, approval)["approved"] == str(approval)
