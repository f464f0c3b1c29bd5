from dataclasses import replace
from datetime import timedelta

import dagster as dg
import httpx
import pytest

from cohort_pipelines import history
from cohort_pipelines.core import clock
from cohort_pipelines.orchestration.assets import build_assets
from cohort_pipelines_tests.event_loops import free_of_the_ledger
from cohort_pipelines_tests.orchestration.demo_project import APPTIMIZE, TAPLYTICS, Project, failure

NOTHING_SENT = "Nothing was sent; the audience is as it was."


def fault(service_url: str, **what: object) -> None:
    base = httpx.URL(service_url).copy_with(path="/standin/faults")
    httpx.post(base, json=what).raise_for_status()


def test_both_syncs_make_segment_and_group_equal_their_payloads(project: Project) -> None:
    with free_of_the_ledger() as blocking:
        for name in (TAPLYTICS, APPTIMIZE):
            assert project.run(name).success

    assert blocking == []  # of their event loops
    assert project.segment == project.payload(TAPLYTICS, project.window(TAPLYTICS))
    assert project.group == project.payload(APPTIMIZE, project.window(APPTIMIZE))
    assert len(project.segment) > len(project.group) > 300


def test_the_next_window_sends_the_difference_and_nothing_when_there_is_none(project: Project) -> None:
    with clock.shifted(timedelta(hours=-4)):
        assert project.run(TAPLYTICS).success
    joined, left = project.standins.standins.mixpanel.project.churn(0.05)

    with clock.shifted(timedelta(hours=-2)):
        assert project.run(TAPLYTICS).success
        window = project.window(TAPLYTICS)

    receipt = history.receipts(TAPLYTICS).iloc[-1]
    assert (receipt["joiners"], receipt["leavers"]) == (joined, left) == (20, 20)
    assert receipt["requests"] == 40 + receipt["reconciled"]
    assert receipt["reconciled"] < 10
    assert project.segment == project.payload(TAPLYTICS, window)

    assert project.run(TAPLYTICS).success
    again = history.receipts(TAPLYTICS).iloc[-1]
    assert again["requests"] == again["reconciled"] < 10


@pytest.mark.slow
def test_a_run_again_keeps_the_sealed_snapshot_and_a_refresh_takes_another(project: Project) -> None:
    assert project.run(TAPLYTICS).success
    project.standins.standins.mixpanel.project.churn(0.05)

    assert project.run(TAPLYTICS).success
    assert project.standins.standins.mixpanel.budget.used() == 1

    config = {"ops": {f"{TAPLYTICS}__cohort_snapshot": {"config": {"refresh": True}}}}
    assert project.run(TAPLYTICS, run_config=config).success
    assert project.standins.standins.mixpanel.budget.used() == 2
    assert project.segment == project.payload(TAPLYTICS, project.window(TAPLYTICS))
    assert len(history.receipts(TAPLYTICS)) == 3


@pytest.mark.parametrize("back", [1, -1])
def test_a_window_that_is_not_open_is_refused_and_nothing_is_filed(project: Project, back: int) -> None:
    result = project.run(TAPLYTICS, project.window(TAPLYTICS, back)) if back > 0 else project.run_ahead(TAPLYTICS)

    assert ("closed at" if back > 0 else "opens at") in failure(result)
    assert NOTHING_SENT in failure(result)
    assert project.history.windows(TAPLYTICS, history.Stage.COHORT_SNAPSHOT) == []
    assert project.segment == set()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variable", "says"), [("MIXPANEL_SECRET", "refused the service account"), ("TAPLYTICS_API_KEY", "refused the key")]
)
def test_a_wrong_credential_leaves_the_audience_as_it_was(
    project: Project, monkeypatch: pytest.MonkeyPatch, variable: str, says: str
) -> None:
    with clock.shifted(timedelta(hours=-2)):
        assert project.run(TAPLYTICS).success
    before = project.segment
    project.standins.standins.mixpanel.project.churn(0.05)
    monkeypatch.setenv(variable, "wrong-s3cr3t")

    sentence = failure(project.run(TAPLYTICS))

    assert says in sentence
    assert "wrong-s3cr3t" not in sentence
    assert project.segment == before


@pytest.mark.slow
def test_a_missing_variable_is_named_and_stops_only_the_syncs_that_need_it(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TAPLYTICS_API_KEY")

    assert "TAPLYTICS_API_KEY is not set" in failure(project.run(TAPLYTICS))
    assert project.run(APPTIMIZE).success


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["repeat_page", "skip_page", "total_changes"])
def test_a_torn_page_leaves_the_audience_as_it_was(project: Project, kind: str) -> None:
    with clock.shifted(timedelta(hours=-2)):
        assert project.run(TAPLYTICS).success
    before = project.segment
    project.standins.standins.mixpanel.project.churn(0.05)
    fault(project.standins.mixpanel_url, match="/api/query/engage", contains="page=1", kind=kind, times=None)

    result = project.run(TAPLYTICS)

    assert "do not make up one cohort, twice in a row" in failure(result)
    assert project.segment == before
    assert [window.state for window in project.ledger.windows(TAPLYTICS)] == ["failed", "delivered"]


@pytest.mark.slow
def test_a_partner_that_fails_half_way_is_red_and_the_next_green_is_exact(project: Project) -> None:
    with clock.shifted(timedelta(minutes=-30)):
        assert project.run(APPTIMIZE).success
    project.standins.standins.mixpanel.project.churn(0.3)
    fault(project.standins.apptimize_url, match="/cohorts", kind="status", status=500, after=1, times=None)

    with clock.shifted(timedelta(minutes=-15)):
        assert "delivery stopped after" in failure(project.run(APPTIMIZE))

    httpx.delete(httpx.URL(project.standins.apptimize_url).copy_with(path="/standin/faults")).raise_for_status()
    assert project.run(APPTIMIZE).success
    assert project.group == project.payload(APPTIMIZE, project.window(APPTIMIZE))


@pytest.mark.slow
def test_an_older_audience_is_superseded_and_is_deferred_nothing(project: Project) -> None:
    with clock.shifted(timedelta(hours=-2)):
        older = project.window(TAPLYTICS)
        assert project.run(TAPLYTICS).success
    project.standins.standins.mixpanel.project.churn(0.05)
    assert project.run(TAPLYTICS).success
    newest = project.segment

    again = project.run(TAPLYTICS, older)

    assert again.success
    upload = project.syncs[TAPLYTICS].key("destination_upload")
    assert upload not in [event.asset_key for event in again.get_asset_materialization_events()]
    assert project.segment == newest


def test_an_emptied_cohort_is_held(project: Project) -> None:
    with clock.shifted(timedelta(hours=-2)):
        assert project.run(TAPLYTICS).success
    before = project.segment
    project.standins.standins.mixpanel.project.churn(0.9)
    leave = [
        {"$token": project.standins.credentials.project_token, "$distinct_id": user, "$set": {"plan": "free"}}
        for user in before
    ]
    httpx.post(f"{project.standins.mixpanel_url}/engage", json=leave).raise_for_status()

    result = project.run(TAPLYTICS)

    assert "Held by the gate" in failure(result)
    assert project.segment == before
    assert "Held by the gate" in failure(project.run(TAPLYTICS, stages=("destination_upload",)))


@pytest.mark.slow
def test_the_rebuild_job_neither_reads_nor_sends(project: Project) -> None:
    assert project.run(TAPLYTICS).success
    queries, segment = project.standins.standins.mixpanel.budget.used(), project.segment

    rebuilt = project.definitions.resolve_job_def("rebuild_dynamic_syncs").execute_in_process(
        instance=project.instance, partition_key=project.window(TAPLYTICS)
    )

    stages = {event.asset_key.path[-1] for event in rebuilt.get_asset_materialization_events() if event.asset_key}
    assert stages == {"identified_users", "partner_payload"}
    assert {check.check_name for check in rebuilt.get_asset_check_evaluations()} == {"counts_add_up", "no_duplicates"}
    assert project.standins.standins.mixpanel.budget.used() == queries
    assert project.segment == segment
    assert len(history.receipts(TAPLYTICS)) == 1


def test_no_user_id_and_no_secret_reach_dagster(project: Project) -> None:
    results = [project.run(name) for name in (TAPLYTICS, APPTIMIZE)]

    logged = "\n".join(str(entry) for result in results for entry in project.instance.all_logs(result.run_id))
    ids = project.payload(TAPLYTICS, project.window(TAPLYTICS)) | project.payload(APPTIMIZE, project.window(APPTIMIZE))
    assert "share identified" in logged
    assert [user for user in ids if user in logged] == []
    credentials = project.standins.credentials
    assert credentials.secret not in logged
    assert credentials.taplytics_key not in logged
    assert credentials.apptimize_token not in logged


def test_materializations_carry_the_numbers_that_the_ui_plots(project: Project) -> None:
    result = project.run(APPTIMIZE)

    numbers = {
        event.asset_key.path[-1]: {
            name: value if isinstance(value, dg.TableMetadataValue) else value.value
            for name, value in event.materialization.metadata.items()
        }
        for event in result.get_asset_materialization_events()
        if event.asset_key
    }
    assert numbers["cohort_snapshot"]["members"] == 400
    assert numbers["identified_users"]["share identified"] == pytest.approx(0.92)
    assert numbers["partner_payload"]["users"] == len(project.group)
    excluded = numbers["partner_payload"]["excluded by reason"]
    assert isinstance(excluded, dg.TableMetadataValue)
    assert sum(int(str(record.data["members"])) for record in excluded.records) == 400 - len(project.group)
    upload = numbers["destination_upload"]
    assert (upload["members"], upload["identified"]) == (400, numbers["identified_users"]["identified"])
    assert upload["excluded"] == numbers["partner_payload"]["excluded"] == 400 - len(project.group)
    assert upload["joiners"] == upload["users"] == len(project.group)
    checks = {check.check_name: check.passed for check in result.get_asset_check_evaluations()}
    assert checks == {check.name: True for check in project.syncs[APPTIMIZE].inline_checks}


def run_checks(project: Project, name: str, check: str) -> dg.AssetCheckEvaluation:
    key = dg.AssetCheckKey(
        project.syncs[name].key("cohort_snapshot" if check == "connected" else "destination_upload"), check
    )
    job = dg.Definitions.merge(
        project.definitions, dg.Definitions(jobs=[dg.define_asset_job("one", selection=dg.AssetSelection.checks(key))])
    ).resolve_job_def("one")
    (evaluation,) = job.execute_in_process(instance=project.instance).get_asset_check_evaluations()
    return evaluation


def test_connected_can_be_asked_from_the_ui(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_checks(project, APPTIMIZE, "connected").passed

    monkeypatch.setenv("APPTIMIZE_TOKEN", "wrong-t0ken")
    refused = run_checks(project, APPTIMIZE, "connected")
    assert not refused.passed
    assert "refused the key (401)" in (refused.description or "")


def test_connected_warns_of_syncs_that_mixpanel_runs_beside_ours(project: Project) -> None:
    project.standins.standins.mixpanel.active_integrations = 2
    warned = run_checks(project, APPTIMIZE, "connected")
    assert warned.passed
    assert "; Mixpanel still runs 2 syncs of its own for this cohort" in (warned.description or "")


@pytest.mark.slow
def test_freshness_is_judged_by_the_ledger(project: Project) -> None:
    assert not run_checks(project, APPTIMIZE, "fresh").passed
    assert project.run(APPTIMIZE).success

    assert run_checks(project, APPTIMIZE, "fresh").passed
    with clock.shifted(timedelta(minutes=61)):
        assert not run_checks(project, APPTIMIZE, "fresh").passed


@pytest.mark.slow
def test_syncs_that_read_a_cohort_alike_share_a_snapshot_of_the_window(project: Project) -> None:
    assert project.run(APPTIMIZE).success
    elsewhere = project.syncs[TAPLYTICS].destination
    twin = replace(project.syncs[APPTIMIZE], name="twin", target="Twin", destination=elsewhere)
    assets, job = build_assets(twin), dg.define_asset_job("twin", selection=dg.AssetSelection.groups("twin"))
    definitions = dg.Definitions.merge(project.definitions, dg.Definitions(assets=assets, jobs=[job]))

    result = definitions.resolve_job_def("twin").execute_in_process(
        instance=project.instance, partition_key=project.window(APPTIMIZE)
    )

    assert result.success
    assert project.standins.standins.mixpanel.budget.used() == 1
    assert set(project.standins.standins.taplytics.members("Twin")) == project.group
    assert history.windows("twin", "cohort_snapshot") == [project.window(APPTIMIZE)]
