"""Rows in, one Parquet file out: batches of any size become row groups of one size, so that memory stays flat."""

import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from cohort_pipelines.history import disk
from cohort_pipelines.history.layout import StoredFile

ROW_GROUP = 65_536


class StageWriter:
    """Writes one file of a stage; opened by :meth:`History.writer`.

    Attributes:
        rows: how many rows were written so far.
        stored: the sealed file, once the ``with`` block is over.
    """

    stored: StoredFile

    def __init__(self, path: Path, schema: pa.Schema, shown_as: str) -> None:
        self.rows = 0
        self._schema = schema
        self._place = shown_as
        self._pending: list[pa.Table] = []
        self._pending_rows = 0
        with disk.writing(self._place):
            self._sink = disk.create_private(path)
        self._parquet = pq.ParquetWriter(self._sink, schema, compression="zstd")

    def write(self, rows: pa.Table | pa.RecordBatch) -> None:
        """Append ``rows``, whose columns must be those of the schema.

        Raises:
            HistoryNotWritable: the disk refused.
            ValueError: the columns are other ones, or a null is where none may be.
        """
        table = pa.Table.from_batches([rows]) if isinstance(rows, pa.RecordBatch) else rows
        self._pending.append(table.cast(self._schema))
        self._pending_rows += table.num_rows
        self.rows += table.num_rows
        if self._pending_rows >= ROW_GROUP:
            self._flush(self._pending_rows - self._pending_rows % ROW_GROUP)

    def _flush(self, rows: int) -> None:
        """Write the first ``rows`` of what is pending, in full row groups but for a last one."""
        table = pa.concat_tables(self._pending)
        with disk.writing(self._place):
            for start in range(0, rows, ROW_GROUP):
                # one chunk a group: where pages are cut must not depend on how the rows arrived
                group = table.slice(start, min(ROW_GROUP, rows - start)).combine_chunks()
                self._parquet.write_table(group, ROW_GROUP)
        self._pending = [table.slice(rows)]
        self._pending_rows -= rows

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._seal()
        finally:
            self._abandon()

    def _seal(self) -> None:
        if self._pending_rows:
            self._flush(self._pending_rows)
        with disk.writing(self._place):
            self._parquet.close()
            self._sink.flush()
            os.fsync(self._sink.fileno())

    def _abandon(self) -> None:
        """Let go of the file; after an error, that error is the one to report."""
        for opened in (self._parquet, self._sink):
            with suppress(OSError):
                opened.close()
        self._parquet.is_open = False  # or pyarrow closes it again when it is collected, onto a closed file
