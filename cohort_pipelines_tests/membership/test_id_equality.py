"""Spellings of one id: the payload, the plan and membership must mean the same by it."""

import tempfile
import unicodedata
from collections.abc import Iterable

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cohort_pipelines.core.files import Stage, StoredFile
from cohort_pipelines.history import History
from cohort_pipelines.identity.mapping import Equality, IdRule, Reason, equality_key
from cohort_pipelines.membership.plan import seal_plan
from cohort_pipelines.membership.reconciliation import SLICES, Slices
from cohort_pipelines.membership.spelling import key_of, spelling_engine
from cohort_pipelines.membership.state import SETTLES_AFTER, Membership, fold
from cohort_pipelines.snapshots import deriving
from cohort_pipelines_tests.delivery.memberships import (
    NOON,
    Planned,
    believe,
    chunks,
    payload_of,
    plan_of,
    planned,
    read,
    read_refused,
)

ALIKE: dict[Equality, list[tuple[str, str]]] = {  # spellings of one id each
    "casefold": [
        ("Straße", "STRASSE"),
        ("İ", "i\u0307"),
        ("ΛΌΓΟΣ", "λόγος"),
        ("ﬁ", "FI"),
        ("K", "\u212a"),
        ("Ab", "aB"),
    ],
    "nfc": [("é", "e\u0301"), ("\u212b", "Å"), ("\uac00", "\u1100\u1161"), ("q\u0307\u0323", "q\u0323\u0307")],
}
UNLIKE: dict[Equality, list[tuple[str, str]]] = {
    "casefold": [("é", "e\u0301"), ("\u0131", "i"), ("İ", "i"), ("ß", "s")],
    "nfc": [("ß", "ss"), ("K", "k"), ("ﬁ", "fi"), ("İ", "i\u0307")],
    "exact": [("a", "A"), ("é", "e\u0301")],
}
PAIRS: list[tuple[Equality, int]] = [("casefold", 1), ("casefold", -1), ("nfc", 1), ("nfc", -1)]
alphabet = st.sampled_from(
    ["a", "A", "ß", "S", "s", "İ", "i", "\u0307", "ς", "Σ", "\u03c3", "e", "\u0301", "é", "K", "\u212a"]
)
ids = st.text(alphabet, min_size=1, max_size=3)
equalities = st.sampled_from(["exact", "casefold", "nfc"])


def key(text: str, equality: Equality) -> str:
    """Say in plain Python what makes two spellings one."""
    if equality == "casefold":
        return text.casefold()
    return unicodedata.normalize("NFC", text) if equality == "nfc" else text


def payload_by(history: History, equality: Equality, members: Iterable[str]) -> tuple[StoredFile, dict[str, int]]:
    """Build a payload of identified users as a window does; return it and the excluded members by reason."""
    rows = [{"distinct_id": each, "has_profile": True} for each in members]
    table = pa.Table.from_pylist(rows, schema=pa.schema([("distinct_id", pa.string()), ("has_profile", pa.bool_())]))
    snapshot = history.write("s", Stage.COHORT_SNAPSHOT, "w", table)
    payload = deriving.build_payload(
        history, snapshot, deriving.filter_identified(history, snapshot).file, IdRule(equality=equality)
    )
    return payload.file, payload.excluded_by_reason


def payload_ids(history: History, payload: StoredFile) -> list[str]:
    return [row["partner_user_id"] for batch in history.batches(payload) for row in batch.to_pylist()]


@given(texts=st.lists(st.text(max_size=8) | ids), equality=equalities)
@settings(deadline=None, max_examples=20)
def test_set_work_knows_the_key_that_identity_knows(texts: list[str], equality: Equality) -> None:
    with tempfile.TemporaryDirectory() as folder, spelling_engine(History(folder), equality) as duckdb:
        duckdb.register("texts", pa.table({"id": pa.array(texts, pa.string())}))
        rows = duckdb.sql(f"SELECT id, {key_of('id', equality)} FROM texts").fetchall()  # noqa: S608  a test's own table
    keys = equality_key(pa.array([row[0] for row in rows], pa.string()), equality).to_pylist()
    assert [row[1] for row in rows] == keys
    assert sorted(row[0] for row in rows) == sorted(texts)


@pytest.mark.parametrize(("equality", "order"), PAIRS)
def test_who_is_in_under_another_spelling_is_unchanged(tmp_history: History, equality: Equality, order: int) -> None:
    pairs = [pair[::order] for pair in ALIKE[equality]]
    membership = believe(tmp_history, *((one, "IN", None) for one, _ in pairs))
    payload = payload_of(tmp_history, *(other for _, other in pairs))
    assert planned(tmp_history, payload, membership, equality=equality) == []
    assert len(planned(tmp_history, payload, membership)) == 2 * len(pairs)


@pytest.mark.parametrize("equality", ["exact", "casefold", "nfc"])
def test_other_ids_stay_other_ids(tmp_history: History, equality: Equality) -> None:
    for one, other in UNLIKE[equality]:
        membership = believe(tmp_history, (one, "IN", None))
        assert planned(tmp_history, payload_of(tmp_history, other), membership, equality=equality) == [
            ("add", other, False, "change"),
            ("remove", one, False, "change"),
        ]


@pytest.mark.parametrize(("equality", "order"), PAIRS)
def test_an_addition_is_spelled_as_in_the_payload_and_a_removal_as_it_was_sent(
    tmp_history: History, equality: Equality, order: int
) -> None:
    pairs = [pair[::order] for pair in ALIKE[equality]]
    membership = believe(tmp_history, *((one, "UNKNOWN", None, True) for one, _ in pairs))
    added = planned(tmp_history, payload_of(tmp_history, *(other for _, other in pairs)), membership, equality=equality)
    assert added == [("add", other, True, "change") for other in sorted((pair[1] for pair in pairs), key=str.encode)]
    removed = planned(tmp_history, payload_of(tmp_history), membership, equality=equality)
    assert removed == [("remove", one, True, "change") for one in sorted((pair[0] for pair in pairs), key=str.encode)]


@pytest.mark.parametrize(("equality", "order"), PAIRS)
@pytest.mark.parametrize(
    ("state", "after", "as_sent"),
    [("acked", "IN", True), ("unknown", "UNKNOWN", True), ("rejected", "OUT", False), ("rejected_whole", "OUT", False)],
)
def test_membership_keeps_the_spelling_that_was_sent_last(  # noqa: PLR0917  three of them come from one table
    tmp_history: History, equality: Equality, order: int, state: str, after: str, as_sent: bool
) -> None:
    pairs = [pair[::order] for pair in ALIKE[equality]]
    base = believe(tmp_history, *((one, "OUT", None) for one, _ in pairs), ("zzz", "IN", None))
    plan = plan_of(tmp_history, *(("add", other) for _, other in pairs))
    folded = fold(tmp_history, base, plan, chunks((0, len(pairs), state, NOON, NOON)), equality=equality)
    expected = {pair[as_sent]: after for pair in pairs} | {"zzz": "IN"}
    assert dict(row[:2] for row in read(tmp_history, folded)) == expected
    assert len(read_refused(tmp_history, folded)) == len(pairs) * state.startswith("rejected")


@pytest.mark.parametrize(
    ("first", "second", "state", "kept"),
    [
        ("IN", "IN", "IN", "Ab"),
        ("OUT", "OUT", "OUT", "Ab"),
        ("OUT", "IN", "UNKNOWN", "aB"),
        ("IN", "OUT", "UNKNOWN", "Ab"),
        ("UNKNOWN", "IN", "UNKNOWN", "Ab"),
    ],
)
def test_two_spellings_known_before_the_setting_was_changed_become_one_id(
    tmp_history: History, first: str, second: str, state: str, kept: str
) -> None:
    base = believe(tmp_history, ("Ab", first, NOON, False), ("aB", second, None, True), ("x", "IN", None))
    plan = plan_of(tmp_history, ("add", "y"))
    folded = fold(tmp_history, base, plan, chunks((0, 1, "acked", NOON, NOON)), equality="casefold")
    assert read(tmp_history, folded) == [(kept, state, NOON), ("x", "IN", None), ("y", "IN", None)]
    assert read_refused(tmp_history, folded) == {kept}
    assert (folded.held, folded.in_doubt) == (3 - (state == "OUT"), 1)

    wanted = {"IN": [], "OUT": [("add", "AB", True, "change")], "UNKNOWN": [("add", "AB", True, "change")]}
    settled = believe(tmp_history, ("Ab", first, None, False), ("aB", second, None, True), ("x", "IN", None))
    assert planned(tmp_history, payload_of(tmp_history, "AB", "X"), settled, equality="casefold") == wanted[state]
    removed = planned(tmp_history, payload_of(tmp_history, "X"), settled, equality="casefold")
    assert removed == ([] if state == "OUT" else [("remove", kept, True, "change")])


def test_one_request_answers_for_all_spellings(tmp_history: History) -> None:
    base = believe(tmp_history, ("Ab", "IN", NOON), ("aB", "OUT", None))
    later = NOON + 2 * SETTLES_AFTER
    outcome = chunks((0, 1, "acked", later, later))
    folded = fold(tmp_history, base, plan_of(tmp_history, ("add", "AB")), outcome, equality="casefold")
    assert read(tmp_history, folded) == [("AB", "IN", None)]


def test_a_plan_that_sent_two_spellings_leaves_the_id_uncertain(tmp_history: History) -> None:
    base = believe(tmp_history, ("ab", "IN", None))
    plan = plan_of(tmp_history, ("add", "AB"), ("remove", "ab"))
    folded = fold(tmp_history, base, plan, chunks((0, 2, "acked", NOON, NOON)), equality="casefold")
    assert read(tmp_history, folded) == [("AB", "UNKNOWN", None)]


def test_a_payload_built_under_another_setting_asks_for_each_id_once(tmp_history: History) -> None:
    payload = payload_of(tmp_history, "AB", "Ab", "c")
    rows = planned(tmp_history, payload, Membership(), equality="casefold")
    assert rows == [("add", "AB", False, "change"), ("add", "c", False, "change")]


def test_an_id_has_its_slice_under_any_spelling(tmp_history: History) -> None:
    payload = payload_of(tmp_history, "STRASSE")
    reconciles = [Slices(first, SLICES // 4) for first in range(0, SLICES, SLICES // 4)]

    def reconciled(spelling: str) -> list[list[Planned]]:
        membership = believe(tmp_history, (spelling, "IN", None))
        return [
            planned(tmp_history, payload, membership, equality="casefold", reconcile=reconcile)
            for reconcile in reconciles
        ]

    mine = reconciled("Straße")
    assert [row for rows in mine for row in rows] == [("add", "STRASSE", False, "reconcile")]
    assert reconciled("strasse") == mine


@pytest.mark.parametrize(("equality", "order"), PAIRS)
def test_a_payload_keeps_one_spelling_and_excluded_members_the_rest(
    tmp_history: History, equality: Equality, order: int
) -> None:
    members = ["plain", *(each for pair in ALIKE[equality] for each in pair)][::order]
    payload, excluded = payload_by(tmp_history, equality, members)
    firsts = ["plain", *(min(pair, key=str.encode) for pair in ALIKE[equality])]
    assert payload_ids(tmp_history, payload) == sorted(firsts, key=str.encode)
    assert {reason for reason, count in excluded.items() if count} == {Reason.DUPLICATE_PARTNER_ID}


def follow(windows: list[list[str]], equality: Equality) -> None:
    """Deliver one window's members after the other to a partner that takes the same spellings for one id."""
    with tempfile.TemporaryDirectory() as folder:
        history, membership = History(folder), Membership()
        held: dict[str, str] = {}
        for members in windows:
            payload, _ = payload_by(history, equality, members)
            wanted, before = {key(each, equality) for each in members}, set(held)
            assert payload.rows == len(wanted)  # the payload means the same by one id
            plan, counts = seal_plan(history, payload, membership, sync="s", window="w", equality=equality)
            for row in (row for batch in history.batches(plan) for row in batch.to_pylist()):
                if row["operation"] == "add":
                    held[key(row["id"], equality)] = row["id"]
                else:
                    assert held.pop(key(row["id"], equality)) == row["id"]  # removed as it was last sent
            assert set(held) == wanted
            assert (counts.adds, counts.removals) == (len(wanted - before), len(before - wanted))
            membership = fold(history, membership, plan, chunks((0, plan.rows, "acked", NOON, NOON)), equality=equality)
            assert membership.held == len(wanted)
        assert planned(history, payload, membership, equality=equality) == []


@pytest.mark.parametrize(
    ("windows", "equality"),
    [
        ([["ß", "İ"], ["SS", "i\u0307"], ["ss"], []], "casefold"),
        ([["ς"], ["Σ", "\u03c3"], ["a"]], "casefold"),
        ([["e\u0301"], ["é", "e\u0301"], []], "nfc"),
        ([["a"], ["A", "a"], ["A"]], "exact"),
    ],
)
def test_a_partner_that_folds_spellings_equals_every_payload(windows: list[list[str]], equality: Equality) -> None:
    follow(windows, equality)


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(windows=st.lists(st.lists(ids, unique=True, max_size=8), min_size=1, max_size=4), equality=equalities)
def test_a_partner_that_folds_spellings_equals_any_payloads(windows: list[list[str]], equality: Equality) -> None:
    follow(windows, equality)
