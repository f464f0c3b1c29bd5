"""From a snapshot to a payload: every member ends in the payload or in the excluded members, and the counts add up.

Rows pass through Arrow in batches, and through DuckDB where all of them have to be sorted, so memory is flat.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from cohort_pipelines.core import clock
from cohort_pipelines.core.engine import BATCH, engine, exactly
from cohort_pipelines.core.errors import CountsDoNotAddUp, PropertyNotInSnapshot
from cohort_pipelines.core.files import Stage, StoredFile
from cohort_pipelines.core.plain_text import NOT_TEXT
from cohort_pipelines.history import History, StageWriter, open_parquet
from cohort_pipelines.identity import IdRule, Reason, mapping

HAS_PROFILE = "has_profile"


@dataclass(frozen=True, slots=True)
class Identified:
    """The identified users of a snapshot.

    Attributes:
        file: their sealed file.
        members: members of the snapshot.
        identified: those with a profile.
        malformed: those who could not be read.
        seconds: how long it took.
    """

    file: StoredFile
    members: int
    identified: int
    malformed: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Payload:
    """What is to be delivered, and who is left out.

    Attributes:
        file: the partner ids, unique, sorted by their UTF-8 bytes.
        excluded: all other members, anonymous ones included, each with a reason.
        users: how many ids the payload has.
        excluded: how many members each reason has; every reason is there.
        differing_partner_ids: users whose ``compare_with`` property has another id.
        identified: members with a profile.
        anonymous: members without.
        seconds: how long it took.
    """

    file: StoredFile
    excluded: StoredFile
    users: int
    excluded_by_reason: dict[str, int]
    differing_partner_ids: int
    identified: int
    anonymous: int
    seconds: float


def filter_identified(history: History, snapshot: StoredFile) -> Identified:
    """Keep the members that have at least one profile property, as Mixpanel's own cohort sync does.

    Raises:
        HistoryFileMissing, HistoryFileDamaged: the snapshot cannot be trusted.
        HistoryNotReadable, HistoryNotWritable: the disk or the object store refused.
    """
    began = clock.monotonic()
    with history.local_file(snapshot) as path, open_parquet(path) as members:
        schema = members.schema_arrow.remove(members.schema_arrow.get_field_index(HAS_PROFILE))
        malformed = 0
        with history.writer(snapshot.sync, Stage.IDENTIFIED_USERS, snapshot.window, schema) as writer:
            for batch in members.iter_batches(BATCH):
                malformed += pc.sum(pc.starts_with(batch.column(mapping.DISTINCT_ID), NOT_TEXT)).as_py() or 0
                writer.write(batch.filter(batch.column(HAS_PROFILE)).select(schema.names))
    return Identified(
        file=writer.stored,
        members=snapshot.rows,
        identified=writer.stored.rows,
        seconds=clock.monotonic() - began,
        malformed=malformed,
    )


def build_payload(history: History, snapshot: StoredFile, identified: StoredFile, rule: IdRule) -> Payload:
    """Map the identified users to partner ids: the payload, and beside it everybody else with a reason.

    Raises:
        HistoryFileMissing, HistoryFileDamaged: the snapshot or the identified users cannot be trusted.
        PropertyNotInSnapshot: the rule reads a profile property that was not kept.
        HistoryNotReadable, HistoryNotWritable: the disk or the object store refused.
        CountsDoNotAddUp: the identified users are not those of the snapshot.
    """
    began = clock.monotonic()
    sync, window = snapshot.sync, snapshot.window
    with (
        history.scratch() as scratch,
        history.local_file(snapshot) as members,
        history.local_file(identified) as users,
        history.writer(sync, Stage.PARTNER_PAYLOAD, window, mapping.PAYLOAD_SCHEMA) as payload,
        history.writer(sync, Stage.EXCLUDED, window, mapping.EXCLUDED_SCHEMA) as excluded,
        engine(scratch) as db,
    ):
        left_out = scratch / "left_out.parquet"
        with StageWriter(left_out, mapping.EXCLUDED_SCHEMA, str(left_out)) as unsorted:
            differing = _map_users(users, rule, window, scratch / "candidates.parquet", unsorted)
            for ids in _payload_ids(db, scratch, rule, unsorted):
                payload.write(ids)
        excluded_by_reason = _write_excluded(db, members, left_out, excluded)
        unidentified = excluded_by_reason[Reason.ANONYMOUS] + excluded_by_reason[Reason.MALFORMED_MEMBER]
        if {payload.rows + excluded.rows, identified.rows + unidentified} != {snapshot.rows}:
            raise CountsDoNotAddUp(snapshot.rows, payload.rows, excluded.rows)
    return Payload(
        file=payload.stored,
        excluded=excluded.stored,
        users=payload.stored.rows,
        excluded_by_reason=excluded_by_reason,
        differing_partner_ids=differing,
        identified=identified.rows,
        anonymous=excluded_by_reason[Reason.ANONYMOUS],
        seconds=clock.monotonic() - began,
    )


def duplicate_ids(history: History, payload: StoredFile) -> int:
    """Count the ids of a payload that do not come after the one before them: doubled ones, since it is sorted.

    Raises:
        HistoryError: the payload cannot be trusted or read.
    """
    count, last = 0, None
    for batch in history.batches(payload):
        ids = batch.column(mapping.PARTNER_ID)
        previous = pa.concat_arrays([pa.array([last], pa.string()), ids[:-1]])
        count += pc.sum(pc.less_equal(ids, previous)).as_py() or 0
        last = ids[-1].as_py()
    return count


def _map_users(users: Path, rule: IdRule, window: str, candidates: Path, excluded: StageWriter) -> int:
    """Write each user to ``candidates`` or ``excluded``; return how many have another id in ``compare_with``."""
    differing = 0
    schema = mapping.candidates_schema(rule.equality)
    with open_parquet(users) as file, StageWriter(candidates, schema, str(candidates)) as sound:
        for name in rule.properties:
            if name not in file.schema_arrow.names:
                raise PropertyNotInSnapshot(name, window)
        for batch in file.iter_batches(BATCH, columns=[mapping.DISTINCT_ID, *rule.properties]):
            mapped = mapping.map_ids(pa.Table.from_batches([batch]), rule)
            sound.write(mapped.candidates)
            excluded.write(mapped.excluded)
            differing += mapped.differing
    return differing


def _payload_ids(
    db: duckdb.DuckDBPyConnection, scratch: Path, rule: IdRule, excluded: StageWriter
) -> Iterator[pa.Table | pa.RecordBatch]:
    """Yield the unique partner ids, sorted by their bytes."""
    candidates = db.read_parquet(exactly(scratch / "candidates.parquet"))
    if rule.equality == "exact":
        yield from _first_of_each(_sorted(candidates, "partner_user_id, distinct_id"), excluded)
        return
    firsts = _first_of_each(_sorted(candidates, "equality_key, partner_user_id, distinct_id"), excluded)
    by_key = scratch / "by_key.parquet"  # the order of keys is not that of the ids themselves
    with StageWriter(by_key, mapping.PAYLOAD_SCHEMA, str(by_key)) as writer:
        for table in firsts:
            writer.write(table)
    yield from _sorted(db.read_parquet(exactly(by_key)), "partner_user_id")


def _first_of_each(candidates: Iterable[pa.RecordBatch], excluded: StageWriter) -> Iterator[pa.Table]:
    """Yield the first of equal ids; the surplus goes to ``excluded``."""
    last_key = None
    for batch in candidates:
        kept, surplus, last_key = mapping.split_duplicates(pa.Table.from_batches([batch]), last_key)
        excluded.write(surplus)
        yield kept


def _write_excluded(
    db: duckdb.DuckDBPyConnection, members: Path, left_out: Path, excluded: StageWriter
) -> dict[str, int]:
    """Write the unidentified members and ``left_out``, sorted; return how many each reason has, none included."""
    malformed = f"starts_with(distinct_id, '{NOT_TEXT}')"
    reason = f"CASE WHEN {malformed} THEN '{Reason.MALFORMED_MEMBER}' ELSE '{Reason.ANONYMOUS}' END"
    unidentified = (
        db.read_parquet(exactly(members))
        .filter(f"not {HAS_PROFILE}")
        .project(f"distinct_id, null::varchar as partner_user_id, {reason} as reason")
    )
    excluded_by_reason = dict.fromkeys((reason.value for reason in Reason), 0)
    for batch in _sorted(
        unidentified.union(db.read_parquet(exactly(left_out))), "reason, distinct_id, partner_user_id"
    ):
        excluded.write(batch)
        for count in batch.column("reason").value_counts().to_pylist():
            excluded_by_reason[count["values"]] += count["counts"]
    return excluded_by_reason


def _sorted(rows: duckdb.DuckDBPyRelation, order: str) -> Iterator[pa.RecordBatch]:
    """Stream ``rows`` in the order of their bytes, which is DuckDB's own for text."""
    yield from rows.order(order).to_arrow_reader(BATCH)
