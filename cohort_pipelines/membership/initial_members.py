"""The initial members: what a target held before the first delivery, adopted from a file of ids as if we had sent them.

Who is in it and not in the payload is then a leaver, and who is in both costs nothing.
"""

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import Row

from cohort_pipelines.core.engine import BATCH, exactly
from cohort_pipelines.core.errors import InitialMembersUnusable
from cohort_pipelines.core.plain_text import NOT_TEXT
from cohort_pipelines.history import History, StageWriter, open_parquet
from cohort_pipelines.identity import PARTNER_ID, invalid_text, surrounding_space
from cohort_pipelines.membership.spelling import one_spelling, spelling_engine
from cohort_pipelines.membership.state import Membership, mark_all_unknown, membership_source, one_row, seal_membership
from cohort_pipelines.membership.terms import NO_FILE, Terms

COLUMNS = (PARTNER_ID, "user_id", "distinct_id", "id")
"""Names that a column of ids may have, in any case and spelling; the first of them that is there is read."""

_SCHEMA = pa.schema([pa.field("id", pa.string(), nullable=False)])
_PARQUET = b"PAR1"
_NOT_IN_A_NAME = re.compile(r"[\s_$-]")  # `User ID`, `userId` and `user_id` are one name
_OTHER_SEPARATORS = re.compile(r"[;\t]")
_BYTE_ORDER_MARK = "\ufeff"
_ID_TYPES = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_integer)


def started_from(
    history: History,
    target: Row[tuple[object, ...]] | None,
    membership: Membership,
    terms: Terms,
    *,
    sync: str,
    window: str,
) -> tuple[Membership, str | None]:
    """Return what a delivery starts from, and the word for the baseline that it takes over; None: the first stands.

    Args:
        history: where what is adopted is sealed, under ``sync`` and ``window``.
        target: what the ledger has of the target: a row of :data:`schema.target`; None where that is nothing.
        membership: what is known of it.
        terms: what is declared of the target.
        sync: see there.
        window: see there.

    Raises:
        InitialMembersUnusable, HistoryError: it cannot be adopted.
    """
    sent = target is not None and bool(target.established or target.last_sent)
    if target is not None and sent and target.initial_members is not None and target.retired is None:
        return membership, None
    known = (
        membership if sent else Membership()
    )  # of one that was taken over and not sent to, what was taken over then goes
    if known.held:  # it was given up as it was, and looked after at the partner
        known = mark_all_unknown(history, known, sync=sync, window=window)
    if terms.initial_members in NO_FILE:
        return known, terms.initial_members
    return adopt(history, terms, known, sync=sync, window=window), "adopted"


def adopt(history: History, terms: Terms, known: Membership | None = None, *, sync: str, window: str) -> Membership:
    """Seal the ids in the file that ``terms`` name as membership: all IN, but UNKNOWN where ``known`` says otherwise.

    The file is Parquet or else CSV, whatever its name. One of its columns has a name of :data:`COLUMNS`; or the terms
    say that it has no header, and its only column holds the ids.

    Raises:
        InitialMembersUnusable: it is not there, is not such a file, holds no id, or something that cannot be one.
        HistoryNotWritable: the disk refused.
    """
    path, equality = terms.initial_members, terms.id_equality
    with history.scratch() as scratch, spelling_engine(history, equality) as duckdb:
        ids = scratch / "ids.parquet"
        with StageWriter(ids, _SCHEMA, str(ids)) as writer:
            for batch in _read(path, has_header=terms.initial_members_have_header):
                _require_ids(batch, path, writer.rows)
                writer.write(pa.table([batch], schema=_SCHEMA))
        if not writer.rows:
            raise InitialMembersUnusable(path, "it holds no id")
        there = one_spelling("(SELECT DISTINCT id FROM read_parquet($ids))", equality)
        with membership_source(history, known or Membership()) as (known_membership, paths):
            both = one_row(_BOTH.format(there=there, membership=known_membership), equality)
            rows = duckdb.sql(f"FROM {both} ORDER BY id", params={**paths, "ids": exactly(ids)})
            return seal_membership(history, sync, window, rows.to_arrow_reader(BATCH))


def _read(path: str, *, has_header: bool) -> Iterator[pa.Array]:
    """Yield the ids as text, where there is none as an empty one; errors carry no row of the file."""
    try:
        with Path(path).open("rb") as file:
            parquet = file.read(len(_PARQUET)) == _PARQUET
        yield from (_of_parquet if parquet else _of_csv)(path, has_header=has_header)
    except OSError as error:
        raise InitialMembersUnusable(path, error.strerror or type(error).__name__) from None
    except UnicodeDecodeError:
        raise InitialMembersUnusable(path, "it is not in UTF-8") from None
    except (csv.Error, pa.ArrowException):
        raise InitialMembersUnusable(path, "it is damaged, or another kind of file") from None


def _of_parquet(path: str, *, has_header: bool) -> Iterator[pa.Array]:
    with open_parquet(Path(path)) as file:
        names = file.schema_arrow.names
        field = file.schema_arrow.field(_named(names, path) if has_header else _only(names, path))
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if not any(is_one(kind) for is_one in _ID_TYPES):
            raise InitialMembersUnusable(path, "its ids are neither text nor integers")
        for batch in file.iter_batches(BATCH, columns=[field.name]):
            batch.validate(full=True)  # only this looks whether text is UTF-8
            yield pc.fill_null(batch.column(0).cast(pa.string()), "")


def _of_csv(path: str, *, has_header: bool) -> Iterator[pa.Array]:
    with Path(path).open(encoding="utf-8-sig", newline="") as file:
        rows = filter(None, csv.reader(file, strict=True))
        if (first := next(rows, None)) is None:
            return
        place = _place_of_ids(first)
        parts = _OTHER_SEPARATORS.split(",".join(first))
        if place is None and len(parts) > 1 and (has_header or _place_of_ids(parts) is not None):
            raise InitialMembersUnusable(
                path, "a semicolon or a tab separates the columns of its first row, not a comma"
            )
        if has_header:
            ids = _column(rows, _named(first, path), len(first), path)
        elif place is None:
            ids = _column(chain([first], rows), _only(first, path), len(first), path)
        else:
            raise InitialMembersUnusable(
                path, "its first row is a header, and `initial_members_have_header: false` is declared"
            )
        while batch := list(islice(ids, BATCH)):
            yield pa.array(batch, pa.string())


def _column(rows: Iterable[list[str]], place: int, width: int, path: str) -> Iterator[str]:
    for number, row in enumerate(rows, start=1):
        if len(row) != width:
            raise InitialMembersUnusable(path, f"its row {number:,} has {len(row)} columns in place of {width}")
        yield row[place]


def _named(names: Sequence[str], path: str) -> int:
    """Return which column is named as one of ids; what a column is named is not told, since it may be an id."""
    place = _place_of_ids(names)
    if place is None:
        raise InitialMembersUnusable(path, "no column of it is named as one of user ids")
    return place


def _only(names: Sequence[str], path: str) -> int:
    """Return which column of a file without a header holds the ids: the only one."""
    if len(names) != 1:
        raise InitialMembersUnusable(path, f"it has {len(names)} columns, and no header that names the one of user ids")
    return 0


def _place_of_ids(names: Sequence[str]) -> int | None:
    given = [_NOT_IN_A_NAME.sub("", name).lower() for name in names]
    known = (_NOT_IN_A_NAME.sub("", name) for name in COLUMNS)
    return next((given.index(name) for name in known if name in given), None)


def _require_ids(ids: pa.Array, path: str, rows_before: int) -> None:
    """Refuse what :mod:`cohort_pipelines.identity` would exclude, and what other tools left around an id."""
    no_id = pc.or_(pc.or_(pc.equal(ids, ""), pc.starts_with(ids, NOT_TEXT)), invalid_text(ids))
    _require_none(no_id, path, rows_before, "cannot be a user id")
    padded = pc.or_(surrounding_space(ids), pc.match_substring(ids, _BYTE_ORDER_MARK))
    _require_none(padded, path, rows_before, "has white space at an end, or a byte order mark")


def _require_none(rows: pa.Array, path: str, rows_before: int, problem: str) -> None:
    first = pc.index(rows, True).as_py()
    if first >= 0:
        raise InitialMembersUnusable(path, f"what its row {rows_before + first + 1:,} holds {problem}")


_BOTH = """(
SELECT id, 'IN' AS state, NULL::TIMESTAMPTZ AS in_doubt_since, false AS rejected FROM {there}
UNION ALL
SELECT id, state, in_doubt_since, rejected FROM {membership}
)"""
