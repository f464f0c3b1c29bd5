from itertools import product

import pytest

from cohort_pipelines.history import History
from cohort_pipelines.membership.plan import PLAN_SCHEMA, PlanCounts, seal_plan
from cohort_pipelines.membership.reconciliation import SLICES, Slices
from cohort_pipelines.membership.state import Membership
from cohort_pipelines_tests.delivery.memberships import NOON, believe, payload_of, planned

EVERYBODY = Slices(0, SLICES)


def test_the_plan_for_every_state_of_membership(tmp_history: History) -> None:
    rows = [
        (f"{wanted}-{state}-{'in doubt' if since else 'settled'}", state, since)
        for wanted, state, since in product(["member", "stranger"], ["IN", "OUT", "UNKNOWN"], [None, NOON])
    ]
    payload = payload_of(tmp_history, *(row[0] for row in rows if row[0].startswith("member")), "member-new")
    membership = believe(tmp_history, *rows)

    assert planned(tmp_history, payload, membership) == [
        ("add", "member-IN-in doubt", False, "repeat"),
        ("add", "member-OUT-in doubt", False, "change"),
        ("add", "member-OUT-settled", False, "change"),
        ("add", "member-UNKNOWN-in doubt", False, "change"),
        ("add", "member-UNKNOWN-settled", False, "change"),
        ("add", "member-new", False, "change"),
        ("remove", "stranger-IN-in doubt", False, "change"),
        ("remove", "stranger-IN-settled", False, "change"),
        ("remove", "stranger-OUT-in doubt", False, "repeat"),
        ("remove", "stranger-UNKNOWN-in doubt", False, "change"),
        ("remove", "stranger-UNKNOWN-settled", False, "change"),
    ]
    sealed, counts = seal_plan(tmp_history, payload, membership, sync="s", window="w")
    assert counts == PlanCounts(6, 5, joiners=5, leavers=4, repeated=2)
    assert sealed.rows == counts.operations


def test_who_was_refused_last_comes_after_the_others_of_the_same_operation(tmp_history: History) -> None:
    membership = believe(
        tmp_history,
        ("a-refused", "OUT", None, True),
        ("b", "OUT", None, False),
        ("y-refused", "IN", None, True),
        ("z", "IN", None, False),
    )
    payload = payload_of(tmp_history, "a-refused", "b", "c")
    sealed, counts = seal_plan(tmp_history, payload, membership, sync="s", window="w")

    assert [tuple(row.values()) for batch in tmp_history.batches(sealed) for row in batch.to_pylist()] == [
        ("add", "b", False),
        ("add", "c", False),
        ("add", "a-refused", True),
        ("remove", "z", False),
        ("remove", "y-refused", True),
    ]
    assert counts == PlanCounts(3, 2, joiners=3, leavers=2, quarantined_adds=1, quarantined_removals=1)


def test_reconciliation_sends_who_is_in_and_who_is_out_again(tmp_history: History) -> None:
    membership = believe(
        tmp_history, ("in", "IN", None), ("out", "OUT", None), ("leaver", "IN", None), ("odd", "OUT", NOON)
    )
    payload = payload_of(tmp_history, "in", "joiner")

    assert planned(tmp_history, payload, membership, reconcile=EVERYBODY) == [
        ("add", "joiner", False, "change"),
        ("remove", "leaver", False, "change"),
        ("remove", "odd", False, "repeat"),
        ("add", "in", False, "reconcile"),
        ("remove", "out", False, "reconcile"),
    ]
    counts = seal_plan(tmp_history, payload, membership, sync="s", window="w", reconcile=EVERYBODY)[1]
    assert counts == PlanCounts(2, 3, joiners=1, leavers=1, repeated=1, reconciled=2, reconciling_removals=1)


def test_the_slices_hold_every_id_once(tmp_history: History) -> None:
    ids = [f"user-{number}" for number in range(300)]
    membership = believe(tmp_history, *((each, "IN" if number % 2 else "OUT", None) for number, each in enumerate(ids)))
    payload = payload_of(tmp_history, *ids[1::2])

    reconciled = [
        row[1]
        for first, count in ((1000, 100), (76, 1), (77, 400), (477, 523))
        for row in planned(tmp_history, payload, membership, reconcile=Slices(first, count))
    ]

    assert sorted(reconciled) == sorted(ids)
    assert 0 < len(planned(tmp_history, payload, membership, reconcile=Slices(77, 400))) < len(ids)


def test_an_id_that_was_refused_is_reconciled_among_the_others(tmp_history: History) -> None:
    membership = believe(tmp_history, ("never-in", "OUT", None, True), ("in", "IN", None, True))
    assert planned(tmp_history, payload_of(tmp_history, "in"), membership, reconcile=EVERYBODY) == [
        ("add", "in", False, "reconcile"),
        ("remove", "never-in", False, "reconcile"),  # somebody may have put it in by hand
    ]


@pytest.mark.parametrize("reconcile", [None, EVERYBODY])
def test_whole_names_everybody_as_soon_as_anything_is_to_be_done(
    tmp_history: History, reconcile: Slices | None
) -> None:
    membership = believe(tmp_history, ("in", "IN", None), ("leaver", "IN", None), ("unknown", "UNKNOWN", None))
    payload = payload_of(tmp_history, "in", "unknown")

    assert sorted(planned(tmp_history, payload, membership, reconcile=reconcile, whole=True)) == [
        ("add", "in", False, "reconcile" if reconcile else "whole"),
        ("add", "unknown", False, "change"),
        ("remove", "leaver", False, "change"),
    ]
    counts = seal_plan(tmp_history, payload, membership, sync="s", window="w", whole=True)[1]
    assert counts == PlanCounts(2, 1, joiners=1, leavers=1)


def test_whole_does_not_name_who_is_known_to_be_out(tmp_history: History) -> None:
    membership = believe(tmp_history, ("in", "IN", None), ("out", "OUT", None), ("odd", "OUT", NOON))
    payload = payload_of(tmp_history, "in")
    assert planned(tmp_history, payload, membership, whole=True) == [
        ("add", "in", False, "whole"),
        ("remove", "odd", False, "repeat"),
    ]


def test_an_unchanged_audience_is_a_plan_without_rows(tmp_history: History) -> None:
    membership = believe(tmp_history, ("in", "IN", None), ("out", "OUT", None))
    payload = payload_of(tmp_history, "in")
    for whole in (False, True):
        sealed, counts = seal_plan(tmp_history, payload, membership, sync="s", window="w", whole=whole)
        assert (sealed.rows, counts) == (0, PlanCounts())


def test_where_nothing_is_known_everybody_joins(tmp_history: History) -> None:
    counts = seal_plan(tmp_history, payload_of(tmp_history, "a", "b"), Membership(), sync="s", window="w")[1]
    assert counts == PlanCounts(adds=2, joiners=2)


def test_a_sealed_plan_has_its_columns_only(tmp_history: History) -> None:
    sealed, _ = seal_plan(tmp_history, payload_of(tmp_history, "a"), Membership(), sync="s", window="w")
    (batch,) = tmp_history.batches(sealed)
    assert batch.schema == PLAN_SCHEMA
