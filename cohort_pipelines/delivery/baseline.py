"""The baseline: what a target held before the first delivery, adopted from a file of ids as if we had sent them.

Who is in it and not in the payload is then a leaver, and who is in both costs nothing.
"""

import csv
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import Row

from cohort_pipelines.delivery.belief import BATCH, Belief, belief_source, doubt_all, one_row, seal_belief
from cohort_pipelines.delivery.spelling import one_spelling, spelling_engine
from cohort_pipelines.delivery.terms import NO_FILE
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


def started_from(
    history: History,
    target: Row[tuple[object, ...]] | None,
    belief: Belief,
    baseline: str,
    *,
    sync: str,
    window: str,
    equality: Equality,
) -> tuple[Belief, str | None]:
    """Return what a delivery starts from, and the word for the ``baseline`` that it takes over; None: the first stands.

    Args:
        history: where what is adopted is sealed, under ``sync`` and ``window``.
        target: what the ledger has of the target: a row of :data:`schema.target`; None where that is nothing.
        belief: what is believed of it.
        baseline: what is declared, as :class:`Terms` has it.
        sync: see there.
        window: see there.
        equality: which spellings the partner takes for one id.

    Raises:
        BaselineUnusable, HistoryError: it cannot be adopted.
    """
    sent = target is not None and bool(target.established or target.last_sent)
    if target is not None and sent and target.baseline is not None and target.retired is None:
        return belief, None
    known = belief if sent else Belief()  # of one that was taken over and not sent to, what was taken over then goes
    if known.held:  # it was given up as it was, and looked after at the partner
        known = doubt_all(history, known, sync=sync, window=window)
    if baseline in NO_FILE:
        return known, baseline
    return adopt(history, baseline, known, sync=sync, window=window, equality=equality), "adopted"


def adopt(
    history: History, path: str, known: Belief | None = None, *, sync: str, window: str, equality: Equality = "exact"
) -> Belief:
    """Seal the ids in the file at ``path`` as belief: all of them IN, but MAYBE where ``known`` says otherwise.

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
        there = one_spelling("(SELECT DISTINCT id FROM read_parquet($ids))", equality)
        with belief_source(history, known or Belief()) as (believed, paths):
            both = one_row(_BOTH.format(there=there, believed=believed), equality)
            rows = duckdb.sql(f"FROM {both} ORDER BY id", params={**paths, "ids": exactly(ids)})
            return seal_belief(history, sync, window, rows.to_arrow_reader(BATCH))


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


_BOTH = """(
SELECT id, 'IN' AS state, NULL::TIMESTAMPTZ AS unsettled_since, false AS refused FROM {there}
UNION ALL
SELECT id, state, unsettled_since, refused FROM {believed}
)"""
