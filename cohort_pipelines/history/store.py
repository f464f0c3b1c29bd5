"""The history: immutable Parquet files, content-addressed, written whole or not at all, verified on every read.

Files are made in private scratch space on local disk and then appear under their final name in one step: a rename on
a local root, a single upload on an object store, where objects appear whole. The bytes depend on the content only, so
writing the same rows again is the same file.
"""

import errno
import os
import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from cohort_pipelines.core import storage
from cohort_pipelines.core.engine import BATCH
from cohort_pipelines.core.errors import HistoryFileDamaged, HistoryFileMissing, HistoryNotReadable
from cohort_pipelines.core.files import Stage, StoredFile, checksum_in, file_path, stage_folder, value_in, window_folder
from cohort_pipelines.history.writer import StageWriter

SCRATCH = ".scratch"
MARKS = ".ledger"
_CREDENTIALS = re.compile(r"//([^/]*|[^/@]*:(?!\d*/).*)@")  # a password may hold a slash that is not encoded


class History:
    """The files under one root: a local folder, or any fsspec URL such as ``s3://bucket/history``.

    Nothing is touched, and no service is asked, until a method is called. Every method may raise HistoryNotReadable
    where the root cannot be opened: its driver is not installed, or it turns us away.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = str(root)

    @property
    def shown(self) -> str:
        """The root as it may be told to anybody: without what stands before a host, which can be a password."""
        return _CREDENTIALS.sub("//", self.root)

    @contextmanager
    def writer(self, sync: str, stage: Stage, window: str, schema: pa.Schema) -> Iterator[StageWriter]:
        """Yield a writer of one file; after a clean exit its ``stored`` names the sealed file.

        After an exception nothing is visible. A file of the same content makes way for it, in one step.

        Raises:
            HistoryNotWritable: the disk or the object store refused.
        """
        with self.scratch() as scratch:
            path = scratch / "rows.parquet"
            with StageWriter(path, schema, shown_as=self._full(window_folder(sync, stage, window))) as writer:
                yield writer
            stored = StoredFile(sync, stage, window, storage.sha256(path), writer.rows, path.stat().st_size)
            self._move(path, stored.path)  # over one of the same content: what was stored last is the newest version
            writer.stored = stored

    def write(self, sync: str, stage: Stage, window: str, table: pa.Table) -> StoredFile:
        """Seal ``table`` as one file.

        Raises:
            HistoryNotWritable: the disk or the object store refused.
        """
        with self.writer(sync, stage, window, table.schema) as writer:
            writer.write(table)
        return writer.stored

    def batches(
        self, stored: StoredFile, columns: Sequence[str] | None = None, batch_size: int = BATCH
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a sealed file, in order, after its checksum was verified (when the first is asked for).

        Raises:
            HistoryFileMissing: the file is gone.
            HistoryFileDamaged: its bytes are not those that were sealed.
            HistoryNotReadable: the disk or the object store refused.
        """
        with self.local_file(stored) as path, open_parquet(path) as file:
            yield from file.iter_batches(batch_size, columns=list(columns) if columns is not None else None)

    @contextmanager
    def local_file(self, stored: StoredFile) -> Iterator[Path]:
        """Yield a verified local path of a sealed file; for a remote root, of a copy that goes away afterwards.

        Raises:
            HistoryFileMissing: the file is gone.
            HistoryFileDamaged: its bytes are not those that were sealed.
            HistoryNotReadable: the disk or the object store refused.
        """
        if self._local is not None:
            path = self._local / stored.path
            self._verify(path, stored)
            yield path
            return
        with self.scratch() as scratch:
            copy = scratch / "copy.parquet"
            with storage.reading(self._full(stored.path)):
                self._files.get_file(self._full(stored.path), str(copy))
            self._verify(copy, stored)
            yield copy

    def stored(self, sync: str, stage: Stage, window: str, checksum: str) -> StoredFile:
        """Return the sealed file of that checksum; its footer is read, its rows are not.

        Raises:
            HistoryFileMissing: there is no such file.
            HistoryFileDamaged: it is not a Parquet file any more.
            HistoryNotReadable: the disk or the object store refused.
        """
        path = self._full(file_path(sync, stage, window, checksum))
        with self._reading_file(path):
            with self._files.open(path, "rb") as source:
                rows = pq.read_metadata(source).num_rows
            return StoredFile(sync, stage, window, checksum, rows, self._files.size(path))

    def versions(self, sync: str, stage: Stage, window: str) -> list[StoredFile]:
        """Return every version of one window's stage, oldest first; an empty list when there is none.

        Raises:
            HistoryFileMissing: one of them went away meanwhile.
            HistoryFileDamaged: one of them is not a Parquet file any more.
            HistoryNotReadable: the disk or the object store refused.
        """
        return [self.stored(sync, stage, window, checksum) for checksum in self.checksums(sync, stage, window)]

    def checksums(self, sync: str, stage: Stage, window: str) -> list[str]:
        """Return the checksum of every version of one window's stage, oldest first; no file is opened.

        Raises:
            HistoryFileMissing: one of them went away meanwhile.
            HistoryNotReadable: the disk or the object store refused.
        """
        paths = self._list(window_folder(sync, stage, window))
        found = sorted((self._modified(path), checksum) for path in paths if (checksum := checksum_in(path)))
        return [checksum for _, checksum in found]

    def modified(self, stored: StoredFile) -> datetime:
        """Return when the file was stored.

        Raises:
            HistoryFileMissing: the file is gone.
            HistoryNotReadable: the disk or the object store refused.
        """
        return self._modified(self._full(stored.path))

    def syncs(self) -> list[str]:
        """Return the names of the syncs that have any file, sorted.

        Raises:
            HistoryNotReadable: the disk or the object store refused.
        """
        return self._values("sync", "")

    def windows(self, sync: str, stage: Stage) -> list[str]:
        """Return the keys of the windows that have a file of this stage, in order of their names.

        Raises:
            HistoryNotReadable: the disk or the object store refused.
        """
        return self._values("window", stage_folder(sync, stage))

    def read_marks(self) -> dict[str, bytes]:
        """Return the marks that the ledger left here, by name; one that is damaged is there without content.

        Raises:
            HistoryNotReadable: the disk or the object store refused.
        """
        return self._contents(self._list(MARKS))

    def read_mark(self, name: str) -> bytes | None:
        """Return one of the marks, without content where it is damaged; None where there is none of that name.

        Raises:
            HistoryNotReadable: the disk or the object store refused.
        """
        return self._contents([self._full(f"{MARKS}/{name}")]).get(name)

    def write_mark(self, name: str, content: bytes) -> None:
        """Leave a small file of the ledger's own, whole or not at all; one of that name is replaced.

        Raises:
            HistoryNotWritable: the disk or the object store refused.
        """
        with self.scratch() as scratch:
            path = scratch / "mark"
            with storage.writing(path), storage.create_private(path) as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            self._move(path, f"{MARKS}/{name}")

    def remove_mark(self, name: str) -> None:
        """Take a mark away, where it is there.

        Raises:
            HistoryNotWritable: the disk or the object store refused.
        """
        path = self._full(f"{MARKS}/{name}")
        with storage.changing(path), suppress(FileNotFoundError):
            self._files.rm_file(path)

    def require_writable(self) -> None:
        """Refuse unless a file can be written under the root right now.

        Raises:
            HistoryNotWritable: it cannot, with the path and the reason.
        """
        with self.scratch() as scratch:
            probe = scratch / "probe"
            with storage.writing(probe), storage.create_private(probe) as file:
                file.write(b"writable")
                os.fsync(file.fileno())
            if self._local is None:
                name = self._full(f"{SCRATCH}/{uuid.uuid4().hex}")
                self._upload(probe, name)
                with storage.changing(name):
                    self._files.rm_file(name)

    def scratch(self) -> AbstractContextManager[Path]:
        """Return a private folder for temporary and spill files; it, and what dead processes left, is removed.

        It lies under the root where that is local, so that a rename out of it is one step, else in the system's
        temporary folder.

        Raises:
            HistoryNotWritable: it cannot be made.
        """
        if self._local is not None:
            return storage.scratch(self._local / SCRATCH)
        return storage.scratch(storage.temporary_folder())

    def _move(self, path: Path, name: str) -> None:
        """Let a file out of the scratch space appear under its name, relative to the root, in one step."""
        if self._local is None:
            self._upload(path, self._full(name))
            return
        final = self._local / name
        with storage.writing(final):
            storage.make_private(final.parent)
            path.replace(final)
            storage.sync_folder(final.parent)

    def _upload(self, path: Path, name: str) -> None:
        with storage.changing(name):
            self._files.put_file(str(path), name)

    def _verify(self, path: Path, stored: StoredFile) -> None:
        with self._reading_file(self._full(stored.path)):
            intact = storage.sha256(path) == stored.checksum
        if not intact:
            raise HistoryFileDamaged(self._full(stored.path))

    @contextmanager
    def _reading_file(self, path: str) -> Iterator[None]:
        """Tell a file that is damaged from one that is not there, and from one that we may not read.

        Raises:
            HistoryFileMissing: it is not there.
            HistoryFileDamaged: it is no file of ours any more, or its disk cannot read its own sectors.
            HistoryNotReadable: the disk or the object store refused.
        """
        with storage.reading(path):
            try:
                yield
            except (pa.ArrowException, IsADirectoryError):
                raise HistoryFileDamaged(path) from None
            except OSError as error:
                if self._local is None or error.errno != errno.EIO:  # which s3fs says of whatever it does not know
                    raise
                raise HistoryFileDamaged(path) from None

    def _modified(self, path: str) -> datetime:
        with storage.reading(path):
            moment: datetime = self._files.modified(path)
        return moment

    def _contents(self, paths: list[str]) -> dict[str, bytes]:
        """Return what files hold, by their names: nothing of one that is gone, no bytes of one that is damaged."""
        whole: list[None] = [None] * len(paths)
        found: dict[str, bytes] = {}
        with storage.reading(self._full(MARKS)):
            # not by `cat`, which takes the characters of a glob in the root's name for one
            read = self._files.cat_ranges(paths, whole, whole, on_error="return") if paths else []
        for path, content in zip(paths, read, strict=True):
            with suppress(HistoryFileMissing):
                found[path.rpartition("/")[2]] = self._bytes(path, content)
        return found

    def _bytes(self, path: str, content: bytes | Exception) -> bytes:
        try:
            with self._reading_file(path):
                if isinstance(content, Exception):
                    raise content
        except HistoryFileDamaged:
            return b""
        return content

    def _values(self, key: str, folder: str) -> list[str]:
        return sorted(value for path in self._list(folder) if (value := value_in(path, key)) is not None)

    def _list(self, folder: str) -> list[str]:
        path = self._full(folder)
        with suppress(HistoryFileMissing), storage.reading(path):
            return list(self._files.ls(path, detail=False))
        return []

    def _full(self, path: str) -> str:
        return f"{self._opened_root[1]}/{path}"

    @property
    def _files(self) -> Any:  # noqa: ANN401  fsspec ships no types
        return self._opened_root[0]

    @property
    def _local(self) -> Path | None:
        files, path = self._opened_root
        return Path(path) if isinstance(files, LocalFileSystem) else None

    @cached_property
    def _opened_root(self) -> tuple[Any, str]:
        with storage.reading(self.shown):
            try:
                files, path = url_to_fs(self.root, use_listings_cache=False)  # other processes write here too
            except ImportError as error:  # fsspec's own words are what to install
                raise HistoryNotReadable(self.shown, "its driver is not installed", str(error)) from error
            except ValueError as error:
                remedy = "Correct COHORT_PIPELINES_DATA"
                raise HistoryNotReadable(self.shown, "fsspec knows no such place", remedy) from error
        return files, path.rstrip("/")


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a local Parquet file to be read in batches; pyarrow's default keeps all bytes read until it is closed."""
    return pq.ParquetFile(path, pre_buffer=False)
