"""Faults that can be switched on by request, and a count of what was asked: a layer around each stand-in.

``POST /standin/faults`` with the fields of :class:`Fault` switches one on, ``DELETE`` switches all off.
``GET /standin/requests`` tells how often which path was answered with which status, ``DELETE`` forgets it.
``POST /standin/date`` with ``{"offset": seconds}`` sets the clock wrong that the ``Date`` header is read from.
"""

import asyncio
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from email.utils import formatdate
from http import HTTPStatus
from typing import Literal, TypeAlias

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cohort_pipelines.devtools.standins.asgi import answer, answer_json, hang_up, read_body, replaying, swallow

TWIST = "standin.twist"  # key of the scope; what the Mixpanel stand-in should do wrong

# From repeat_page on, the kinds are Mixpanel's own: wrong pages, and refusals with its bodies.
Kind: TypeAlias = Literal[
    "status",
    "delay",
    "cut",
    "lost_response",
    "half_body",
    "wrong_length",
    "slow_loris",
    "html",
    "echo",
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
    status: int = 503  # kinds status and echo
    headers: dict[str, str] = {}
    body: str = ""
    seconds: float = 1.0  # kind delay; kind slow_loris: between two bytes

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
    """ASGI layer that gets the server's own ``send``, since cutting a connection takes that.

    It also writes the ``Date`` header, ``date_offset`` seconds off; the server must not write one.
    """

    def __init__(self, app: ASGIApp, date_offset: float = 0.0) -> None:
        self.app = app
        self.date_offset = date_offset
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
            await self.app(scope, receive, self._leaving(scope["path"], send))

    async def _perhaps(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        body = await read_body(receive)
        fault = next((fault for fault in self.active if fault.meets(path, body)), None)
        leave = self._leaving(path, send)
        again = replaying(body, receive)
        match fault:
            case None:
                await self.app(scope, again, leave)
            case Fault(kind="status" | "echo" | "html"):
                await answer(leave, *_instead(fault, scope, body))
            case Fault(kind="delay"):
                await asyncio.sleep(fault.seconds)
                await self.app(scope, again, leave)
            case Fault(kind="cut"):
                self.requests[path, 0] += 1
                await hang_up(receive, send)
            case Fault(kind="lost_response"):
                self.requests[path, 0] += 1
                await self.app(scope, again, swallow)
                await hang_up(receive, send)
            case Fault(kind="half_body"):
                await self.app(scope, again, _halving(leave))
                await hang_up(receive, send)
            case Fault(kind="wrong_length"):
                rest: list[bytes] = []
                await self.app(scope, again, _understating(leave, rest))
                await hang_up(receive, send, b"".join(rest))
            case Fault(kind="slow_loris"):
                await self.app(scope, again, _dripping(leave, receive, fault.seconds))
            case _:
                await self.app({**scope, TWIST: fault.kind}, again, leave)

    def _leaving(self, path: str, send: Send) -> Send:
        async def dated_and_counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.requests[path, message["status"]] += 1
                date = formatdate(time.time() + self.date_offset, usegmt=True).encode()
                message = {**message, "headers": [(b"date", date), *message.get("headers", ())]}
            await send(message)

        return dated_and_counted

    def _control(self, scope: Scope) -> Callable[[Receive, Send], Awaitable[None]] | None:
        return {
            ("/standin/faults", "POST"): self._switch_on,
            ("/standin/faults", "DELETE"): self._switch_off,
            ("/standin/date", "POST"): self._set_date,
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

    async def _set_date(self, receive: Receive, send: Send) -> None:
        try:
            self.date_offset = msgspec.json.decode(await read_body(receive), type=dict[str, float])["offset"]
        except (msgspec.MsgspecError, KeyError):
            await answer_json(send, HTTPStatus.BAD_REQUEST, {"error": 'expected {"offset": seconds}'})
        else:
            await answer_json(send, HTTPStatus.OK, {"offset": self.date_offset})

    async def _tell_requests(self, _receive: Receive, send: Send) -> None:
        rows = [{"path": path, "status": status, "count": n} for (path, status), n in sorted(self.requests.items())]
        await answer_json(send, HTTPStatus.OK, {"requests": rows})

    async def _forget_requests(self, _receive: Receive, send: Send) -> None:
        self.requests.clear()
        await answer_json(send, HTTPStatus.OK, {"requests": []})


def _instead(fault: Fault, scope: Scope, body: bytes) -> tuple[int, bytes, dict[str, str]]:
    """Return status, body and headers of an answer that the application does not give."""
    match fault.kind:
        case "html":
            page = b"<!doctype html><title>Just a moment</title><p>We are checking your browser.</p>"
            return HTTPStatus.OK, page, {"content-type": "text/html"}
        case "echo":  # a careless server repeats what was asked, whatever is secret in it
            headers = b"".join(b"%s: %s\n" % header for header in scope["headers"])
            asked = b"Bad request: %s?%s\n%s\n%s" % (scope["raw_path"], scope["query_string"], headers, body)
            return fault.status, asked, {"content-type": "text/plain"}
        case _:
            return fault.status, fault.body.encode(), fault.headers


def _halving(send: Send) -> Send:
    async def half(message: Message) -> None:
        if message["type"] == "http.response.body":
            body = message.get("body", b"")
            message = {"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True}
        await send(message)

    return half


def _understating(send: Send, rest: list[bytes]) -> Send:
    """Promise half of a body that is sent as one piece, and send that half; what must follow it goes to ``rest``."""
    promised = 0

    async def understated(message: Message) -> None:
        nonlocal promised
        if message["type"] == "http.response.start":
            headers = [(name, value) for name, value in message["headers"] if name != b"content-length"]
            promised = sum(int(value) for name, value in message["headers"] if name == b"content-length") // 2
            message = {**message, "headers": [*headers, (b"content-length", str(promised).encode())]}
        else:
            rest.append(message["body"][promised:])
            message = {**message, "body": message["body"][:promised]}
        await send(message)

    return understated


def _dripping(send: Send, receive: Receive, seconds: float) -> Send:
    """Send bodies byte by byte, until the client has enough of it."""

    async def drip(message: Message) -> None:
        body = message.get("body", b"")
        for number in range(len(body)):
            await send({"type": "http.response.body", "body": body[number : number + 1], "more_body": True})
            with suppress(TimeoutError):
                await asyncio.wait_for(receive(), seconds)  # the only thing to come is that the client hung up
                return
        await send({**message, "body": b""} if body else message)

    return drip
