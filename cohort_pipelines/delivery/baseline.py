"""The baseline: what a target held before the first delivery, adopted from a file of ids as if we had sent them.

Who is in it and not in the payload is then a leaver, and who is in both costs nothing.
"""

import csv
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from cohort_pipelines.delivery.belief import BATCH, Belief, seal_belief
from cohort_pipelines.delivery.spelling import one_spelling, spelling_engine
from cohort_pipelines.engine import exactly
from cohort_pipelines.errors import BaselineUnusable
from cohort_pipelines.history import History
from cohort_pipelines.history.store import open_parquet
from cohort_pipelines.history.writer import StageWriter
from cohort_pipelines.identity import NOT_TEXT, PARTNER_ID, Equality, invalid_text

COLUMNS = (PARTNER_ID, "user_id", "id")
"""Names that a column of ids may have; the first of them that is there is read."""

_SCHEMA = pa.schema([pa.field("id", pa.string(), nullable=False)])
_PARQUET = b"PAR1"
_ID_TYPES = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_integer)


def adopt(history: History, path: str, *, sync: str, window: str, equality: Equality = "exact") -> Belief:
    """Seal the ids in the file at ``path`` as belief: all of them IN.

    The file is Parquet or else CSV, whatever its name. A file of one column needs no header.

    Raises:
        BaselineUnusable: it is not there, is not such a file, holds no id, or something that cannot be one.
        HistoryNotWritable: the disk refused.
    """
    with history.scratch() as scratch, spelling_engine(history, equality) as duckdb:
        ids = scratch / "ids.parquet"
        with StageWriter(ids, _SCHEMA, str(ids)) as writer:
            for batch in _read(path):
                _require_ids(batch, path, writer.rows)
                writer.write(pa.table([batch], schema=_SCHEMA))
        if not writer.rows:
            raise BaselineUnusable(path, "it holds no id")
        known = one_spelling("(SELECT DISTINCT id FROM read_parquet($ids))", equality)
        rows = duckdb.sql(_ADOPTED.format(known=known), params={"ids": exactly(ids)}).to_arrow_reader(BATCH)
        return seal_belief(history, sync, window, rows)


def _read(path: str) -> Iterator[pa.Array]:
    """Yield the ids as text, where there is none as an empty one; errors carry no row of the file."""
    try:
        with Path(path).open("rb") as file:
            parquet = file.read(len(_PARQUET)) == _PARQUET
        yield from _of_parquet(path) if parquet else _of_csv(path)
    except OSError as error:
        raise BaselineUnusable(path, error.strerror or type(error).__name__) from None
    except UnicodeDecodeError:
        raise BaselineUnusable(path, "it is not in UTF-8") from None
    except (csv.Error, pa.ArrowException):
        raise BaselineUnusable(path, "it is damaged, or another kind of file") from None


def _of_parquet(path: str) -> Iterator[pa.Array]:
    with open_parquet(Path(path)) as file:
        field = file.schema_arrow.field(_place_of_ids(file.schema_arrow.names, path))
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if not any(is_one(kind) for is_one in _ID_TYPES):
            raise BaselineUnusable(path, "its ids are neither text nor integers")
        for batch in file.iter_batches(BATCH, columns=[field.name]):
            batch.validate(full=True)  # only this looks whether text is UTF-8
            yield pc.fill_null(batch.column(0).cast(pa.string()), "")


def _of_csv(path: str) -> Iterator[pa.Array]:
    with Path(path).open(encoding="utf-8-sig", newline="") as file:
        rows = filter(None, csv.reader(file, strict=True))
        if (first := next(rows, None)) is None:
            return
        place = _place_of_ids(first, path)
        ids = _column(rows if first[place] in COLUMNS else chain([first], rows), place, len(first), path)
        while batch := list(islice(ids, BATCH)):
            yield pa.array(batch, pa.string())


def _column(rows: Iterable[list[str]], place: int, width: int, path: str) -> Iterator[str]:
    for number, row in enumerate(rows, start=1):
        if len(row) != width:
            raise BaselineUnusable(path, f"its row {number:,} has {len(row)} columns in place of {width}")
        yield row[place]


def _place_of_ids(names: list[str], path: str) -> int:
    """Return which column holds the ids; what a column is named is not told, since it may be an id."""
    named = [names.index(name) for name in COLUMNS if name in names]
    if not named and len(names) != 1:
        raise BaselineUnusable(path, f"it has {len(names)} columns, and none of them is named as one of user ids")
    return named[0] if named else 0


def _require_ids(ids: pa.Array, path: str, rows_before: int) -> None:
    """Refuse what :mod:`cohort_pipelines.identity` would reject by any rule."""
    no_id = pc.or_(pc.or_(pc.equal(ids, ""), pc.starts_with(ids, NOT_TEXT)), invalid_text(ids))
    first = pc.index(no_id, True).as_py()
    if first >= 0:
        raise BaselineUnusable(path, f"what its row {rows_before + first + 1:,} holds cannot be a user id")


_ADOPTED = "SELECT id, 'IN' AS state, NULL::TIMESTAMPTZ AS unsettled_since, false AS refused FROM {known} ORDER BY id"
