"""A disk or an object store that refuses: one sentence that names the place, whatever the driver raised."""

import errno
import re
from collections.abc import Callable

import pytest

from cohort_pipelines.core.errors import (
    HistoryError,
    HistoryFileDamaged,
    HistoryFileMissing,
    HistoryNotReadable,
    HistoryNotWritable,
)
from cohort_pipelines.core.files import Stage, StoredFile
from cohort_pipelines.history import History
from cohort_pipelines_tests.faults.disks import denied
from cohort_pipelines_tests.history.test_store import SYNC, WINDOW, rows_of, table

STAGE = Stage.PARTNER_PAYLOAD
Use = Callable[[History, StoredFile], object]
USES: dict[str, tuple[str, Use]] = {
    "syncs": ("ls", lambda history, _: history.syncs()),
    "windows": ("ls", lambda history, _: history.windows(SYNC, STAGE)),
    "marks": ("ls", lambda history, _: history.read_marks()),
    "versions": ("modified", lambda history, _: history.versions(SYNC, STAGE, WINDOW)),
    "modified": ("modified", lambda history, stored: history.modified(stored)),
    "footer": ("open", lambda history, stored: history.stored(SYNC, STAGE, WINDOW, stored.checksum)),
    "size": ("size", lambda history, stored: history.stored(SYNC, STAGE, WINDOW, stored.checksum)),
    "mark": ("cat_file", lambda history, _: history.read_mark("a.json")),
    "contents of marks": ("cat_file", lambda history, _: history.read_marks()),
}


class EndpointConnectionError(Exception):
    """An error of a driver's own, whose words may hold anything."""


def refuse(history: History, monkeypatch: pytest.MonkeyPatch, method: str, error: Exception) -> None:
    def refused(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(history._files, method, refused)


def filled(history: History) -> StoredFile:
    history.write_mark("a.json", b"content")
    return history.write(SYNC, STAGE, WINDOW, table("a"))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (EndpointConnectionError("https://key:hunter2@store"), "EndpointConnectionError"),
        (PermissionError(errno.EACCES, "https://key:hunter2@store"), "Permission denied"),
    ],
    ids=["of the driver's own", "of the system"],
)
@pytest.mark.parametrize("use", USES)
def test_what_refuses_to_be_read_is_named_in_one_sentence(
    any_history: History, monkeypatch: pytest.MonkeyPatch, use: str, error: Exception, said: str
) -> None:
    stored = filled(any_history)
    method, read = USES[use]
    refuse(any_history, monkeypatch, method, error)

    with pytest.raises(HistoryNotReadable, match=f"could not be read at .*: {said}. Nothing was sent") as refused:
        read(any_history, stored)

    assert any_history._opened_root[1] in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_a_copy_that_an_object_store_does_not_give_is_named(
    object_store: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = filled(object_store)
    refuse(object_store, monkeypatch, "get_file", EndpointConnectionError())

    with pytest.raises(HistoryNotReadable, match=f"{stored.path}: EndpointConnectionError"):
        rows_of(object_store, stored)


def test_a_file_that_we_may_not_read_is_not_taken_for_a_damaged_one(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = filled(history)
    monkeypatch.setattr("cohort_pipelines.core.disk.Path.open", denied)

    with pytest.raises(HistoryNotReadable, match=f"{stored.path}: Permission denied"):
        rows_of(history, stored)


def test_a_disk_that_cannot_read_a_footer_has_damaged_it_and_a_store_that_says_so_may_only_be_busy(
    any_history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = filled(any_history)
    refuse(any_history, monkeypatch, "open", OSError(errno.EIO, "Input/output error"))
    expected: type[HistoryError] = HistoryFileDamaged if any_history._local else HistoryNotReadable

    with pytest.raises(expected, match=stored.path):
        any_history.stored(SYNC, STAGE, WINDOW, stored.checksum)


@pytest.mark.parametrize("place", ["a folder", "nothing"])
def test_what_stands_in_place_of_a_file_is_told(history: History, place: str) -> None:
    stored = filled(history)
    file = history._local and history._local / stored.path
    assert file
    file.unlink()
    if place == "a folder":
        file.mkdir()
    expected: type[HistoryError] = HistoryFileDamaged if place == "a folder" else HistoryFileMissing

    with pytest.raises(expected, match=stored.path):
        history.stored(SYNC, STAGE, WINDOW, stored.checksum)
    with pytest.raises(expected, match=stored.path):
        rows_of(history, stored)


def test_a_version_that_goes_away_while_it_is_listed_is_named(
    any_history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = filled(any_history)
    refuse(any_history, monkeypatch, "modified", FileNotFoundError())

    with pytest.raises(HistoryFileMissing, match=stored.path):
        any_history.checksums(SYNC, STAGE, WINDOW)


@pytest.mark.parametrize(
    ("root", "says"),
    [
        ("s3://key:hunter2@bucket/history", r"at s3://bucket/history: its driver is not installed\..*Install s3fs"),
        ("floppy://a/history", r"at floppy://a/history: fsspec knows no such place\..*COHORT_PIPELINES_DATA"),
    ],
)
def test_a_root_without_a_driver_says_what_to_install(root: str, says: str) -> None:
    history = History(root)

    for use in (history.read_marks, history.require_writable, history.syncs, lambda: history.read_mark("a.json")):
        with pytest.raises(HistoryNotReadable, match=says) as refused:
            use()
        assert "hunter2" not in str(refused.value)


def test_what_refuses_to_be_removed_is_named(any_history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(any_history)
    any_history.remove_mark("nobody's.json")
    refuse(any_history, monkeypatch, "rm_file", PermissionError(errno.EACCES, "no"))

    with pytest.raises(HistoryNotWritable, match=re.escape(".ledger/a.json: Permission denied")):
        any_history.remove_mark("a.json")


def test_a_store_that_keeps_what_was_only_tried_is_named(
    object_store: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(object_store, monkeypatch, "rm_file", EndpointConnectionError())

    with pytest.raises(HistoryNotWritable, match="EndpointConnectionError"):
        object_store.require_writable()
