"""F7: somebody is named twice in a cohort, or is in two cohorts: an audience is a set, and nobody is lost."""

from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cohort_pipelines.core import clock
from cohort_pipelines_tests.faults.projects import (
    LAPSED_USERS,
    MIXPANEL,
    TAPLYTICS,
    Faulty,
    opened,
    sync,
    to_the_window_before,
)
from cohort_pipelines_tests.orchestration.demo_project import APPTIMIZE
from cohort_pipelines_tests.orchestration.demo_project import TAPLYTICS as SEGMENT

BETA, LAPSED = "beta_users", "lapsed_users"


def test_f07_a_member_that_is_named_twice_on_a_page_is_one_user(
    project: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixpanel = project.standins.standins.mixpanel.project
    named_once = mixpanel.members

    def name_some_twice(*about: Any, **how: Any) -> "array[int]":  # noqa: ANN401  passed on as it comes
        numbers = named_once(*about, **how)
        return array("I", [number for number in numbers for _ in range(2 if number % 40 == 0 else 1)])

    monkeypatch.setattr(mixpanel, "members", name_some_twice)
    project.standins.standins.mixpanel.engage.page_size = 1000  # on one page: across pages it would be a torn reading

    assert project.run(SEGMENT).success

    window = project.window(SEGMENT)
    [snapshot] = project.judge.files(SEGMENT, "cohort_snapshot", window)
    rows = pq.read_table(snapshot, columns=["distinct_id", "has_profile"]).to_pylist()
    identified = Counter(row["distinct_id"] for row in rows if row["has_profile"])
    reasons = Counter(reason for *_, reason in project.judge.excluded(SEGMENT, window))
    assert project.judge.segment() == set(identified) == project.judge.payload(SEGMENT, window)
    assert reasons["duplicate_partner_id"] == identified.total() - len(identified) > 5
    assert reasons.total() + len(identified) == len(rows)


def test_f07_of_members_with_one_partner_id_one_stays_and_the_surplus_is_listed(project: Faulty) -> None:
    assert project.run(APPTIMIZE).success

    window = project.window(APPTIMIZE)
    surplus = [each for each in project.judge.excluded(APPTIMIZE, window) if each[2] == "duplicate_partner_id"]
    assert surplus
    assert {partner_id for _, partner_id, _ in surplus} <= project.judge.group()
    assert project.judge.group() == project.judge.payload(APPTIMIZE, window)


@pytest.fixture
def cohorts(tmp_path: Path, at_an_opening: None) -> Iterator[Faulty]:  # noqa: ARG001  the clock is set first
    declared = {
        "mixpanel": MIXPANEL,
        "taplytics": TAPLYTICS,
        BETA: sync("taplytics", "Beta"),
        LAPSED: sync("taplytics", "Lapsed", cohort=LAPSED_USERS),
    }
    with opened(tmp_path, declared) as project:
        yield project


def test_f07_who_is_in_two_cohorts_is_in_both_audiences_and_leaves_them_one_by_one(cohorts: Faulty) -> None:
    with clock.shifted(to_the_window_before()):
        for name in (BETA, LAPSED):
            assert cohorts.run(name).success
    beta, lapsed = cohorts.judge.segment("Beta"), cohorts.judge.segment("Lapsed")
    both = beta & lapsed
    assert len(both) > 5
    some, others = sorted(both)[::2], sorted(both)[1::2]
    cohorts.leave(some)
    cohorts.profiles({user: {"lapsed": False} for user in others})

    for name in (BETA, LAPSED):
        assert cohorts.run(name).success

    assert cohorts.judge.segment("Beta") == beta - set(some) == cohorts.judge.payload(BETA, cohorts.window(BETA))
    assert (
        cohorts.judge.segment("Lapsed") == lapsed - set(others) == cohorts.judge.payload(LAPSED, cohorts.window(LAPSED))
    )
