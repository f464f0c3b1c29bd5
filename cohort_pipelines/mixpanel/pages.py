"""An engage page becomes an Arrow batch; properties that no mapping needs are passed over and never built.

A Python object for each member exists only while its page is decoded. A property that is a string or an integer is kept
as its text, any other value as its JSON behind :data:`~cohort_pipelines.core.plain_text.NOT_TEXT`, which no rule takes
for an id. A member that cannot be read is a row too: without a profile, and with its JSON behind that mark as
its id.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from msgspec.structs import astuple

from cohort_pipelines.core.http import NO_JSON
from cohort_pipelines.core.plain_text import NOT_TEXT
from cohort_pipelines.mixpanel.answers import Envelope
from cohort_pipelines.mixpanel.malformed import listed, mended, pairs, split_results

_ID, _PROFILE = "$distinct_id", "$properties"
_NULL = msgspec.Raw(b"null")
_NO_TEXT = b"\xff"  # a byte that UTF-8 never has
_COLUMNS: list[Any] = [
    pa.field("distinct_id", pa.string(), nullable=False),
    pa.field("has_profile", pa.bool_(), nullable=False),
    pa.field("page", pa.int32(), nullable=False),
]


class _Member(msgspec.Struct, gc=False):
    distinct_id: str | int = msgspec.field(name=_ID)  # the documentation's samples have integers
    profile: msgspec.Raw = msgspec.field(name=_PROFILE, default=_NULL)


class _Answer(Envelope, kw_only=True):
    status: str  # documented for every page (docs.mixpanel.com, reference/engage-query)
    page: Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
    page_size: Annotated[int, msgspec.Meta(ge=1)]
    results: list[_Member]
    session_id: str | None = None
    total: Annotated[int, msgspec.Meta(ge=0)] | None = None


_answers = msgspec.json.Decoder(_Answer)
_ids = msgspec.json.Decoder(str | int)
_strings = msgspec.json.Decoder(str)


class _Row(NamedTuple):
    """A member: its columns, and its distinct_id as it came (None: it has none that two members could share)."""

    distinct_id: str
    came: bytes | None
    has_profile: bool
    needed: tuple[msgspec.Raw, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page of a cohort: what it says about itself, and its members.

    Attributes:
        number: its own, from 0.
        size: how many members a full page of the session has.
        session: the session that it belongs to.
        total: members of the cohort.
        members: rows of :func:`snapshot_schema`.
        came: the members' distinct_ids as they came, which tells `4` from `"4"`; null where there is none to compare.
        anonymous: members without a profile.
        malformed: members that cannot be read.
    """

    number: int
    size: int
    session: str | None
    total: int | None
    members: pa.RecordBatch
    came: pa.BinaryArray
    anonymous: int
    malformed: int


PageDecoder = Callable[[bytes], Page]


def snapshot_schema(properties: Sequence[str]) -> pa.Schema:
    """Return a snapshot's columns: distinct_id, has_profile, page, and one for each of ``properties``, by its name.

    Raises:
        ValueError: a property's name is that of another column.
    """
    schema = pa.schema(_COLUMNS)
    for name in properties:
        if name in schema.names:
            message = f"a snapshot cannot hold two columns that are called {name}"
            raise ValueError(message)
        schema = schema.append(pa.field(name, pa.string()))
    return schema


def page_decoder(properties: Sequence[str], *, all_have_profiles: bool) -> PageDecoder:
    """Return a function from an answer's body to its page, which keeps only ``properties``.

    ``all_have_profiles`` is for pages asked for without the members that have none, where what stands in
    ``$properties`` is what was asked for and proves nothing.

    The function raises one of :data:`~cohort_pipelines.core.http.NO_JSON` for what is not an engage page.
    """
    return _PageDecoder(properties, all_have_profiles=all_have_profiles).decode


class _PageDecoder:
    """Decodes a page as a whole; where that fails, member by member."""

    def __init__(self, properties: Sequence[str], *, all_have_profiles: bool) -> None:
        profile = _profile_type(properties)
        self.schema = snapshot_schema(properties)
        self.properties = properties
        self.profiles = msgspec.json.Decoder(profile | None)
        self.absent = profile()
        self.all_have_profiles = all_have_profiles

    def decode(self, body: bytes) -> Page:
        """Return the page of ``body``."""
        try:
            page = self._whole(body)
        except NO_JSON:
            return self._by_member(body)
        return self._by_member(body) if page.malformed else page  # a sound id that begins with the mark

    def _whole(self, body: bytes) -> Page:
        answer = _answers.decode(body)
        members = answer.results
        given = [member.distinct_id for member in members]
        if int in set(map(type, given)):
            ids = pa.array(map(str, given), pa.string())
            came = pa.array(map(_compared, given), pa.binary())
        else:
            ids = pa.array(given, pa.string())
            came = ids.cast(pa.binary())
        all_have_profiles = self.all_have_profiles
        has_profile = [_has_properties(member.profile) or all_have_profiles for member in members]
        decode, absent = self.profiles.decode, self.absent
        needed = [astuple(decode(member.profile) or absent) for member in members] if self.properties else []
        return self._page(answer, ids, came, has_profile, needed)

    def _by_member(self, body: bytes) -> Page:
        head, members = split_results(body)
        answer = _answers.decode(head)
        rows = [self._row(member) for member in members]
        ids = pa.array([row.distinct_id for row in rows], pa.string())
        came = pa.array([row.came for row in rows], pa.binary())
        return self._page(answer, ids, came, [row.has_profile for row in rows], [row.needed for row in rows])

    def _page(
        self,
        answer: _Answer,
        ids: pa.StringArray,
        came: pa.BinaryArray,
        has_profile: list[bool],
        needed: list[tuple[msgspec.Raw, ...]],
    ) -> Page:
        number = pa.repeat(pa.scalar(answer.page, pa.int32()), len(ids))
        columns = [[_text(values[at]) for values in needed] for at in range(len(self.properties))]
        properties = [pa.array(column, pa.string()) for column in columns]
        malformed = pc.sum(pc.starts_with(ids, NOT_TEXT)).as_py() or 0
        return Page(
            number=answer.page,
            size=answer.page_size,
            session=answer.session_id,
            total=answer.total,
            members=pa.record_batch([ids, pa.array(has_profile, pa.bool_()), number, *properties], schema=self.schema),
            came=came,
            anonymous=has_profile.count(False) - malformed,
            malformed=malformed,
        )

    def _row(self, member: bytes) -> _Row:
        came, shown = None, member
        try:
            values = dict(pairs(member))
            given = values.get(_ID, b"null")
            if given[:1] == b'"' or given.removeprefix(b"-").isdigit():
                came, shown = _NO_TEXT + given, given
            decoded = _ids.decode(given)
            came, distinct_id = _compared(decoded), _unmarked(str(decoded))
            has_profile, needed = self._profile(values.get(_PROFILE, b"null"))
        except NO_JSON:
            return _Row(listed(shown), came, has_profile=False, needed=astuple(self.absent))
        return _Row(distinct_id, came, has_profile, needed)

    def _profile(self, json: bytes) -> tuple[bool, tuple[msgspec.Raw, ...]]:
        """Return whether a profile holds anything, and the needed properties of it; the others may be malformed."""
        values = {} if json == b"null" else dict(pairs(json))
        kept = [b"%s:%s" % (msgspec.json.encode(name), values[name]) for name in self.properties if name in values]
        needed = astuple(self.profiles.decode(mended(b"{%s}" % b",".join(kept))))
        for value in needed:
            _text(value)  # which finds what the decoder passes over
        return bool(values) or self.all_have_profiles, needed


def _profile_type(properties: Sequence[str]) -> type[msgspec.Struct]:
    """Make a struct of the named properties only, in their order, each left as the JSON that it is."""
    names = {f"property_{number}": name for number, name in enumerate(properties)}
    return msgspec.defstruct("Profile", [(field, msgspec.Raw, _NULL) for field in names], rename=names, gc=False)


def _has_properties(profile: msgspec.Raw) -> bool:
    """Say whether a profile holds anything; how Mixpanel shows that there is none is not documented."""
    text = bytes(profile)
    if text[:1] == b"{":
        return bool(text[1:-1].strip())
    if text == b"null":
        return False
    message = "Expected `object | null` - at `$.results[...].$properties`"
    raise msgspec.ValidationError(message)


def _text(value: msgspec.Raw) -> str | None:
    """Return a string or an integer as its text, null as None, and the JSON of any other value as what it is."""
    json = bytes(value)
    if json[:1] == b'"':
        return _strings.decode(json)
    if json == b"null":
        return None
    return json.decode() if json.removeprefix(b"-").isdigit() else NOT_TEXT + json.decode()


def _compared(distinct_id: str | int) -> bytes:
    """Return what only equal ids have in common."""
    return distinct_id.encode() if isinstance(distinct_id, str) else _NO_TEXT + b"%d" % distinct_id


def _unmarked(distinct_id: str) -> str:
    if distinct_id.startswith(NOT_TEXT):
        message = "an id begins with the mark of malformed members"
        raise msgspec.ValidationError(message)
    return distinct_id
