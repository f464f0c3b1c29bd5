import math
from dataclasses import replace

import pytest

from cohort_pipelines.delivery import Gates
from cohort_pipelines.delivery.gates import Facts
from cohort_pipelines.ledger.approvals import Verdict

EVERY = Gates(max_growth=1.0, max_churn=1.0)
STEADY = Facts(
    users=100,
    held=100,
    most_today=100,
    most_this_week=100,
    least_today=100,
    least_this_week=100,
    members=200,
    identified=150,
)


def verdict(name: str, facts: Facts, gates: Gates = EVERY) -> Verdict:
    return next(each for each in gates.judge(facts) if each.name == name)


def held(facts: Facts, gates: Gates = EVERY) -> list[str]:
    return [each.name for each in gates.judge(facts) if each.held]


def test_growth_and_churn_are_off_unless_asked_for() -> None:
    assert Gates().names == ("min_users", "max_shrink", "min_identified_share", "min_mapped_share")
    assert EVERY.names == (
        "min_users",
        "max_shrink",
        "max_growth",
        "max_churn",
        "min_identified_share",
        "min_mapped_share",
    )


@pytest.mark.parametrize("gates", [Gates(), Gates(max_growth=0.0), Gates(max_churn=0.0), EVERY])
def test_each_gate_that_is_on_gives_one_verdict_under_its_name(gates: Gates) -> None:
    assert tuple(each.name for each in gates.judge(STEADY)) == gates.names


def test_an_audience_that_stays_as_it_is_passes_with_numbers() -> None:
    assert held(STEADY) == []
    assert all(any(letter.isdigit() for letter in each.finding) for each in EVERY.judge(STEADY))


@pytest.mark.parametrize(("users", "is_held"), [(0, True), (49, True), (50, False), (100, False), (1000, False)])
def test_an_empty_or_more_than_halved_audience_is_held(users: int, is_held: bool) -> None:
    found = verdict("max_shrink", replace(STEADY, users=users), Gates())

    assert found.held is is_held
    assert f"{users:,} users after 100" in found.finding


def test_the_largest_of_what_was_delivered_and_what_is_held_is_what_can_be_lost() -> None:
    for known in ("most_today", "most_this_week", "held"):
        facts = Facts(users=40, **{known: 100})  # type: ignore[arg-type]
        assert held(facts, Gates()) == ["max_shrink"]
        assert "40 users after 100" in verdict("max_shrink", facts).finding


def test_an_audience_of_as_many_others_is_held_for_whom_it_would_remove() -> None:
    facts = replace(STEADY, joiners=60, leavers=60)

    assert held(facts, Gates()) == ["max_shrink"]
    assert "60 of 100 users that the target may hold would be removed, 60%" in verdict("max_shrink", facts).finding


@pytest.mark.parametrize(("before", "users", "limit"), [(10, 7, 0.3), (1000, 900, 0.1), (3, 2, 1 / 3), (2, 1, 0.5)])
def test_a_share_that_is_the_limit_passes(before: int, users: int, limit: float) -> None:
    facts = Facts(users=users, most_today=before, held=before, leavers=before - users)

    assert not verdict("max_shrink", facts, Gates(max_shrink=limit)).held
    assert verdict("max_shrink", facts, Gates(max_shrink=math.nextafter(limit, 0))).held


@pytest.mark.parametrize(("users", "is_held"), [(200, False), (201, True)])
def test_growth_is_measured_against_the_least(users: int, is_held: bool) -> None:
    facts = replace(STEADY, users=users, least_this_week=100, least_today=150, most_this_week=300, identified=300)

    assert verdict("max_growth", facts).held is is_held


@pytest.mark.parametrize(("joiners", "is_held"), [(60, False), (61, True)])
def test_churn_is_joiners_and_leavers_of_what_is_held(joiners: int, is_held: bool) -> None:
    facts = replace(STEADY, joiners=joiners, leavers=40)

    assert verdict("max_churn", facts).held is is_held
    assert f"{joiners} joiners and 40 leavers of 100 users" in verdict("max_churn", facts).finding


@pytest.mark.parametrize("sent", [0, 1, 30, 99])
def test_a_first_fill_is_let_through_to_its_end(sent: int) -> None:
    facts = Facts(users=100, joiners=100 - sent, held=sent, members=150, identified=120, filling=True)

    assert held(facts, Gates(max_growth=0.0, max_churn=0.0)) == []


@pytest.mark.parametrize("sent", [0, 1, 30, 60])
def test_a_change_that_was_let_through_is_so_to_its_end(sent: int) -> None:
    before = replace(STEADY, users=120, joiners=60, leavers=40)
    joined, left = min(sent, 60), max(0, sent - 60)
    later = replace(before, joiners=60 - joined, leavers=40 - left, held=100 + joined - left)

    assert held(before) == held(later) == []


def test_a_target_that_nothing_is_known_of_has_nothing_to_compare_with() -> None:
    facts = Facts(users=1, joiners=1, filling=True)

    assert held(facts) == []
    assert "not known to hold anybody" in verdict("max_shrink", facts).finding
    assert "nothing was delivered" in verdict("max_growth", facts).finding
    assert "no audience yet" in verdict("max_churn", facts).finding


def test_an_adopted_file_of_initial_members_is_compared_with() -> None:
    facts = Facts(users=300, joiners=250, leavers=50, held=100)

    assert held(facts) == ["max_growth", "max_churn"]


@pytest.mark.parametrize(("users", "gates"), [(0, Gates()), (4, Gates(min_users=5)), (0, Gates(min_users=0))])
def test_fewer_users_than_wanted(users: int, gates: Gates) -> None:
    found = verdict("min_users", Facts(users=users, filling=True), gates)

    assert found.held is (users < gates.min_users)
    assert found.finding == f"the payload has {users} users, at least {gates.min_users} are wanted"


def test_an_empty_cohort_passes_where_it_is_allowed_and_a_small_one_does_not() -> None:
    gates = Gates(min_users=5, allow_empty=True)

    assert held(Facts(users=0, members=0, identified=0, filling=True), gates) == []
    assert held(Facts(users=4, filling=True), gates) == ["min_users"]


def test_a_cohort_of_nobody_identified_is_held() -> None:
    facts = Facts(users=0, members=500, identified=0, filling=True)

    assert held(facts, Gates()) == ["min_users", "min_identified_share"]
    assert held(facts, Gates(min_users=0)) == ["min_identified_share"]
    assert held(facts, Gates(allow_empty=True)) == []
    assert held(facts, Gates(allow_empty=True, min_identified_share=0.1)) == ["min_identified_share"]


def test_a_mapping_that_finds_nobody_is_held_also_where_an_empty_audience_is_allowed() -> None:
    facts = Facts(users=0, members=500, identified=400, filling=True)

    assert held(facts, Gates(allow_empty=True)) == ["min_mapped_share"]
    assert held(replace(facts, users=4), Gates()) == []
    assert "3 of 400 identified users have a partner id, 0.8%" in (
        verdict("min_mapped_share", replace(facts, users=3), Gates()).finding
    )
    assert held(replace(facts, users=3), Gates()) == ["min_mapped_share"]


def test_shares_that_are_not_known_hold_nothing() -> None:
    gates = Gates(min_identified_share=1.0, min_mapped_share=1.0)

    assert held(Facts(users=3, filling=True), gates) == []
    assert held(Facts(users=3, members=3, filling=True), gates) == []


@pytest.mark.parametrize("per_day", [96, 12, 1])
def test_an_audience_that_loses_a_fifth_in_each_window_is_held_at_the_fourth(per_day: int) -> None:
    sizes = [10_000]
    while len(sizes) < 20:
        users = int(sizes[-1] * 0.8)
        facts = Facts(
            users=users,
            leavers=sizes[-1] - users,
            held=sizes[-1],
            most_today=max(sizes[-per_day:]),
            most_this_week=max(sizes[-7 * per_day :]),
        )
        if held(facts, Gates()):
            break
        sizes.append(users)

    assert len(sizes) == 4
