"""Reading a page that is not sound JSON of the documented shape: one malformed member must not cost the others.

The page is split at its brackets and commas alone, so that a number that JSON does not have, text that is no Unicode or
a value nested without end stays inside of its own member, and inside of its own property.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import TypeVar

import msgspec

from cohort_pipelines.core.http import NO_JSON
from cohort_pipelines.core.plain_text import NOT_TEXT

T = TypeVar("T")

_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_UP_TO = rb"(?:[^\"%s]*+%s)*+[^\"%s]*+[%s]"
_BRACKET, _BRACKET_OR_COMMA = (
    re.compile(_UP_TO % (marks, _STRING, marks, marks), re.DOTALL) for marks in (rb"\[\]{}", rb"\[\]{},")
)
_PAIR = re.compile(rb"(%s)\s*:\s*(.+)" % _STRING, re.DOTALL)
_ESCAPE = re.compile(rb"\\u[dD][89abAB]..\\u[dD][c-fC-F]..|(\\u[dD][89a-fA-F]..)|\\.", re.DOTALL)
_DEEPEST = 10_000  # levels of nesting; following more, of many MB, would take minutes
_LISTED = 2_000  # characters of a malformed member that are kept
_strings = msgspec.json.Decoder(str)


def split_results(body: bytes) -> tuple[bytes, list[bytes]]:
    """Return an engage page without its results, and the JSON of each result.

    Raises:
        msgspec.DecodeError: it is no object with one list of results.
    """
    values = dict(pairs(body))
    if "results" not in values:
        message = "Object missing required field `results`"
        raise msgspec.ValidationError(message)
    results, values["results"] = list(elements(values["results"])), b"[]"
    return b"{%s}" % b",".join(b"%s:%s" % (msgspec.json.encode(name), value) for name, value in values.items()), results


def elements(json: bytes) -> Iterator[bytes]:
    """Yield the JSON of a list's values, which may be malformed.

    Raises:
        msgspec.DecodeError: it is no list.
    """
    return _parts(json, b"[]")


def readable(json: bytes, decoder: msgspec.json.Decoder[T]) -> list[T]:
    """Decode those of a list's objects that can be, each without those of its values that cannot.

    Raises:
        msgspec.DecodeError: it is no list, or one of which nothing can be read.
    """
    came, decoded = list(elements(json)), []
    for element in came:
        with suppress(*NO_JSON):
            decoded.append(decoder.decode(_sound(element)))
    if came and not decoded:
        message = "no entry of it can be read"
        raise msgspec.ValidationError(message)
    return decoded


def _sound(json: bytes) -> bytes:
    """Return an object without the values that are no JSON."""
    return b"{%s}" % b",".join(
        b"%s:%s" % (msgspec.json.encode(name), value) for name, value in pairs(json) if _is_json(value)
    )


def _is_json(value: bytes) -> bool:
    with suppress(*NO_JSON):
        msgspec.json.decode(value)
        return True
    return False


def pairs(json: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the names of an object's values and their JSON, which may be malformed.

    Raises:
        msgspec.DecodeError: it is no object.
    """
    for part in _parts(json, b"{}"):
        pair = _PAIR.fullmatch(part)
        if pair is None:
            raise _malformed()
        yield _name(pair[1]), pair[2]


def mended(json: bytes) -> bytes:
    """Replace text that is no Unicode, such as half an emoji where a value was cut, by U+FFFD."""
    text = json.decode("utf-8", "replace").encode()
    return _ESCAPE.sub(lambda escape: rb"\ufffd" if escape[1] else escape[0], text)


def listed(json: bytes) -> str:
    """Return ``json`` as it came, for a person to find it by, behind the mark by which no rule takes it for an id."""
    return NOT_TEXT + json.decode("utf-8", "backslashreplace")[:_LISTED]


def _parts(json: bytes, brackets: bytes) -> Iterator[bytes]:
    """Yield what stands between the commas of a list or an object, whichever has these ``brackets``.

    Raises:
        msgspec.DecodeError: it has other brackets, or they do not match up.
    """
    json = json.strip()
    if json[:1] + json[-1:] != brackets:
        message = f"Expected `{'array' if brackets == b'[]' else 'object'}`"
        raise msgspec.ValidationError(message)
    if not json[1:-1].strip():
        return
    depth = begin = end = 1
    while depth:
        token = (_BRACKET_OR_COMMA if depth == 1 else _BRACKET).match(json, end)
        if token is None:
            raise _malformed()
        end = token.end()
        mark = json[end - 1 : end]
        depth += (mark in b"[{") - (mark in b"]}")
        if depth > _DEEPEST:
            raise _malformed()
        if depth == 0 or (depth == 1 and mark == b","):
            yield json[begin : end - 1].strip()
            begin = end
    if end != len(json):
        raise _malformed()


def _name(json: bytes) -> str:
    try:
        return _strings.decode(json)
    except NO_JSON:
        return listed(json)


def _malformed() -> msgspec.DecodeError:
    message = "JSON is malformed"
    return msgspec.DecodeError(message)
