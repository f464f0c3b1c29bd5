import os
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from cohort_pipelines import history as reading
from cohort_pipelines.core.errors import NotInHistory
from cohort_pipelines.core.files import Stage, StoredFile
from cohort_pipelines.history import History

SYNC = "beta_users"
EARLY, LATE = "2026-11-22T1215Z", "2026-11-22T1230Z"


def payload(history: History, window: str, *ids: str, at: int | None = None) -> StoredFile:
    table = pa.table({"partner_user_id": pa.array(ids, pa.string())})
    stored = history.write(SYNC, Stage.PARTNER_PAYLOAD, window, table)
    if at is not None:
        os.utime(Path(history.root) / stored.path, (at, at))
    return stored


def receipt(
    history: History, window: str, checksum: str, ended: datetime, state: str = "delivered", **more: str
) -> StoredFile:
    row = {"kind": "overwrite", "window": window, "payload_checksum": checksum, "ended": ended, "state": state, **more}
    return history.write(SYNC, Stage.RECEIPT, window, pa.Table.from_pylist([row]))


def ids(history: History, window: str = "latest", version: str | None = None) -> list[str]:
    frame = reading.read(SYNC, "partner_payload", window, version=version, root=history.root)
    return list(frame["partner_user_id"])


def test_any_stage_of_any_window_is_one_line(history: History) -> None:
    payload(history, EARLY, "a")
    payload(history, LATE, "a", "b")

    assert ids(history, EARLY) == ["a"]
    assert ids(history) == ["a", "b"]
    assert reading.windows(SYNC, Stage.PARTNER_PAYLOAD, history.root) == [EARLY, LATE]


def test_the_root_is_that_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COHORT_PIPELINES_DATA", str(tmp_path))
    payload(History(tmp_path / "history"), EARLY, "a")

    assert list(reading.read(SYNC, "partner_payload").columns) == ["partner_user_id"]
    assert reading.windows(SYNC, "partner_payload") == [EARLY]


def test_the_latest_scheduled_window_is_the_last_by_name(history: History) -> None:
    payload(history, LATE, "late", at=1_000)
    payload(history, EARLY, "rebuilt later", at=2_000)

    assert ids(history) == ["late"]


def test_the_latest_one_time_export_is_the_youngest(history: History) -> None:
    payload(history, "zebra", "old", at=1_000)
    payload(history, "apple / 2026", "young", at=2_000)

    assert ids(history) == ["young"]


def test_of_several_versions_the_newest_is_read_until_one_is_delivered(history: History) -> None:
    first = payload(history, EARLY, "first", at=1_000)
    payload(history, EARLY, "second", at=2_000)
    assert ids(history, EARLY) == ["second"]

    receipt(history, EARLY, first.checksum, datetime(2026, 11, 22, 12, 16, tzinfo=UTC))
    assert ids(history, EARLY) == ["first"]


@pytest.mark.parametrize("state", ["delivered", "accepted"])
def test_what_the_partner_has_yet_to_apply_is_delivered_too(history: History, state: str) -> None:
    first = payload(history, EARLY, "first", at=1_000)
    payload(history, EARLY, "second", at=2_000)

    receipt(history, EARLY, first.checksum, datetime(2026, 11, 22, 12, 16, tzinfo=UTC), state, kind="overwrite")
    assert ids(history, EARLY) == ["first"]


@pytest.mark.parametrize("kind", ["restore", "retire"])
def test_what_was_asked_for_by_name_meanwhile_is_not_the_windows_own_delivery(history: History, kind: str) -> None:
    first = payload(history, EARLY, "first", at=1_000)
    payload(history, EARLY, "second", at=2_000)
    for at, (checksum, of) in enumerate([(first.checksum, "overwrite"), ("0" * 64, kind)]):
        moment = datetime(2026, 11, 22, 12, 16 + at, tzinfo=UTC)
        stored = receipt(history, EARLY, checksum, moment, kind=of)
        os.utime(Path(history.root) / stored.path, (3_000 + at, 3_000 + at))

    assert ids(history, EARLY) == ["first"]


def test_a_restored_payload_of_another_window_hides_no_version(history: History) -> None:
    payload(history, EARLY, "own")
    receipt(history, EARLY, "0" * 64, datetime(2026, 11, 22, 12, 16, tzinfo=UTC))

    assert ids(history, EARLY) == ["own"]


def test_a_version_can_be_named(history: History) -> None:
    first = payload(history, EARLY, "first", at=1_000)
    payload(history, EARLY, "second", at=2_000)

    assert ids(history, EARLY, first.checksum) == ["first"]
    with pytest.raises(NotInHistory, match=first.checksum):
        ids(history, EARLY, "f" * 64)


def test_receipts_come_in_the_order_they_ended(history: History) -> None:
    receipt(history, LATE, "b", datetime(2026, 11, 22, 12, 31, tzinfo=UTC))
    receipt(history, EARLY, "c", datetime(2026, 11, 22, 12, 45, tzinfo=UTC))
    receipt(history, EARLY, "a", datetime(2026, 11, 22, 12, 16, tzinfo=UTC))

    assert list(reading.receipts(SYNC, history.root)["payload_checksum"]) == ["a", "b", "c"]


def test_an_empty_stage_is_an_empty_frame(history: History) -> None:
    payload(history, EARLY)

    frame = reading.read(SYNC, "partner_payload", root=history.root)

    assert (len(frame), list(frame.columns)) == (0, ["partner_user_id"])


def test_what_is_not_there_is_answered_with_what_is(history: History) -> None:
    with pytest.raises(NotInHistory, match=r"no sync 'beta_users'. There is: none yet"):
        reading.read(SYNC, "partner_payload", root=history.root)
    payload(history, EARLY, "a")

    with pytest.raises(NotInHistory, match=r"no stage 'payload'. There is: cohort_snapshot, .*partner_payload"):
        reading.read(SYNC, "payload", root=history.root)
    with pytest.raises(NotInHistory, match=r"no sync 'others'. There is: beta_users"):
        reading.windows("others", "partner_payload", root=history.root)
    with pytest.raises(NotInHistory, match=r"no stage 'receipt'. There is: partner_payload"):
        reading.receipts(SYNC, history.root)
    with pytest.raises(NotInHistory, match=rf"no window '{LATE}'. There is: {EARLY}"):
        reading.read(SYNC, "partner_payload", LATE, root=history.root)


def test_a_remote_root_reads_the_same(object_store: History) -> None:
    payload(object_store, EARLY, "a")

    assert ids(object_store) == ["a"]


def test_an_attempt_that_did_not_deliver_says_nothing_about_which_version_counts(history: History) -> None:
    first = payload(history, EARLY, "first", at=1_000)
    payload(history, EARLY, "second", at=2_000)

    receipt(history, EARLY, first.checksum, datetime(2026, 11, 22, 12, 16, tzinfo=UTC), state="held")
    assert ids(history, EARLY) == ["second"]


def test_a_window_whose_file_was_deleted_is_named(history: History) -> None:
    payload(history, EARLY, "a")
    gone = payload(history, LATE, "b")
    (Path(history.root) / gone.path).unlink()

    with pytest.raises(NotInHistory, match=f"no file of partner_payload in '{LATE}'. There is: {EARLY}"):
        ids(history, LATE)
