"""A server that answers with any bytes at all, for what no well-behaved server can be made to do."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from unittest.mock import patch

from cohort_pipelines.core import clock


@dataclass(frozen=True, slots=True)
class Asked:
    head: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Raw:
    """Bytes to answer with; one by one if ``trickle`` seconds lie between them; ``hang_up`` cuts afterwards."""

    content: bytes
    hang_up: bool = False
    trickle: float = 0.0


Reply = Callable[[Asked], Awaitable[Raw]]


def raw(
    status: int = 200, body: bytes = b"", *, length: int | None = None, headers: Mapping[str, str] | None = None
) -> Raw:
    lines = [f"HTTP/1.1 {status} Odd", f"content-length: {len(body) if length is None else length}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return Raw("\r\n".join([*lines, "", ""]).encode() + body, hang_up=length is not None)


async def taken(asked: Asked) -> Raw:
    """Answer a cohort message as a receiver does that took it."""
    return raw(200, json.dumps({"action": json.loads(asked.body)["action"], "status": "success"}).encode())


def in_turn(*answers: Raw | Reply) -> Reply:
    """Answer with each once, and with the last for ever."""
    left = list(answers)

    async def reply(asked: Asked) -> Raw:
        answer = left.pop(0) if len(left) > 1 else left[0]
        return answer if isinstance(answer, Raw) else await answer(asked)

    return reply


@dataclass
class OddServer:
    reply: Reply
    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    serving: set[asyncio.Task[None]] = field(default_factory=set)

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.serving.add(asyncio.create_task(self.serve(reader, writer)))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            try:
                while await self.answer_one(reader, writer):
                    pass
            finally:
                writer.close()
                await writer.wait_closed()

    async def answer_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        lengths = [line.split(":")[1] for line in head.lower().splitlines() if line.startswith("content-length:")]
        asked = Asked(head, await reader.readexactly(int(lengths[0]) if lengths else 0))
        self.asked.append(asked)
        answer = await self.reply(asked)
        step = 1 if answer.trickle else max(len(answer.content), 1)
        for start in range(0, len(answer.content), step):
            writer.write(answer.content[start : start + step])
            await writer.drain()
            await asyncio.sleep(answer.trickle)
        return not answer.hang_up


@asynccontextmanager
async def odd_server(reply: Reply) -> AsyncIterator[OddServer]:
    server = OddServer(reply)
    async with await asyncio.start_server(server.accept, "127.0.0.1", 0) as listening:
        host, port = listening.sockets[0].getsockname()
        server.url = f"http://{host}:{port}"
        yield server
        for task in server.serving:
            task.cancel()
        await asyncio.gather(*server.serving, return_exceptions=True)


def within(seconds: float = 20.0) -> datetime:
    return clock.now() + timedelta(seconds=seconds)


def tried_once() -> AbstractContextManager[object]:
    """Let no request be tried again, however long there is: no machine is then too slow for the first try."""
    return patch("cohort_pipelines.destinations.exchange.ATTEMPTS", 1)
