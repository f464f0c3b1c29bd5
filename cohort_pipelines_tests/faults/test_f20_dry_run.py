"""F20: a dry run changes no recorded state and no partner; it costs one query, and says so."""

import json
import sqlite3
from pathlib import Path

import pytest

from cohort_pipelines.core import clock
from cohort_pipelines_tests.command_line import Run, footprint
from cohort_pipelines_tests.faults.projects import Faulty, said, to_the_window_before
from cohort_pipelines_tests.orchestration.demo_project import APPTIMIZE, TAPLYTICS


@pytest.fixture
def demo(project: Faulty, demo_folder: Path) -> Faulty:
    """Return the project, in a folder whose commands are about it."""
    assert demo_folder == project.judge.data.parent
    return project


def recorded(project: Faulty) -> tuple[dict[str, str], list[str]]:
    """Return every file of the records by its checksum, and every row of the ledger."""
    with sqlite3.connect(f"file:{project.judge.data}/ledger.sqlite?mode=ro", uri=True) as ledger:
        rows = list(ledger.iterdump())
    return {path: it for path, it in footprint(project.judge.data).items() if "ledger.sqlite" not in path}, rows


@pytest.mark.parametrize("name", [TAPLYTICS, APPTIMIZE])
def test_f20_a_dry_run_changes_nothing_and_the_delivery_after_it_does_what_it_said(
    demo: Faulty, run: Run, name: str
) -> None:
    with clock.shifted(to_the_window_before()):
        assert said(demo.run(name)) == ""
    demo.churn(0.1)
    before, members, asked = recorded(demo), demo.all_held(), demo.judge.asked()
    queries = demo.standins.standins.mixpanel.budget.used()

    for sealed_too in range(2):
        planned = run("plan", name, "--json")

        assert planned.code == 0, planned.err
        assert recorded(demo) == before
        assert (demo.all_held(), demo.judge.asked()) == (members, asked)
        assert demo.standins.standins.mixpanel.budget.used() == queries + 1 + sealed_too
        assert json.loads(planned.out)["budget"]["spent"] == 1

    shown = json.loads(planned.out)["preview"]
    assert said(demo.run(name)) == ""
    assert demo.held(name) == demo.judge.payload(name, demo.window(name))
    audience = demo.judge.payload(name, demo.window(name))
    old = members[name]
    assert (len(audience - old), len(old - audience)) == (shown["counts"]["joiners"], shown["counts"]["leavers"])
    assert shown["users"] == len(audience)
    assert sum((demo.judge.asked() - asked).values()) == shown["requests"]


def test_f20_a_dry_run_before_and_between_failed_deliveries_does_not_touch_what_is_known_of_them(
    demo: Faulty, run: Run
) -> None:
    with clock.shifted(to_the_window_before(2)):
        assert said(demo.run(TAPLYTICS)) == ""
    demo.churn(0.1)
    demo.fault("taplytics", match="/v2/users", kind="status", status=401, after=20, times=None)
    with clock.shifted(to_the_window_before()):
        assert "delivery stopped after" in said(demo.run(TAPLYTICS))
    demo.mend()
    demo.churn(0.1)
    before, members, asked = recorded(demo), demo.all_held(), demo.judge.asked()

    for options in ([], ["--sealed"]):
        planned = run("plan", TAPLYTICS, *options)
        assert planned.code == 0, planned.err
        assert (recorded(demo), demo.all_held(), demo.judge.asked()) == (before, members, asked)

    assert said(demo.run(TAPLYTICS)) == ""
    assert demo.judge.segment() == demo.judge.payload(TAPLYTICS, demo.window(TAPLYTICS))


def test_f20_a_dry_run_that_mixpanel_refuses_changes_nothing_either(demo: Faulty, run: Run) -> None:
    with clock.shifted(to_the_window_before()):
        assert said(demo.run(TAPLYTICS)) == ""
    before, members, asked = recorded(demo), demo.all_held(), demo.judge.asked()
    demo.fault("mixpanel", match="/api/query/engage", kind="plan_without_api", times=None)

    planned = run("plan", TAPLYTICS)

    assert planned.code == 1
    assert "plan" in planned.err
    assert (recorded(demo), demo.all_held(), demo.judge.asked()) == (before, members, asked)
