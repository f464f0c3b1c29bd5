from datetime import timedelta
from pathlib import Path

import pytest

from cohort_pipelines.history import History
from cohort_pipelines.membership import state
from cohort_pipelines.membership.state import SETTLES_AFTER, Membership, fold
from cohort_pipelines_tests.delivery.memberships import NOON, believe, chunks, plan_of, read, read_refused


@pytest.mark.parametrize(
    ("operation", "state", "before", "after"),
    [
        ("add", "acked", None, "IN"),
        ("add", "acked", "OUT", "IN"),
        ("remove", "acked", "UNKNOWN", "OUT"),
        ("add", "in_doubt", None, "IN"),
        ("remove", "in_doubt", "UNKNOWN", "OUT"),
        ("add", "rejected", None, "OUT"),
        ("add", "rejected", "OUT", "OUT"),
        ("add", "rejected", "IN", "UNKNOWN"),  # somebody must have put them out
        ("add", "rejected_whole", "IN", "UNKNOWN"),
        ("remove", "rejected", "OUT", "OUT"),
        ("remove", "rejected", "IN", "IN"),
        ("add", "unknown", "OUT", "UNKNOWN"),
        ("remove", "intent", "IN", "UNKNOWN"),
        ("add", "rejected_whole", "OUT", "OUT"),
        ("add", "rejected_whole", None, "OUT"),
        ("remove", "rejected_whole", "IN", "IN"),
        ("remove", "rejected_whole", "UNKNOWN", "UNKNOWN"),
        ("add", "not_sent", "OUT", "OUT"),
        ("add", "not_sent", None, None),
    ],
)
def test_what_an_outcome_makes_of_membership(
    tmp_history: History, operation: str, state: str, before: str | None, after: str | None
) -> None:
    base = believe(tmp_history, ("other", "IN", None), *([("u", before, None)] if before else []))
    outcome = chunks((0, 1, state, NOON, NOON))
    folded = fold(tmp_history, base, plan_of(tmp_history, (operation, "u")), outcome)
    assert dict(row[:2] for row in read(tmp_history, folded)) == {"other": "IN"} | ({"u": after} if after else {})


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize(("state", "held"), [("intent", "UNKNOWN"), ("unknown", "UNKNOWN"), ("in_doubt", "IN")])
def test_only_a_later_acknowledgement_settles(tmp_history: History, state: str, held: str, later: bool) -> None:
    plan = plan_of(tmp_history, ("add", "u"))
    doubted = fold(tmp_history, Membership(), plan, chunks((0, 1, state, NOON - SETTLES_AFTER, NOON)))
    assert (doubted.in_doubt, read(tmp_history, doubted)) == (1, [("u", held, NOON)])

    again = NOON + SETTLES_AFTER + timedelta(microseconds=int(later))
    settled = fold(tmp_history, doubted, plan, chunks((0, 1, "acked", again, again)))
    assert (settled.in_doubt, read(tmp_history, settled)) == (int(not later), [("u", "IN", None if later else NOON)])


@pytest.mark.parametrize(("state", "held"), [("unknown", "UNKNOWN"), ("in_doubt", "IN")])
@pytest.mark.parametrize("minutes", [5, 30])
def test_a_second_doubt_counts_from_the_newer_one(tmp_history: History, state: str, held: str, minutes: int) -> None:
    base = believe(tmp_history, ("u", "UNKNOWN", NOON))
    later = NOON + timedelta(minutes=minutes)
    folded = fold(tmp_history, base, plan_of(tmp_history, ("add", "u")), chunks((0, 1, state, later, later)))
    assert read(tmp_history, folded) == [("u", held, later)]


def test_rows_that_were_never_begun_stay_as_they_were(tmp_history: History) -> None:
    plan = plan_of(tmp_history, *(("add", each) for each in "abcdefgh"))
    outcome = chunks((0, 2, "acked", NOON, NOON), (3, 4, "unknown", NOON, NOON), (6, 7, "acked", NOON, NOON))
    folded = fold(tmp_history, believe(tmp_history, ("c", "OUT", None), ("z", "IN", None)), plan, outcome)
    assert [row[:2] for row in read(tmp_history, folded)] == [
        ("a", "IN"),
        ("b", "IN"),
        ("c", "OUT"),
        ("d", "UNKNOWN"),
        ("g", "IN"),
        ("z", "IN"),
    ]


def test_who_is_in_or_may_be_is_held(tmp_history: History) -> None:
    base = believe(tmp_history, ("in", "IN", None), ("out", "OUT", None), ("unknown", "UNKNOWN", None))
    plan = plan_of(tmp_history, *(("add", each) for each in "abc"), ("remove", "in"))
    outcome = chunks((0, 1, "acked", NOON, NOON), (1, 2, "unknown", NOON, NOON), (3, 4, "acked", NOON, NOON))
    assert fold(tmp_history, base, plan, outcome).held == 3  # a, b and maybe


def test_nothing_sent_makes_no_new_file(tmp_history: History) -> None:
    base = believe(tmp_history, ("u", "IN", None))
    assert fold(tmp_history, base, plan_of(tmp_history, ("add", "v")), chunks()) is base


def test_not_sent_rows_stay_as_they_were_beside_others(tmp_history: History) -> None:
    base = believe(tmp_history, ("b", "UNKNOWN", NOON, True))
    plan = plan_of(tmp_history, ("add", "a"), ("add", "b"), ("add", "c"))
    outcome = chunks((0, 1, "acked", NOON, NOON), (1, 2, "not_sent", NOON, NOON), (2, 3, "not_sent", NOON, NOON))
    folded = fold(tmp_history, base, plan, outcome)
    assert read(tmp_history, folded) == [("a", "IN", None), ("b", "UNKNOWN", NOON)]
    assert read_refused(tmp_history, folded) == {"b"}


def test_not_sent_rows_alone_make_no_new_file(tmp_history: History) -> None:
    base = believe(tmp_history, ("u", "OUT", None))
    outcome = chunks((0, 1, "not_sent", NOON, NOON))
    assert fold(tmp_history, base, plan_of(tmp_history, ("add", "u")), outcome) is base


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize(
    ("state", "after"),
    [
        ("acked", False),
        ("in_doubt", False),
        ("rejected", True),
        ("rejected_whole", True),
        ("unknown", None),
        ("intent", None),
    ],
)
def test_who_was_refused_last_is_marked(
    tmp_history: History, state: str, after: bool | None, before: bool, known: bool
) -> None:
    base = believe(tmp_history, ("other", "IN", None, True), *([("u", "OUT", None, before)] if known else []))
    folded = fold(tmp_history, base, plan_of(tmp_history, ("add", "u")), chunks((0, 1, state, NOON, NOON)))
    marked = (before and known) if after is None else after
    assert read_refused(tmp_history, folded) == ({"other", "u"} if marked else {"other"})


def test_a_refusal_settles_nothing(tmp_history: History) -> None:
    base = believe(tmp_history, ("u", "UNKNOWN", NOON))
    later = NOON + 2 * SETTLES_AFTER
    folded = fold(tmp_history, base, plan_of(tmp_history, ("add", "u")), chunks((0, 1, "rejected_whole", later, later)))
    assert read(tmp_history, folded) == [("u", "UNKNOWN", NOON)]


def test_a_large_plan_is_worked_in_by_steps_to_the_same_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_history = History(tmp_path / "it's here")
    base = believe(tmp_history, ("b", "OUT", None), ("c", "IN", NOON, True))
    plan, outcome = plan_of(tmp_history, ("add", "a"), ("add", "b")), chunks((0, 2, "acked", NOON, NOON))
    at_once = fold(tmp_history, base, plan, outcome)
    monkeypatch.setattr(state, "_AT_ONCE", 1)
    assert fold(tmp_history, base, plan, outcome) == at_once
