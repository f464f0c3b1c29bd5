"""Faults that can be switched on by request, and a count of what was asked: a layer around each stand-in.

``POST /standin/faults`` with the fields of :class:`Fault` switches one on, ``DELETE`` switches all off.
``GET /standin/requests`` tells how often which path was answered with which status, ``DELETE`` forgets it.
"""

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Literal, TypeAlias

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

TWIST = "standin.twist"  # key of the scope; what the Mixpanel stand-in should do wrong

# From repeat_page on, the kinds are Mixpanel's own: wrong pages, and refusals with its bodies.
Kind: TypeAlias = Literal[
    "status",
    "delay",
    "cut",
    "lost_response",
    "half_body",
    "html",
    "repeat_page",
    "skip_page",
    "short_page",
    "total_changes",
    "session_changes",
    "plan_without_api",
    "timed_out",
    "load_shed",
]


class Fault(msgspec.Struct, forbid_unknown_fields=True):
    """What shall go wrong, and for which requests.

    ``match`` is a regular expression for the beginning of the path, ``contains`` a text that the request's body must
    hold. The first ``after`` such requests pass, the next ``times`` (None: all) meet the fault.
    """

    kind: Kind
    match: str = "/"
    contains: str = ""
    after: int = 0
    times: int | None = 1
    status: int = 503  # kind status
    headers: dict[str, str] = {}
    body: str = ""
    seconds: float = 1.0  # kind delay

    def meets(self, path: str, body: bytes) -> bool:
        """Tell whether a request meets this fault, and count it."""
        if self.times == 0 or re.match(self.match, path) is None or self.contains.encode() not in body:
            return False
        if self.after:
            self.after -= 1
            return False
        if self.times is not None:
            self.times -= 1
        return True


class Faults:
    """ASGI layer; must be the outermost, since cutting a connection takes the server's own ``send``."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.active: list[Fault] = []
        self.requests: Counter[tuple[str, int]] = Counter()  # by path and status; status 0: no answer

    def add(self, fault: Fault) -> None:
        """Switch a fault on, after those that are on already; the first that meets a request acts."""
        self.active.append(fault)

    def clear(self) -> None:
        """Switch all faults off."""
        self.active.clear()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, unless it meets a fault or switches one; what begins with /standin/ never fails."""
        if scope["type"] == "http" and (control := self._control(scope)):
            await control(receive, send)
        elif scope["type"] != "http" or scope["path"].startswith("/standin/"):
            await self.app(scope, receive, send)
        elif self.active:
            await self._perhaps(scope, receive, send)
        else:
            await self.app(scope, receive, self._counting(scope["path"], send))

    async def _perhaps(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        body = await read_body(receive)
        fault = next((fault for fault in self.active if fault.meets(path, body)), None)
        send_counted = self._counting(path, send)
        again = _replaying(body, receive)
        match fault:
            case None:
                await self.app(scope, again, send_counted)
            case Fault(kind="status"):
                await answer(send_counted, fault.status, fault.body.encode(), fault.headers)
            case Fault(kind="html"):
                page = b"<!doctype html><title>Just a moment</title><p>We are checking your browser.</p>"
                await answer(send_counted, HTTPStatus.OK, page, {"content-type": "text/html"})
            case Fault(kind="delay"):
                await asyncio.sleep(fault.seconds)
                await self.app(scope, again, send_counted)
            case Fault(kind="cut"):
                self.requests[path, 0] += 1
                await _hang_up(receive, send)
            case Fault(kind="lost_response"):
                self.requests[path, 0] += 1
                await self.app(scope, again, _swallow)
                await _hang_up(receive, send)
            case Fault(kind="half_body"):
                await self.app(scope, again, _halving(send_counted))
                await _hang_up(receive, send)
            case _:
                await self.app({**scope, TWIST: fault.kind}, again, send_counted)

    def _counting(self, path: str, send: Send) -> Send:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.requests[path, message["status"]] += 1
            await send(message)

        return counted

    def _control(self, scope: Scope) -> Callable[[Receive, Send], Awaitable[None]] | None:
        return {
            ("/standin/faults", "POST"): self._switch_on,
            ("/standin/faults", "DELETE"): self._switch_off,
            ("/standin/requests", "GET"): self._tell_requests,
            ("/standin/requests", "DELETE"): self._forget_requests,
        }.get((scope["path"], scope["method"]))

    async def _switch_on(self, receive: Receive, send: Send) -> None:
        try:
            self.add(msgspec.json.decode(await read_body(receive), type=Fault))
        except msgspec.MsgspecError as error:
            await answer_json(send, HTTPStatus.BAD_REQUEST, {"error": str(error)})
        else:
            await answer_json(send, HTTPStatus.OK, {"active": self.active})

    async def _switch_off(self, _receive: Receive, send: Send) -> None:
        self.clear()
        await answer_json(send, HTTPStatus.OK, {"active": []})

    async def _tell_requests(self, _receive: Receive, send: Send) -> None:
        rows = [{"path": path, "status": status, "count": n} for (path, status), n in sorted(self.requests.items())]
        await answer_json(send, HTTPStatus.OK, {"requests": rows})

    async def _forget_requests(self, _receive: Receive, send: Send) -> None:
        self.requests.clear()
        await answer_json(send, HTTPStatus.OK, {"requests": []})


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


def _replaying(body: bytes, receive: Receive) -> Receive:
    pending = [body]

    async def again() -> Message:
        if pending:
            return {"type": "http.request", "body": pending.pop(), "more_body": False}
        return await receive()

    return again


async def _swallow(_message: Message) -> None:
    """Take an answer and tell nobody."""


def _halving(send: Send) -> Send:
    async def half(message: Message) -> None:
        if message["type"] == "http.response.body":
            body = message.get("body", b"")
            message = {"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True}
        await send(message)

    return half


async def _hang_up(receive: Receive, send: Send) -> None:
    # ASGI has no way to hang up; uvicorn's `send` is a method of the object that holds the connection.
    cycle: Any = getattr(send, "__self__", None)
    with suppress(AttributeError):  # another server: it will answer 500, which is a fault as well
        cycle.transport.close()
        while (await receive())["type"] != "http.disconnect":
            pass
