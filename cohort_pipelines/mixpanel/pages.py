"""An engage page becomes an Arrow batch; properties that nobody needs are passed over and never built.

A Python object for each member exists only while its page is decoded. A property that is a string or an integer is kept
as its text, any other value as its JSON behind :data:`~cohort_pipelines.identity.NOT_TEXT`, so that nobody takes it for
an id.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import pyarrow as pa

from cohort_pipelines.identity import NOT_TEXT

_NULL = msgspec.Raw(b"null")
_COLUMNS: list[Any] = [
    pa.field("distinct_id", pa.string(), nullable=False),
    pa.field("has_profile", pa.bool_(), nullable=False),
    pa.field("page", pa.int32(), nullable=False),
]
_ESCAPE = re.compile(rb"\\u[dD][89abAB]..\\u[dD][c-fC-F]..|(\\u[dD][89a-fA-F]..)|\\.", re.DOTALL)


class _Member(msgspec.Struct, gc=False):
    distinct_id: str | int = msgspec.field(name="$distinct_id")  # the documentation's samples have integers
    properties: msgspec.Raw = msgspec.field(name="$properties", default=_NULL)


class _Answer(msgspec.Struct):
    page: Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
    page_size: Annotated[int, msgspec.Meta(ge=1)]
    results: list[_Member]
    session_id: str | None = None
    total: Annotated[int, msgspec.Meta(ge=0)] | None = None


_answers = msgspec.json.Decoder(_Answer)
_strings = msgspec.json.Decoder(str)


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a cohort: what it says about itself, and its members as rows of :func:`snapshot_schema`.

    ``anonymous`` counts the members without a profile.
    """

    number: int
    size: int
    session: str | None
    total: int | None
    members: pa.RecordBatch
    anonymous: int


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

    The function raises ``msgspec.DecodeError`` or ``UnicodeDecodeError`` for what is not an engage page.
    """
    schema = snapshot_schema(properties)
    profile = _profile_type(properties)
    profiles, absent = msgspec.json.Decoder(profile | None), profile()

    def decode(body: bytes) -> Page:
        answer = _answers.decode(body)
        members = answer.results
        has_profile = [all_have_profiles or _has_properties(member.properties) for member in members]
        columns: list[Iterable[Any]] = [
            [str(member.distinct_id) for member in members],
            has_profile,
            [answer.page] * len(members),
        ]
        if properties:
            needed = [msgspec.structs.astuple(profiles.decode(member.properties) or absent) for member in members]
            columns += ([_text(values[at]) for values in needed] for at in range(len(properties)))
        arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
        batch = pa.record_batch(arrays, schema=schema)
        return Page(answer.page, answer.page_size, answer.session_id, answer.total, batch, has_profile.count(False))

    def decode_or_mend(body: bytes) -> Page:
        try:
            return decode(body)
        except msgspec.ValidationError:
            raise
        except (msgspec.DecodeError, UnicodeDecodeError):
            return decode(_mended(body))

    return decode_or_mend


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


def _mended(body: bytes) -> bytes:
    """Replace text that is no Unicode, such as half an emoji where a value was cut, by U+FFFD.

    One such value, even in a property that nobody needs, would otherwise keep its whole cohort from being read.
    """
    text = body.decode("utf-8", "replace").encode()
    return _ESCAPE.sub(lambda escape: rb"\ufffd" if escape[1] else escape[0], text)
