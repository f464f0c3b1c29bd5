"""Ids for tests and the demo: newline-delimited JSON, sorted, a million without holding the text."""

from collections.abc import Iterable, Iterator

import msgspec
from starlette.responses import StreamingResponse

_LINES = 10_000


def ids_response(ids: Iterable[str]) -> StreamingResponse:
    """Answer with ``ids``, each a JSON string on its own line, in the order of their UTF-8 bytes."""
    return StreamingResponse(_chunks(sorted(ids)), media_type="application/x-ndjson")


def _chunks(ids: list[str]) -> Iterator[bytes]:
    encoder = msgspec.json.Encoder()
    for start in range(0, len(ids), _LINES):
        yield encoder.encode_lines(ids[start : start + _LINES])
