import os
import random
import resource
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cohort_pipelines.core.errors import ExportNameInvalid, HistoryFileDamaged, HistoryFileMissing, HistoryNotWritable
from cohort_pipelines.core.files import Stage, StoredFile
from cohort_pipelines.core.windows import one_time_window
from cohort_pipelines.history import History
from cohort_pipelines.history.writer import BLOCK, GROUP_BYTES, ROW_GROUP
from cohort_pipelines_tests.disks import no_temporary_folder

WINDOW = "2026-11-22T1215Z"
SYNC = "beta_users"


def table(*ids: str) -> pa.Table:
    return pa.table({"partner_user_id": pa.array(ids, pa.string())})


def many(rows: int) -> pa.Table:
    return table(*(f"user-{number:09}" for number in range(rows)))


def rows_of(history: History, stored: StoredFile) -> list[str]:
    return [value for batch in history.batches(stored) for value in batch.column(0).to_pylist()]


def file_of(history: History, stored: StoredFile) -> Path:
    return Path(history.root) / stored.path


def scratch_folders(history: History) -> list[Path]:
    return list((Path(history.root) / ".scratch").iterdir())


@contextmanager
def disk_full_after(size: int) -> Iterator[None]:
    """Let the kernel refuse every write beyond ``size`` bytes of a file, as a full disk does."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_what_was_written_is_read(any_history: History) -> None:
    stored = any_history.write(SYNC, Stage.PARTNER_PAYLOAD, WINDOW, table("a", "b"))

    assert rows_of(any_history, stored) == ["a", "b"]
    assert stored.rows == 2
    assert stored.path == f"sync=beta_users/stage=partner_payload/window={WINDOW}/{stored.checksum}.parquet"
    assert any_history.stored(SYNC, Stage.PARTNER_PAYLOAD, WINDOW, stored.checksum) == stored
    assert any_history.versions(SYNC, Stage.PARTNER_PAYLOAD, WINDOW) == [stored]
    assert any_history.windows(SYNC, Stage.PARTNER_PAYLOAD) == [WINDOW]
    assert any_history.syncs() == [SYNC]


def test_columns_can_be_chosen(history: History) -> None:
    stored = history.write(SYNC, Stage.PLAN, WINDOW, pa.table({"operation": ["add"], "id": ["a"]}))

    assert [batch.schema.names for batch in history.batches(stored, ["id"])] == [["id"]]


def test_no_rows_are_a_file_too(any_history: History) -> None:
    stored = any_history.write(SYNC, Stage.PARTNER_PAYLOAD, WINDOW, table())

    assert (stored.rows, rows_of(any_history, stored)) == (0, [])


def test_what_was_never_stored_is_nothing(any_history: History) -> None:
    assert any_history.versions(SYNC, Stage.PLAN, WINDOW) == []
    assert any_history.windows(SYNC, Stage.PLAN) == []
    assert any_history.syncs() == []


def test_opening_a_history_touches_nothing(tmp_path: Path) -> None:
    History(tmp_path / "history").windows(SYNC, Stage.PLAN)

    assert list(tmp_path.iterdir()) == []


def test_files_are_private(history: History) -> None:
    stored = history.write(SYNC, Stage.PARTNER_PAYLOAD, WINDOW, table("a"))
    file = file_of(history, stored)

    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    folders = [folder for folder in file.parents if folder.is_relative_to(history.root)]
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in folders} == {0o700}


@settings(deadline=None, max_examples=25)
@given(cuts=st.lists(st.integers(0, 70_000), max_size=12))
def test_the_bytes_do_not_depend_on_how_the_rows_arrived(cuts: list[int]) -> None:
    rows = many(70_000)
    with tempfile.TemporaryDirectory() as folder:
        history = History(folder)
        whole = history.write(SYNC, Stage.PLAN, WINDOW, rows)
        edges = [0, *sorted(cuts), rows.num_rows]
        with history.writer(SYNC, Stage.PLAN, WINDOW, rows.schema) as writer:
            for start, end in pairwise(edges):
                writer.write(rows.slice(start, end - start))

        assert writer.stored == whole


def test_small_pages_become_large_row_groups(history: History) -> None:
    page = many(1_000).to_batches()[0]
    with history.writer(SYNC, Stage.COHORT_SNAPSHOT, WINDOW, page.schema) as writer:
        for _ in range(140):
            writer.write(page)

    with history.local_file(writer.stored) as path, pq.ParquetFile(path) as file:
        groups = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
    assert groups == [ROW_GROUP, ROW_GROUP, 140_000 - 2 * ROW_GROUP]
    assert writer.rows == 140_000


def test_row_groups_of_long_ids_hold_so_many_bytes_however_they_arrive(history: History) -> None:
    ids = table(*(f"{number:01000}" for number in range(40_000)))
    whole = history.write(SYNC, Stage.PLAN, WINDOW, ids)
    with history.writer(SYNC, Stage.PLAN, WINDOW, ids.schema) as writer:
        for start in range(0, ids.num_rows, 777):
            writer.write(ids.slice(start, 777))

    with history.local_file(whole) as path, pq.ParquetFile(path) as file:
        groups = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
    full = -(-GROUP_BYTES // (1_000 * BLOCK)) * BLOCK
    assert groups == [full] * (40_000 // full) + [40_000 % full]
    assert writer.stored == whole


def test_reading_holds_a_batch_and_not_the_file(history: History) -> None:
    digits = random.Random(1).randbytes(300_000 * 16).hex()  # noqa: S311  what does not compress
    stored = history.write(SYNC, Stage.PLAN, WINDOW, table(*(digits[n * 32 : n * 32 + 32] for n in range(300_000))))
    before = pa.total_allocated_bytes()

    held = [pa.total_allocated_bytes() - before for _ in history.batches(stored, batch_size=1_000)]

    assert max(held) < stored.size


def test_a_null_where_none_may_be_is_refused(history: History) -> None:
    schema = pa.schema([pa.field("partner_user_id", pa.string(), nullable=False)])

    with (
        pytest.raises(ValueError, match="non-nullable"),
        history.writer(SYNC, Stage.PLAN, WINDOW, schema) as writer,
    ):
        writer.write(pa.table({"partner_user_id": pa.array([None], pa.string())}))
    assert history.syncs() == []


def test_the_same_content_is_the_same_file(any_history: History) -> None:
    first = any_history.write(SYNC, Stage.PARTNER_PAYLOAD, WINDOW, table("a"))
    again = any_history.write(SYNC, Stage.PARTNER_PAYLOAD, WINDOW, table("a"))

    assert again == first
    assert any_history.versions(SYNC, Stage.PARTNER_PAYLOAD, WINDOW) == [first]


def test_content_that_is_back_is_the_newest_version(any_history: History) -> None:
    first, second = (any_history.write(SYNC, Stage.PARTNER_PAYLOAD, WINDOW, table(name)) for name in "ab")
    before = any_history.modified(second)
    while any_history.modified(any_history.write(SYNC, Stage.PARTNER_PAYLOAD, WINDOW, table("a"))) <= before:
        continue  # the clock of a file system may tick slowly

    assert any_history.versions(SYNC, Stage.PARTNER_PAYLOAD, WINDOW) == [second, first]


def test_writing_again_mends_a_damaged_file(history: History) -> None:
    stored = history.write(SYNC, Stage.PARTNER_PAYLOAD, WINDOW, table("a"))
    file_of(history, stored).write_bytes(b"rot")

    history.write(SYNC, Stage.PARTNER_PAYLOAD, WINDOW, table("a"))

    assert rows_of(history, stored) == ["a"]


def test_versions_are_listed_oldest_first_and_strangers_are_not(history: History) -> None:
    stored = [history.write(SYNC, Stage.PARTNER_PAYLOAD, WINDOW, table(name)) for name in "abc"]
    for age, one in enumerate(reversed(stored)):
        os.utime(file_of(history, one), (1_000 - age, 1_000 - age))
    (file_of(history, stored[0]).parent / "notes.txt").write_text("not ours", encoding="utf-8")

    assert history.versions(SYNC, Stage.PARTNER_PAYLOAD, WINDOW) == stored


def test_an_error_under_way_leaves_nothing(any_history: History) -> None:
    def fail_half_way() -> None:
        with any_history.writer(SYNC, Stage.COHORT_SNAPSHOT, WINDOW, many(1).schema) as writer:
            writer.write(many(70_000))
            raise KeyError

    with pytest.raises(KeyError):
        fail_half_way()
    assert any_history.syncs() == []
    with any_history.scratch() as scratch:
        assert list(scratch.parent.iterdir()) == [scratch]


@pytest.mark.parametrize("size", [0, 10, 50_000])
def test_a_full_disk_leaves_nothing_and_is_named(history: History, size: int) -> None:
    with disk_full_after(size), pytest.raises(HistoryNotWritable) as caught:
        history.write(SYNC, Stage.COHORT_SNAPSHOT, WINDOW, many(200_000))

    assert f"{history.root}/sync=beta_users/stage=cohort_snapshot/window={WINDOW}: File too large" in str(caught.value)
    assert history.syncs() == []
    assert scratch_folders(history) == []


def test_a_root_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file", encoding="utf-8")
    history = History(tmp_path / "taken" / "history")

    with pytest.raises(HistoryNotWritable, match=str(tmp_path / "taken" / "history")):
        history.require_writable()
    with pytest.raises(HistoryNotWritable, match=str(tmp_path / "taken" / "history")):
        history.write(SYNC, Stage.PLAN, WINDOW, table("a"))


def test_an_object_store_that_refuses_is_named(object_store: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store._files, "put_file", lambda *_: (_ for _ in ()).throw(RuntimeError("AccessDenied")))

    with pytest.raises(HistoryNotWritable, match="RuntimeError"):
        object_store.require_writable()
    with pytest.raises(HistoryNotWritable, match="stage=plan"):
        object_store.write(SYNC, Stage.PLAN, WINDOW, table("a"))


@pytest.mark.parametrize(
    ("root", "shown"),
    [
        ("sftp://deploy:hunter2@host:22/data/history", "sftp://host:22/data/history"),
        ("sftp://deploy:p@ss@host/history", "sftp://host/history"),
        ("sftp://deploy:hun/ter2@host/history", "sftp://host/history"),
        ("sftp://host:22/a@b/history", "sftp://host:22/a@b/history"),
        ("s3://bucket/history", "s3://bucket/history"),
        ("s3://bucket/a:x@b/history", "s3://bucket/a:x@b/history"),
        ("/srv/a@b/history", "/srv/a@b/history"),
    ],
)
def test_a_root_is_told_without_what_may_be_a_password(root: str, shown: str) -> None:
    assert History(root).shown == shown


def test_a_writable_root_is_left_as_it_was(any_history: History) -> None:
    any_history.require_writable()

    assert any_history.syncs() == []
    assert [name for name in any_history._list(".scratch") if name] == []


@settings(deadline=None)
@given(data=st.data())
def test_one_flipped_bit_is_found(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        history = History(folder)
        stored = history.write(SYNC, Stage.PARTNER_PAYLOAD, WINDOW, table("a", "b"))
        bit = data.draw(st.integers(0, stored.size * 8 - 1))
        content = bytearray(file_of(history, stored).read_bytes())
        content[bit // 8] ^= 1 << bit % 8
        file_of(history, stored).write_bytes(content)

        with pytest.raises(HistoryFileDamaged, match=stored.path):
            rows_of(history, stored)
        with pytest.raises(HistoryFileDamaged), history.local_file(stored):
            pytest.fail("a damaged file was handed out")


@pytest.mark.parametrize("size", [0, 1, 100])
def test_a_truncated_file_is_found(any_history: History, size: int) -> None:
    stored = any_history.write(SYNC, Stage.PARTNER_PAYLOAD, WINDOW, table("a", "b"))
    path = any_history._full(stored.path)
    any_history._files.pipe_file(path, any_history._files.cat_file(path)[:size])

    with pytest.raises(HistoryFileDamaged, match=stored.path):
        rows_of(any_history, stored)
    with pytest.raises(HistoryFileDamaged, match=stored.path):
        any_history.stored(SYNC, Stage.PARTNER_PAYLOAD, WINDOW, stored.checksum)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="only Linux has a file that answers EIO")
def test_a_disk_that_cannot_read_is_a_damaged_file(history: History) -> None:
    stored = history.write(SYNC, Stage.PARTNER_PAYLOAD, WINDOW, table("a"))
    file_of(history, stored).unlink()
    file_of(history, stored).symlink_to("/proc/self/mem")  # reading its first page is a real EIO

    with pytest.raises(HistoryFileDamaged, match=stored.path):
        rows_of(history, stored)


def test_a_file_that_is_gone_is_named(any_history: History) -> None:
    stored = any_history.write(SYNC, Stage.PARTNER_PAYLOAD, WINDOW, table("a"))
    any_history._files.rm_file(any_history._full(stored.path))

    for use in (
        lambda: rows_of(any_history, stored),
        lambda: any_history.stored(SYNC, Stage.PARTNER_PAYLOAD, WINDOW, stored.checksum),
        lambda: any_history.modified(stored),
    ):
        with pytest.raises(HistoryFileMissing, match=stored.path):
            use()


def test_a_copy_of_a_remote_file_goes_away(object_store: History) -> None:
    stored = object_store.write(SYNC, Stage.PARTNER_PAYLOAD, WINDOW, table("a"))

    with object_store.local_file(stored) as path:
        assert pq.ParquetFile(path).read().num_rows == 1
    assert not path.exists()


def test_scratch_is_private_and_goes_away(any_history: History) -> None:
    with any_history.scratch() as scratch:
        (scratch / "spill").write_bytes(b"ids")
        assert stat.S_IMODE(scratch.stat().st_mode) == 0o700
        assert stat.S_IMODE(scratch.parent.stat().st_mode) == 0o700

    assert list(scratch.parent.iterdir()) == []


def test_scratch_of_a_living_process_stays_and_of_a_dead_one_goes(history: History) -> None:
    program = (
        "import sys, time; from cohort_pipelines.history import History\n"
        "with History(sys.argv[1]).scratch() as scratch:\n"
        "    (scratch / 'spill').write_bytes(b'ids'); print(scratch, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", program, history.root], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        theirs = Path(other.stdout.readline().strip())
        with history.scratch():
            assert (theirs / "spill").exists()
        other.kill()
    assert theirs.exists()

    with history.scratch():
        assert not theirs.exists()


def test_scratch_of_another_is_not_used(object_store: History, tmp_path: Path) -> None:
    (tmp_path / f"cohort-pipelines-{os.getuid()}").symlink_to(tmp_path)

    with pytest.raises(HistoryNotWritable, match="another user"), object_store.scratch():
        pytest.fail("a folder that somebody else prepared was used")


@settings(deadline=None)
@given(name=st.text(max_size=80))
def test_any_name_of_an_export_is_one_folder_below_its_stage(name: str) -> None:
    try:
        window = one_time_window(name)
    except ExportNameInvalid:
        return
    with tempfile.TemporaryDirectory() as folder:
        history = History(folder)
        stored = history.write(SYNC, Stage.PARTNER_PAYLOAD, window.key, table("a"))

        assert history.windows(SYNC, Stage.PARTNER_PAYLOAD) == [name]
        assert rows_of(history, stored) == ["a"]
        stage = Path(folder) / "sync=beta_users" / "stage=partner_payload"
        files = [path for path in stage.rglob("*") if path.is_file()]
        assert [path.relative_to(stage).parent.as_posix() for path in files] == [f"window={window.path_name}"]


@pytest.mark.parametrize(("name", "matches"), [("team[1]", "team1"), ("all*", "allies"), ("wh?t", "what")])
@pytest.mark.parametrize("place", ["", "memory:/"])
def test_a_root_may_be_named_by_characters_of_a_glob(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, name: str, matches: str
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    matched, history = (History(f"{place}{tmp_path}/{each}/history") for each in (matches, name))
    for each, content in ((matched, b"matched"), (history, b"own")):
        each.require_writable()
        each.write_mark("a.json", content)
        each.write(SYNC, Stage.PARTNER_PAYLOAD, WINDOW, table(content.decode()))

    assert (history.read_marks(), history.read_mark("a.json")) == ({"a.json": b"own"}, b"own")
    [stored] = history.versions(SYNC, Stage.PARTNER_PAYLOAD, WINDOW)
    assert rows_of(history, stored) == ["own"]
    assert history.modified(stored)
    history.remove_mark("a.json")
    assert (history.read_marks(), matched.read_mark("a.json")) == ({}, b"matched")


def test_a_mark_that_is_not_there_is_told_from_one_that_cannot_be_read(any_history: History) -> None:
    assert any_history.read_mark("a.json") is None
    any_history.write_mark("a.json", b"content")
    assert any_history.read_mark("a.json") == b"content"
    assert any_history.read_mark("b.json") is None


def test_a_mark_that_cannot_be_read_is_there_without_content(history: History) -> None:
    (Path(history.root) / ".ledger" / "a.json").mkdir(parents=True)
    assert (history.read_mark("a.json"), history.read_marks()) == (b"", {"a.json": b""})


@pytest.mark.parametrize("window", [WINDOW, "spring sale / 2026?", ".."])
def test_duckdb_reads_the_layout_with_no_code_of_ours(history: History, window: str) -> None:
    history.write(SYNC, Stage.PARTNER_PAYLOAD, window, table("a", "b"))
    files = f"{history.root}/sync=*/stage=partner_payload/window=*/*.parquet"

    found = duckdb.read_parquet(files, hive_partitioning=True)

    assert found.project('sync, stage, "window", partner_user_id').order("partner_user_id").fetchall() == [
        (SYNC, "partner_payload", window, "a"),
        (SYNC, "partner_payload", window, "b"),
    ]


def test_pandas_reads_the_layout_with_no_code_of_ours(history: History) -> None:
    for window in (WINDOW, "2026-11-22T1230Z"):
        history.write(SYNC, Stage.PARTNER_PAYLOAD, window, table("a"))

    found = pd.read_parquet(f"{history.root}/sync=beta_users/stage=partner_payload")

    assert sorted(unquote(window) for window in found["window"]) == [WINDOW, "2026-11-22T1230Z"]


def test_a_remote_history_without_a_temporary_folder_says_so(object_store: History) -> None:
    problem = "at the folder for temporary files: none can be written; set TMPDIR"
    with no_temporary_folder(), pytest.raises(HistoryNotWritable, match=problem), object_store.scratch():
        pytest.fail("it was made")
