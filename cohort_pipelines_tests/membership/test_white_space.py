"""Ids with white space at an end: the plan and membership when a target holds some from before they were excluded."""

import tempfile

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cohort_pipelines.history import History
from cohort_pipelines.identity.mapping import SPACE, Equality, equality_key, surrounding_space
from cohort_pipelines.membership.plan import PlanCounts, seal_plan
from cohort_pipelines.membership.spelling import bare_keys, is_padded, spelling_engine
from cohort_pipelines.membership.state import Membership, fold
from cohort_pipelines_tests.delivery.memberships import NOON, believe, chunks, payload_of, planned, read

ALL = ("acked", "unknown", "intent", "in_doubt", "rejected")
texts = st.lists(st.text(st.sampled_from([*SPACE, "a", "B", "\u200b", "é"]), max_size=4), max_size=20)


@settings(deadline=None, max_examples=20)
@given(texts=texts, equality=st.sampled_from(["exact", "casefold", "nfc"]))
def test_set_work_knows_the_white_space_that_identity_knows(texts: list[str], equality: Equality) -> None:
    ids = pa.array(texts, pa.string())
    padded = ids.filter(surrounding_space(ids))
    with tempfile.TemporaryDirectory() as folder, spelling_engine(History(folder), equality) as duckdb:
        duckdb.register("texts", pa.table({"id": ids}))
        found = duckdb.sql(f"SELECT id FROM texts WHERE {is_padded('id')}").fetchall()  # noqa: S608
        keys = duckdb.sql(f"FROM {bare_keys('texts', equality)}").fetchall()
    assert sorted(row[0] for row in found) == sorted(padded.to_pylist())
    bare = pa.array([each.strip(SPACE) for each in padded.to_pylist()], pa.string())
    assert {row[0] for row in keys} == set(equality_key(bare, equality).to_pylist())


@pytest.mark.parametrize("state", ["IN", "UNKNOWN"])
def test_an_id_with_white_space_goes_and_the_bare_one_is_added_after_all_else(tmp_history: History, state: str) -> None:
    membership = believe(
        tmp_history, ("a", "IN", None), ("a ", state, None), ("c", "IN", None), ("\u3000d", "IN", None)
    )
    payload = payload_of(tmp_history, "a", "b", "c")
    assert planned(tmp_history, payload, membership) == [
        ("add", "b", False, "change"),
        ("add", "a", False, "again"),
        ("remove", "a ", False, "change"),
        ("remove", "\u3000d", False, "change"),
    ]
    counts = seal_plan(tmp_history, payload, membership, sync="s", window="w")[1]
    assert counts == PlanCounts(2, 2, joiners=1, leavers=2, repeated=1, again=1)


def test_the_bare_id_is_found_under_another_spelling(tmp_history: History) -> None:
    membership = believe(tmp_history, ("A ", "IN", None), ("a", "IN", None))
    rows = planned(tmp_history, payload_of(tmp_history, "A"), membership, equality="casefold")
    assert rows == [("add", "A", False, "again"), ("remove", "A ", False, "change")]


def test_an_id_with_white_space_is_never_added(tmp_history: History) -> None:
    assert planned(tmp_history, payload_of(tmp_history, " ", "a ", "b"), Membership()) == [
        ("add", "b", False, "change")
    ]


@pytest.mark.parametrize("removed", ALL)
@pytest.mark.parametrize("added", [*ALL, None])
def test_the_bare_id_is_in_only_where_its_own_addition_says_so(
    tmp_history: History, removed: str, added: str | None
) -> None:
    base = believe(tmp_history, ("a", "IN", None), ("a ", "IN", None))
    plan, _ = seal_plan(tmp_history, payload_of(tmp_history, "a"), base, sync="s", window="w")
    told = [(1, 2, removed, NOON, NOON), *([(0, 1, added, NOON, NOON)] if added else [])]
    folded = {
        id_: (state, since)
        for id_, state, since in read(tmp_history, fold(tmp_history, base, plan, chunks(*sorted(told))))
    }

    assert folded["a"][0] == ("IN" if added in {"acked", "in_doubt"} else "UNKNOWN")
    assert (folded["a"][1] is None) == (added not in {"unknown", "intent", "in_doubt"})
    assert ("a " in folded) == (removed != "acked")  # what is certainly out is forgotten
    if removed != "acked":
        assert folded["a "][0] == {"in_doubt": "OUT", "rejected": "IN"}.get(removed, "UNKNOWN")


def test_a_tombstone_with_white_space_has_the_bare_id_added_once_more(tmp_history: History) -> None:
    membership = believe(tmp_history, ("a", "IN", None), ("a ", "OUT", None))
    payload = payload_of(tmp_history, "a")
    assert planned(tmp_history, payload, membership) == [("add", "a", False, "again")]
    plan, _ = seal_plan(tmp_history, payload, membership, sync="s", window="w")
    after = fold(tmp_history, membership, plan, chunks((0, 1, "acked", NOON, NOON)))
    assert read(tmp_history, after) == [("a", "IN", None)]
    assert planned(tmp_history, payload, after) == []
