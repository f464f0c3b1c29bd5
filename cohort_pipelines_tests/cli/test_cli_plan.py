import json
import stat
from pathlib import Path

import pytest

from cohort_pipelines.devtools.standins.server import InThread
from cohort_pipelines.ledger import pauses
from cohort_pipelines.ledger.ledger import Ledger
from cohort_pipelines_tests.command_line import APPTIMIZE, TAPLYTICS, Run, deliver, few_members, footprint
from cohort_pipelines_tests.disks import no_temporary_folder

pytestmark = pytest.mark.usefixtures("standins", "at_opening")


def held_by_taplytics(standins: InThread) -> set[str]:
    return set(standins.standins.taplytics.members("Beta Users"))


@pytest.mark.slow
def test_a_plan_changes_nothing_and_the_delivery_after_it_does_what_was_planned(
    run: Run, demo_folder: Path, standins: InThread
) -> None:
    assert deliver(demo_folder, TAPLYTICS, back=1).upload
    standins.standins.mixpanel.project.churn(0.1)
    before, members = footprint(demo_folder), held_by_taplytics(standins)
    queries, written = standins.standins.mixpanel.budget.used(), len(standins.standins.taplytics.users)

    planned = run("plan", TAPLYTICS, "--json")

    assert (planned.code, planned.err) == (0, "")
    assert footprint(demo_folder) == before
    assert held_by_taplytics(standins) == members
    assert len(standins.standins.taplytics.users) == written
    assert standins.standins.mixpanel.budget.used() == queries + 1

    told = json.loads(planned.out)
    done = deliver(demo_folder, TAPLYTICS).upload
    shown = told["preview"]
    assert told["budget"] == {"granted": 60, "sync": 0.5, "project": 4.5, "spent": 1}
    assert shown["counts"]["joiners"] > 0
    assert shown["counts"]["leavers"] > 0
    assert {name: done[name] for name in ("users", "unchanged", "requests")} == {
        name: shown[name] for name in ("users", "unchanged", "requests")
    }
    assert {name: done[name] for name in ("joiners", "leavers", "repeated", "reconciled")} == {
        name: shown["counts"][name] for name in ("joiners", "leavers", "repeated", "reconciled")
    }


def test_a_plan_of_a_sync_that_was_never_delivered_leaves_empty_scratch_space_alone(
    run: Run, demo_folder: Path, standins: InThread
) -> None:
    members = held_by_taplytics(standins)

    with no_temporary_folder():
        planned = run("plan", TAPLYTICS)

    assert (planned.code, planned.err) == (0, "")
    assert list(footprint(demo_folder)) == ["dagster.yaml", "data", "data/history", "data/history/.scratch"]
    assert stat.S_IMODE((demo_folder / "data").stat().st_mode) == 0o700
    assert held_by_taplytics(standins) == members
    lines = dict(line.split(maxsplit=1) for line in planned.out.splitlines())
    assert lines["snapshot"].startswith("300 members")
    assert lines["snapshot"].rstrip().endswith("(read now, 1 query)")
    assert lines["excluded"].strip() == "24 (anonymous 24)"
    assert lines["payload"].strip() == "276 users for 'Beta Users', its first"
    assert (lines["joiners"].strip(), lines["leavers"].strip()) == ("276", "0")
    assert lines["requests"].strip() == "276 for 276 changes"
    assert "at an assumed pace" in lines["time"]
    assert lines["cadence"].startswith("kept; a window has room for 708,000 changes")
    assert lines["gates"].strip() == "4 passed"
    assert "min_users: the payload has 276 users, at least 1 are wanted" in planned.out


@pytest.mark.slow
def test_a_sealed_payload_is_planned_without_a_query(run: Run, demo_folder: Path, standins: InThread) -> None:
    nothing = run("plan", APPTIMIZE, "--sealed")
    assert (nothing.code, nothing.err.split(":")[0]) == (1, "NotSealedYet")
    assert deliver(demo_folder, APPTIMIZE).upload
    before, queries = footprint(demo_folder), standins.standins.mixpanel.budget.used()

    planned = run("plan", APPTIMIZE, "--sealed", "--json")

    told = json.loads(planned.out)
    assert (planned.code, told["sealed"], told["budget"]["spent"]) == (0, True, 0)
    assert told["preview"]["counts"]["joiners"] == 0
    assert sum(told["excluded"].values()) + told["preview"]["users"] == told["members"] == 300
    assert standins.standins.mixpanel.budget.used() == queries
    assert footprint(demo_folder) == before


@pytest.mark.slow
def test_what_would_hold_or_stop_a_delivery_is_said_and_is_the_exit_code(
    run: Run, demo_folder: Path, standins: InThread
) -> None:
    assert deliver(demo_folder, TAPLYTICS, back=1).upload
    pauses.pause(Ledger(f"sqlite:///{demo_folder}/data/ledger.sqlite"), TAPLYTICS, who="kim", why="holidays")

    with few_members(standins):
        planned = run("plan", TAPLYTICS)

    assert planned.code == 1
    assert "held by min_users, max_shrink" in planned.out
    assert f"{TAPLYTICS} was paused by kim: holidays" in planned.out
    assert "Held by the gate min_users: the payload has 0 users" in planned.out


@pytest.mark.usefixtures("demo_folder")
def test_planning_a_sync_that_is_not_declared_gets_a_sentence(run: Run, standins: InThread) -> None:
    queries = standins.standins.mixpanel.budget.used()

    refused = run("plan", "nobodys_list")

    assert (refused.code, refused.out) == (1, "")
    assert refused.err.startswith("SyncUnknown: This project declares no sync 'nobodys_list'.")
    assert standins.standins.mixpanel.budget.used() == queries
