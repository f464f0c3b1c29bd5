"""Small pieces of ASGI: reading a request whole, answering it with one body, and hanging up on it."""

from contextlib import suppress
from typing import Any

import msgspec
from starlette.types import Message, Receive, Send


async def read_body(receive: Receive) -> bytes:
    """Read a request's whole body."""
    message = await receive()
    body: bytes = message.get("body", b"")
    while message.get("more_body", False):
        message = await receive()
        body += message.get("body", b"")
    return body


async def answer(send: Send, status: int, body: bytes, headers: dict[str, str]) -> None:
    """Answer a request with one body."""
    named = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*named, length]})
    await send({"type": "http.response.body", "body": body})


async def answer_json(send: Send, status: int, content: Any) -> None:  # noqa: ANN401  whatever JSON can hold
    """Answer a request with ``content`` as JSON."""
    await answer(send, status, msgspec.json.encode(content), {"content-type": "application/json"})


def replaying(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that gives a body which was read already, and then what ``receive`` gives."""
    pending = [body]

    async def again() -> Message:
        if pending:
            return {"type": "http.request", "body": pending.pop(), "more_body": False}
        return await receive()

    return again


async def swallow(_message: Message) -> None:
    """Take an answer and tell nobody."""


async def hang_up(receive: Receive, send: Send, last: bytes = b"") -> None:
    """Close the connection, after ``last`` was written on it as it is; ``send`` must be the server's own."""
    # ASGI has no way to hang up; uvicorn's `send` is a method of the object that holds the connection.
    cycle: Any = getattr(send, "__self__", None)
    with suppress(AttributeError):  # another server: it will answer 500, which is a fault as well
        cycle.transport.write(last)
        cycle.transport.close()
        while (await receive())["type"] != "http.disconnect":
            pass
