import re
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cohort_pipelines.core import engine
from cohort_pipelines.core.errors import (
    CountsDoNotAddUp,
    HistoryFileDamaged,
    HistoryNotWritable,
    MemoryLimitReached,
    PropertyNotInSnapshot,
)
from cohort_pipelines.core.files import Stage, StoredFile
from cohort_pipelines.core.plain_text import NOT_TEXT
from cohort_pipelines.history import History
from cohort_pipelines.identity.mapping import Equality, IdRule, Reason
from cohort_pipelines.snapshots import deriving

WINDOW = "2026-11-22T1215Z"
APPTIMIZE = "$apptimize_user_id"
ORIGINAL = IdRule(source=APPTIMIZE, prefixes=("i_", "a_"))
SCHEMA = pa.schema(
    [
        pa.field("distinct_id", pa.string(), nullable=False),
        pa.field("has_profile", pa.bool_(), nullable=False),
        pa.field("page", pa.int32(), nullable=False),
        pa.field(APPTIMIZE, pa.string()),
    ]
)
Member = tuple[str, bool, str | None]


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "history")


def large_snapshot(history: History, rows: int) -> StoredFile:
    """Seal a snapshot in which every three members share a partner id."""
    columns = [
        [f"{number:09}" for number in range(rows)],
        [True] * rows,
        pa.array([0] * rows, pa.int32()),
        [f"i_{number // 3}" for number in range(rows)],
    ]
    return history.write("beta_users", Stage.COHORT_SNAPSHOT, WINDOW, pa.table(columns, schema=SCHEMA))


def snapshot_of(history: History, *members: Member) -> StoredFile:
    rows = [
        {"distinct_id": distinct_id, "has_profile": has_profile, "page": 0, APPTIMIZE: apptimize_id}
        for distinct_id, has_profile, apptimize_id in members
    ]
    return history.write("beta_users", Stage.COHORT_SNAPSHOT, WINDOW, pa.Table.from_pylist(rows, schema=SCHEMA))


def rows_of(history: History, stored: StoredFile) -> list[dict[str, Any]]:
    return [row for batch in history.batches(stored) for row in batch.to_pylist()]


def built(
    history: History, rule: IdRule, *members: Member
) -> tuple[deriving.Payload, list[str], list[tuple[Any, ...]]]:
    """Return the payload, its ids and its excluded."""
    snapshot = snapshot_of(history, *members)
    payload = deriving.build_payload(history, snapshot, deriving.filter_identified(history, snapshot).file, rule)
    ids = [str(row["partner_user_id"]) for row in rows_of(history, payload.file)]
    return payload, ids, [tuple(row.values()) for row in rows_of(history, payload.excluded)]


def test_identified_users_are_those_with_a_profile(history: History) -> None:
    snapshot = snapshot_of(history, ("a", True, "i_a"), ("b", False, None), ("c", True, None))

    found = deriving.filter_identified(history, snapshot)

    assert (found.members, found.identified, found.file.rows) == (3, 2, 2)
    assert found.seconds >= 0
    assert rows_of(history, found.file) == [
        {"distinct_id": "a", "page": 0, APPTIMIZE: "i_a"},
        {"distinct_id": "c", "page": 0, APPTIMIZE: None},
    ]


def test_every_member_ends_in_the_payload_or_with_one_reason(history: History) -> None:
    payload, ids, excluded = built(
        history,
        ORIGINAL,
        ("m6", True, "i_2"),
        ("m1", True, "i_2"),
        ("m2", True, "a_1"),
        ("m3", False, None),
        ("m4", True, None),
        ("m5", True, "nope"),
        ("m7", True, "i_\n"),
    )

    assert ids == ["a_1", "i_2"]
    assert excluded == [
        ("m3", None, "anonymous"),
        ("m6", "i_2", "duplicate_partner_id"),
        ("m7", "i_\n", "invalid_text"),
        ("m5", "nope", "malformed_partner_id"),
        ("m4", None, "no_partner_id"),
    ]
    assert payload.excluded_by_reason == {
        "anonymous": 1,
        "malformed_member": 0,
        "no_partner_id": 1,
        "malformed_partner_id": 1,
        "device_id": 0,
        "duplicate_partner_id": 1,
        "invalid_text": 1,
        "surrounding_space": 0,
    }
    assert (payload.users, payload.identified, payload.anonymous) == (2, 6, 1)


def test_malformed_members_are_neither_identified_nor_anonymous(history: History) -> None:
    malformed = NOT_TEXT + "null"
    members: list[Member] = [("m1", True, "a_1"), ("m2", False, None), (malformed, False, None)]
    found = deriving.filter_identified(history, snapshot_of(history, *members))
    payload, ids, excluded = built(history, ORIGINAL, *members)

    assert (found.identified, found.malformed) == (1, 1)
    assert ids == ["a_1"]
    assert excluded == [("m2", None, "anonymous"), (malformed, None, "malformed_member")]
    assert (payload.identified, payload.anonymous, payload.excluded_by_reason["malformed_member"]) == (1, 1, 1)


def test_simplified_id_merge_counts_differing_ids(history: History) -> None:
    rule = IdRule(exclude_device_ids=True, compare_with=APPTIMIZE)

    payload, ids, excluded = built(
        history, rule, ("u1", True, "u1"), ("u2", True, "i_u2"), ("u3", True, None), ("$device:1", True, None)
    )

    assert ids == ["u1", "u2", "u3"]
    assert excluded == [("$device:1", "$device:1", "device_id")]
    assert payload.differing_partner_ids == 1


@pytest.mark.parametrize(
    ("equality", "expected"),
    [
        ("exact", ["Straße", "STRASSE", "e\u0301", "strasse", "é"]),
        ("casefold", ["STRASSE", "e\u0301", "é"]),
        ("nfc", ["STRASSE", "Straße", "e\u0301", "strasse"]),
    ],
)
def test_what_the_partner_takes_for_one_id_is_one(history: History, equality: Equality, expected: list[str]) -> None:
    names = ("strasse", "Straße", "STRASSE", "e\u0301", "é")
    _, ids, _ = built(history, IdRule(equality=equality), *((name, True, None) for name in names))

    assert ids == sorted(expected, key=str.encode)


def test_an_empty_cohort_is_an_empty_payload(history: History) -> None:
    payload, ids, excluded = built(history, ORIGINAL)

    assert (payload.users, ids, excluded) == (0, [], [])
    assert payload.file.rows == 0


text = st.text(max_size=6) | st.sampled_from(
    ["", "i_", "i_a", "a_a", "I_A", "i_é", "i_e\u0301", "$device:1", "x\0", "=1"]
)
members = st.lists(st.tuples(text, st.booleans(), st.none() | text), max_size=25)
rules = st.builds(
    IdRule,
    source=st.sampled_from(["distinct_id", APPTIMIZE]),
    prefixes=st.sampled_from([(), ("i_", "a_")]),
    strip_prefix=st.sampled_from([None, "i_"]),
    exclude_device_ids=st.booleans(),
    compare_with=st.sampled_from([None, APPTIMIZE]),
    equality=st.sampled_from(["exact", "casefold", "nfc"]),
)


def _place_among_excluded(row: tuple[Any, ...]) -> tuple[str, bytes, bool, bytes]:
    distinct_id, partner_id, reason = row
    return reason, distinct_id.encode(), partner_id is None, (partner_id or "").encode()


@settings(deadline=None, max_examples=60)
@given(cohort=members, rule=rules)
@example(cohort=[("", True, None), ("", True, "0")], rule=IdRule(source=APPTIMIZE, strip_prefix="i_"))
def test_payload_and_excluded_members_are_the_members(cohort: list[Member], rule: IdRule) -> None:
    with tempfile.TemporaryDirectory() as folder:
        payload, ids, excluded = built(History(folder), rule, *cohort)

        assert ids == sorted(set(ids), key=str.encode)
        assert deriving.duplicate_ids(History(folder), payload.file) == 0
        assert len(ids) + len(excluded) == len(cohort) == payload.users + sum(payload.excluded_by_reason.values())
        assert excluded == sorted(excluded, key=_place_among_excluded)
        assert {reason: count for reason, count in payload.excluded_by_reason.items() if count} == {
            reason: sum(row[2] == reason for row in excluded) for reason in {row[2] for row in excluded}
        }
        assert sum(not has_profile for _, has_profile, _ in cohort) == payload.excluded_by_reason[Reason.ANONYMOUS]
        left = [distinct_id for distinct_id, *_ in cohort]
        for distinct_id, *_ in excluded:
            left.remove(distinct_id)  # each exclude is a member, and is there once
        assert len(left) == len(ids)
        if rule == IdRule():
            assert sorted(left) == sorted(ids)


@pytest.mark.slow
@settings(deadline=None, max_examples=25)
@given(cohort=members, rule=rules)
def test_the_files_do_not_depend_on_the_order_of_the_members(cohort: list[Member], rule: IdRule) -> None:
    with tempfile.TemporaryDirectory() as folder:
        first, *_ = built(History(folder), rule, *cohort)
        second, *_ = built(History(folder), rule, *reversed(cohort))

    assert (first.file, first.excluded) == (second.file, second.excluded)


def test_a_property_that_was_not_kept_is_named(history: History) -> None:
    snapshot = snapshot_of(history, ("a", True, "i_a"))
    identified = deriving.filter_identified(history, snapshot).file

    with pytest.raises(PropertyNotInSnapshot, match=r"'\$email'"):
        deriving.build_payload(history, snapshot, identified, IdRule(source="$email"))
    assert history.versions("beta_users", Stage.PARTNER_PAYLOAD, WINDOW) == []


def test_identified_users_of_another_snapshot_are_refused(history: History) -> None:
    small, large = snapshot_of(history, ("a", True, None)), snapshot_of(history, ("a", True, None), ("b", True, None))

    with pytest.raises(CountsDoNotAddUp, match="has 2 members"):
        deriving.build_payload(history, large, deriving.filter_identified(history, small).file, IdRule())
    assert history.versions("beta_users", Stage.PARTNER_PAYLOAD, WINDOW) == []
    assert history.versions("beta_users", Stage.EXCLUDED, WINDOW) == []


def test_a_damaged_snapshot_is_never_used(history: History) -> None:
    snapshot = snapshot_of(history, ("a", True, None))
    identified = deriving.filter_identified(history, snapshot).file
    (Path(history.root) / snapshot.path).write_bytes(b"rot")

    with pytest.raises(HistoryFileDamaged, match="cohort_snapshot"):
        deriving.filter_identified(history, snapshot)
    with pytest.raises(HistoryFileDamaged, match="cohort_snapshot"):
        deriving.build_payload(history, snapshot, identified, IdRule())


@pytest.mark.parametrize(
    ("ids", "count"), [([], 0), (["a", "b"], 0), (["a", "a", "b", "b", "b"], 3), (["b", "a"], 1), (["a", "\u00e9"], 0)]
)
def test_duplicate_ids_are_counted(history: History, ids: list[str], count: int) -> None:
    table = pa.table({"partner_user_id": pa.array(ids, pa.string())})

    assert deriving.duplicate_ids(history, history.write("s", Stage.PARTNER_PAYLOAD, WINDOW, table)) == count


def test_duplicate_ids_are_found_across_batches(history: History) -> None:
    ids = [f"{number // 2:09}" for number in range(200_001)]
    table = pa.table({"partner_user_id": ids})

    assert deriving.duplicate_ids(history, history.write("s", Stage.PARTNER_PAYLOAD, WINDOW, table)) == 100_000


def test_duplicates_across_batches_are_found(history: History) -> None:
    snapshot = large_snapshot(history, 140_001)

    payload = deriving.build_payload(history, snapshot, deriving.filter_identified(history, snapshot).file, ORIGINAL)

    assert payload.users == 46_667
    assert payload.excluded_by_reason[Reason.DUPLICATE_PARTNER_ID] == 140_001 - 46_667
    assert deriving.duplicate_ids(history, payload.file) == 0


SORTED = "SELECT repeat(md5(i::varchar), 12) AS id FROM range(100_000) AS t(i) ORDER BY id"


def test_memory_that_is_used_up_is_not_blamed_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "MEMORY_LIMIT", "8MB")

    with pytest.raises(MemoryLimitReached, match="more than 8MB of memory"), engine.engine(tmp_path) as db:
        list(db.sql(SORTED).to_arrow_reader(1_000))


def test_memory_used_up_while_arrow_reads_is_named(tmp_path: Path) -> None:
    said = "Out of Memory Error: failed to pin block of size 256.0 KiB"

    with pytest.raises(MemoryLimitReached), engine.engine(tmp_path):
        raise OSError(said)


def test_an_error_of_something_else_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), engine.engine(tmp_path):
        (tmp_path / "missing").read_bytes()


def test_a_disk_that_is_full_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "MEMORY_LIMIT", "32MB")

    def sort_with_little_disk() -> None:
        with engine.engine(tmp_path) as db:
            db.execute("SET max_temp_directory_size = '1MB'")
            list(db.sql(SORTED).to_arrow_reader(1_000))

    with pytest.raises(HistoryNotWritable, match="could not spill"):
        sort_with_little_disk()


def test_a_disk_that_takes_no_spill_is_named(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = large_snapshot(history, 140_001)
    identified = deriving.filter_identified(history, snapshot).file
    no_folder = Path(history.root) / identified.path
    monkeypatch.setattr(engine, "MEMORY_LIMIT", "16MB")
    monkeypatch.setattr(deriving, "engine", lambda _: engine.engine(no_folder))

    with pytest.raises(HistoryNotWritable, match=f"{re.escape(str(no_folder))}: set work could not spill"):
        deriving.build_payload(history, snapshot, identified, ORIGINAL)
    assert history.versions("beta_users", Stage.PARTNER_PAYLOAD, WINDOW) == []
