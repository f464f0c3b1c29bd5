"""Rows in, one Parquet file out: batches of any size become row groups of one size, so that memory stays flat."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cohort_pipelines.core import storage
from cohort_pipelines.core.files import StoredFile

ROW_GROUP = 65_536
GROUP_BYTES = 8 * 2**20
"""A row group ends after so many rows, or so many bytes of text: who reads a file holds some of its groups at once."""

BLOCK = 1_024  # a group ends at a multiple of so many rows


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
        self._pending_rows = self._pending_bytes = 0
        with storage.writing(self._place):
            self._sink = storage.create_private(path)
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
        self._pending_bytes += table.nbytes
        self.rows += table.num_rows
        if self._pending_rows >= ROW_GROUP or self._pending_bytes >= GROUP_BYTES:
            self._flush()

    def _flush(self, *, last: bool = False) -> None:
        """Write what is pending in row groups; what does not fill one stays, unless it is the ``last``."""
        table, start = pa.concat_tables(self._pending), 0
        with storage.writing(self._place):
            for end in _ends_of_groups(table, last=last):
                # one chunk a group: where pages are cut must not depend on how the rows arrived
                self._parquet.write_table(table.slice(start, end - start).combine_chunks(), ROW_GROUP)
                start = end
        left = table.slice(start)
        self._pending, self._pending_rows, self._pending_bytes = [left], left.num_rows, left.nbytes

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
            self._flush(last=True)
        with storage.writing(self._place):
            self._parquet.close()
            self._sink.flush()
            os.fsync(self._sink.fileno())

    def _abandon(self) -> None:
        """Let go of the file; after an error, that error is the one to report."""
        for opened in (self._parquet, self._sink):
            with suppress(OSError):
                opened.close()
        self._parquet.is_open = False  # or pyarrow closes it again when it is collected, onto a closed file


def _ends_of_groups(table: pa.Table, *, last: bool) -> Iterator[int]:
    """Yield where row groups of ``table`` end: a matter of the rows since the last end, not of how they arrived."""
    rows, size = 0, 0
    starts = range(0, table.num_rows, BLOCK)
    for start, text in zip(starts, _bytes_of_blocks(table, starts), strict=True):
        end = min(start + BLOCK, table.num_rows)
        rows, size = rows + end - start, size + int(text)
        whole = end - start == BLOCK and (rows >= ROW_GROUP or size >= GROUP_BYTES)
        if whole or (last and end == table.num_rows):
            yield end
            rows, size = 0, 0


def _bytes_of_blocks(table: pa.Table, starts: range) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    sizes = np.zeros(table.num_rows, np.int64)
    for column in table.columns:
        if pa.types.is_string(column.type):
            sizes += pc.fill_null(pc.binary_length(column), 0).to_numpy()
    return np.add.reduceat(sizes, starts) if len(starts) else sizes
