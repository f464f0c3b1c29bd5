"""Which partner id is a member's, and why a member has none: pure functions over Arrow tables.

Two ID-merge systems exist in Mixpanel. With simplified ID merge a distinct_id is the user's own id, or ``$device:...``
before login. With original ID merge it may be any id of a cluster, so a partner's own profile property is read instead
(docs.mixpanel.com, ID Management and the partners' pages). An :class:`IdRule` says which column, and what it must be.

Only strings and integers can be ids. A list, an object, a boolean or a fraction in a property comes as its JSON behind
:data:`~cohort_pipelines.core.plain_text.NOT_TEXT`, and is malformed by every rule; so is a string that begins with that
character. The distinct_id of a member that could not be read begins with it too, followed by what came.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from cohort_pipelines.core.plain_text import NOT_TEXT

DISTINCT_ID = "distinct_id"
PARTNER_ID = "partner_user_id"
EQUALITY_KEY = "equality_key"
DEVICE_PREFIX = "$device:"
MAX_ID_BYTES = 1024  # what receivers of Mixpanel's cohort webhook take (Flagsmith's serializer)
SPACE = (
    "".join(map(chr, [*range(0x09, 0x0E), *range(0x1C, 0x21), 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B)]))
    + "\u2028\u2029\u202f\u205f\u3000\ufeff"
)  # what Python's strip, JavaScript's trim or Go's TrimSpace takes off
_UNUSABLE = r"[\x00-\x1f\x7f\x{FFFD}]"  # control characters, and what stands for broken Unicode: two ids would be one

PAYLOAD_SCHEMA = pa.schema([pa.field(PARTNER_ID, pa.string(), nullable=False)])
EXCLUDED_SCHEMA = pa.schema(
    [
        pa.field(DISTINCT_ID, pa.string(), nullable=False),
        pa.field(PARTNER_ID, pa.string()),
        pa.field("reason", pa.string(), nullable=False),
    ]
)


Equality = Literal["exact", "casefold", "nfc"]


class Reason(StrEnum):
    """Why a member is not in the payload."""

    ANONYMOUS = "anonymous"
    MALFORMED_MEMBER = "malformed_member"
    NO_PARTNER_ID = "no_partner_id"
    MALFORMED_PARTNER_ID = "malformed_partner_id"
    DEVICE_ID = "device_id"
    INVALID_TEXT = "invalid_text"
    SURROUNDING_SPACE = "surrounding_space"
    DUPLICATE_PARTNER_ID = "duplicate_partner_id"


@dataclass(frozen=True, slots=True)
class IdRule:
    """How a member's partner id is found.

    Attributes:
        source: the column it is read from: ``distinct_id`` or a profile property.
        prefixes: one of them must be there, followed by at least one character.
        strip_prefix: taken off the id; an id without it has no partner id.
        exclude_device_ids: whether ids of devices without a login are excluded.
        compare_with: a property that should equal the id; members where it differs are counted.
        equality: which spellings the partner takes for one id.
    """

    source: str = DISTINCT_ID
    prefixes: tuple[str, ...] = ()
    strip_prefix: str | None = None
    exclude_device_ids: bool = False
    compare_with: str | None = None
    equality: Equality = "exact"

    @property
    def properties(self) -> tuple[str, ...]:
        """The profile properties that this rule reads, beside the distinct_id."""
        wanted = (self.source, self.compare_with)
        return tuple(dict.fromkeys(name for name in wanted if name is not None and name != DISTINCT_ID))


@dataclass(frozen=True, slots=True)
class Mapped:
    """What a rule made of a table of members.

    Attributes:
        candidates: the members that have a sound partner id; columns of :func:`candidates_schema`.
        excluded: distinct_id, partner_user_id (as it was read), reason of all others.
        differing: how many candidates have another id in ``compare_with``.
    """

    candidates: pa.Table
    excluded: pa.Table
    differing: int


def candidates_schema(equality: Equality) -> pa.Schema:
    """Return distinct_id, partner_user_id and, where spellings matter, equality_key."""
    names = (DISTINCT_ID, PARTNER_ID) if equality == "exact" else (DISTINCT_ID, PARTNER_ID, EQUALITY_KEY)
    return pa.schema([pa.field(name, pa.string(), nullable=False) for name in names])


def map_ids(members: pa.Table, rule: IdRule) -> Mapped:
    """Map identified members to partner ids; every one ends as a candidate or as an excluded member with one reason.

    ``members`` holds distinct_id and the columns of ``rule.properties``, all strings.
    """
    read = _column(members, rule.source)
    ids = _stripped(pc.fill_null(read, ""), rule.strip_prefix)
    reasons = _reasons(pc.fill_null(read, ""), ids, rule)
    sound = pc.is_null(reasons)
    distinct_ids = _column(members, DISTINCT_ID)
    kept = pc.filter(ids, sound)
    columns = [pc.filter(distinct_ids, sound), kept, equality_key(kept, rule.equality)]
    schema = candidates_schema(rule.equality)
    excluded = pa.table([distinct_ids, read, reasons], schema=EXCLUDED_SCHEMA).filter(pc.invert(sound))
    return Mapped(
        candidates=pa.table(columns[: len(schema)], schema=schema),
        excluded=excluded,
        differing=_differing(kept, pc.filter(_column(members, rule.compare_with), sound)) if rule.compare_with else 0,
    )


def equality_key(ids: pa.Array, equality: Equality) -> pa.Array:
    """Return what two spellings of one id have in common, where the partner takes them for one."""
    if equality == "nfc":
        return pc.utf8_normalize(ids, form="NFC")
    return _casefolded(ids) if equality == "casefold" else ids


def invalid_text(ids: pa.Array) -> pa.Array:
    """Say which ids no receiver takes: they are too long, or hold a character that cannot be told from another."""
    return pc.or_(pc.greater(pc.binary_length(ids), MAX_ID_BYTES), pc.match_substring_regex(ids, _UNUSABLE))


def surrounding_space(ids: pa.Array) -> pa.Array:
    """Say which ids have white space at an end: a receiver that trims takes such an id and the bare one for one id."""
    return pc.not_equal(pc.utf8_trim(ids, characters=SPACE), ids)


def split_duplicates(candidates: pa.Table, last_key: str | None) -> tuple[pa.Table, pa.Table, str | None]:
    """Split candidates, sorted by what makes them equal, into the first of each and the surplus.

    A stream of tables is split by handing each call's last key to the next one.

    Returns:
        The partner ids that stay, the excluded members, and the last key.
    """
    if candidates.num_rows == 0:
        return PAYLOAD_SCHEMA.empty_table(), EXCLUDED_SCHEMA.empty_table(), last_key
    keys = _column(candidates, EQUALITY_KEY if EQUALITY_KEY in candidates.column_names else PARTNER_ID)
    previous = pa.concat_arrays([pa.array([last_key], pa.string()), keys[:-1]])
    surplus = pc.fill_null(pc.equal(keys, previous), False)
    kept = candidates.filter(pc.invert(surplus)).select([PARTNER_ID]).cast(PAYLOAD_SCHEMA)
    doubled = candidates.filter(surplus)
    reasons = pa.repeat(pa.scalar(Reason.DUPLICATE_PARTNER_ID.value), doubled.num_rows)
    excluded = pa.table([doubled[DISTINCT_ID], doubled[PARTNER_ID], reasons], schema=EXCLUDED_SCHEMA)
    return kept, excluded, keys[-1].as_py()


def _stripped(ids: pa.Array, prefix: str | None) -> pa.Array:
    if prefix is None:
        return ids
    return pc.if_else(pc.starts_with(ids, prefix), pc.utf8_slice_codeunits(ids, len(prefix)), "")


def _reasons(read: pa.Array, ids: pa.Array, rule: IdRule) -> pa.Array:
    """Return why each id is excluded, null where it is sound; the first case that holds counts."""
    cases = [
        (pc.equal(read, ""), Reason.NO_PARTNER_ID),
        (pc.starts_with(read, NOT_TEXT), Reason.MALFORMED_PARTNER_ID),
    ]
    if rule.prefixes:
        cases.append((pc.invert(_has_prefix(read, rule.prefixes)), Reason.MALFORMED_PARTNER_ID))
    if rule.exclude_device_ids:
        cases.append((pc.starts_with(read, DEVICE_PREFIX), Reason.DEVICE_ID))
    cases.append((pc.equal(ids, ""), Reason.NO_PARTNER_ID))
    cases += [(invalid_text(ids), Reason.INVALID_TEXT), (surrounding_space(ids), Reason.SURROUNDING_SPACE)]
    conditions = pc.make_struct(*(mask for mask, _ in cases), field_names=[str(n) for n in range(len(cases))])
    return pc.case_when(conditions, *(pa.scalar(reason.value) for _, reason in cases))


def _has_prefix(ids: pa.Array, prefixes: tuple[str, ...]) -> pa.Array:
    """Say where one of ``prefixes`` is followed by at least one character."""
    either = "|".join(re.escape(prefix) for prefix in prefixes)
    return pc.match_substring_regex(ids, rf"(?s)\A(?:{either}).")


def _differing(ids: pa.Array, others: pa.Array) -> int:
    return pc.sum(pc.not_equal(ids, others)).as_py() or 0


def _casefolded(ids: pa.Array) -> pa.Array:
    """Casefold; Arrow only does so for ASCII, and the few other ids go through Python."""
    beyond = pc.invert(pc.string_is_ascii(ids))
    folded = pa.array([text.casefold() for text in ids.filter(beyond).to_pylist()], pa.string())
    return pc.replace_with_mask(pc.ascii_lower(ids), beyond, folded)


def _column(table: pa.Table, name: str) -> pa.Array:
    return table.column(name).combine_chunks()
