"""What a restore shows in the UI, where it is held and where it is of a one-time export."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.ledger import approvals
from cohort_pipelines_tests.faults.projects import MIXPANEL, Faulty, opened, said, sync
from cohort_pipelines_tests.faults.projects import TAPLYTICS as FLAGS
from cohort_pipelines_tests.orchestration.demo_project import Project
from cohort_pipelines_tests.orchestration.operating import operate

pytestmark = pytest.mark.slow

LIST, DAILY = "launch_list", "daily"
DECLARED = {
    "mixpanel": MIXPANEL,
    "taplytics": FLAGS,
    LIST: sync("taplytics", "Launch List", "one_time"),
    DAILY: sync("taplytics", "Daily"),
}


@pytest.fixture
def faulty(tmp_path: Path, _opening: None) -> Iterator[Faulty]:
    with opened(tmp_path, DECLARED) as project:
        yield project


def few_then_all(project: Faulty, name: str, *windows: str) -> None:
    """Deliver a small audience in the first window, and the whole cohort in the second."""
    members = project.standins.standins.mixpanel.project.cohorts[1_478_097].flags
    everybody = members[:]
    members[40:] = bytes(len(members) - 40)
    with clock.shifted(timedelta(hours=-2)):
        assert project.run(name, windows[0]).success
    members[:] = everybody
    assert project.run(name, windows[1]).success


def shown(project: Project, name: str) -> dict[str, str]:
    """Return how every gate's check stands by the instance's own record, which is what the UI shows."""
    upload = project.syncs[name].key("destination_upload")
    keys = [dg.AssetCheckKey(upload, gate) for gate in project.syncs[name].gates.names]
    records = project.instance.event_log_storage.get_latest_asset_check_execution_by_key(keys)
    return {key.name: records[key].status.value for key in keys}


def test_what_the_gates_find_at_a_restore_is_seen_with_the_upload_s_checks(faulty: Faulty) -> None:
    few_then_all(faulty, DAILY, faulty.window(DAILY, back=1), faulty.window(DAILY))
    green = dict.fromkeys(faulty.syncs[DAILY].gates.names, "SUCCEEDED")
    assert shown(faulty, DAILY) == green

    held = operate(faulty, "restore", sync=DAILY, window=faulty.window(DAILY, back=1))
    assert "Held by the gate max_shrink" in said(held)
    assert shown(faulty, DAILY) == green | {"max_shrink": "FAILED"}

    approvals.approve(faulty.ledger, DAILY, who="ada", why="it was so", min_users=None)
    approved = operate(faulty, "restore", sync=DAILY, window=faulty.window(DAILY, back=1))
    assert approved.success
    [evaluation] = [each for each in approved.get_asset_check_evaluations() if each.check_name == "max_shrink"]
    assert (evaluation.passed, evaluation.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert str(evaluation.metadata["approved"].value).startswith("ada at ")

    operate(faulty, "restore", sync=DAILY, window=faulty.window(DAILY))
    assert shown(faulty, DAILY) == green


def test_a_restore_of_an_export_leaves_no_partition_that_could_undo_it(faulty: Faulty) -> None:
    faulty.instance.add_dynamic_partitions(f"{LIST}_exports", ["few", "all"])
    few_then_all(faulty, LIST, "few", "all")
    before = faulty.judge.segment("Launch List")

    assert "Held by the gate max_shrink" in said(operate(faulty, "restore", sync=LIST, window="few"))
    assert faulty.judge.segment("Launch List") == before
    approvals.approve(faulty.ledger, LIST, who="ada", why="it was so")
    assert operate(faulty, "restore", sync=LIST, window="few").success

    few = faulty.judge.segment("Launch List")
    assert few == faulty.judge.payload(LIST, "few") != before
    assert set(faulty.instance.get_dynamic_partitions(f"{LIST}_exports")) == {"few", "all"}
    queries = faulty.judge.queried()
    for name in ("few", "all"):  # materialized again, neither reads Mixpanel nor undoes it
        assert faulty.run(LIST, name).success
    assert (faulty.judge.segment("Launch List"), faulty.judge.queried()) == (few, queries)
