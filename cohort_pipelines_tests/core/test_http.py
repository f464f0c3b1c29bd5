import asyncio
import gzip
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from cohort_pipelines.core import http
from cohort_pipelines.devtools.standins.server import in_thread
from cohort_pipelines.devtools.standins.settings import Settings
from cohort_pipelines_tests.destinations.odd_server import Raw, Reply, in_turn, odd_server, raw

ASK = """
import asyncio, logging, sys
from cohort_pipelines.core import http

async def ask():
    async with http.client(connections=1) as client:
        response = await http.send(client, client.build_request("GET", sys.argv[1]), seconds=10, max_bytes=1 << 20)
        print(response.status_code)

logging.basicConfig(level=logging.DEBUG)
asyncio.run(ask())
"""

KIB, MIB = 2**10, 2**20


def test_no_url_is_logged_whichever_room_asks() -> None:
    with in_thread(Settings(members=10)) as standins:
        url = f"{standins.mixpanel_url}/standin/requests?key=topsecret"
        asked = subprocess.run([sys.executable, "-c", ASK, url], check=True, capture_output=True, text=True)

    assert asked.stdout == "200\n"
    assert "topsecret" not in asked.stderr


async def get(url: str, *, method: str = "GET", seconds: float = 20.0, max_bytes: int = MIB) -> http.Response:
    async with http.client(connections=1) as client:
        return await http.send(client, client.build_request(method, url), seconds=seconds, max_bytes=max_bytes)


def answered(answer: Raw, *, method: str = "GET", max_bytes: int = MIB) -> http.Response:
    async def ask(reply: Reply) -> http.Response:
        async with odd_server(reply) as server:
            return await get(server.url, method=method, max_bytes=max_bytes)

    return asyncio.run(ask(in_turn(answer)))


def packed(body: bytes) -> Raw:
    return raw(body=gzip.compress(body), headers={"content-encoding": "gzip"})


@pytest.mark.parametrize("answer", [raw(body=b"a" * KIB), packed(b"a" * KIB)])
def test_an_answer_as_large_as_its_limit_is_read(answer: Raw) -> None:
    assert answered(answer, max_bytes=KIB).content == b"a" * KIB


@pytest.mark.parametrize("answer", [raw(body=b"a" * (KIB + 1)), packed(b"a" * (KIB + 1))])
def test_a_larger_answer_than_the_limit_may_have_taken_effect(answer: Raw) -> None:
    with pytest.raises(http.NoAnswer, match=r"the answer is larger than 0\.00097") as too_large:
        answered(answer, max_bytes=KIB)

    assert too_large.value.sent


@asynccontextmanager
async def endless(head: bytes, chunk: bytes) -> AsyncIterator[str]:
    """Serve ``head``, and then ``chunk`` over and over until the client hangs up."""
    hung_up = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head)
        try:
            while True:
                writer.write(chunk)
                await writer.drain()
        except ConnectionError:
            hung_up.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        yield f"http://{host}:{port}"
        await asyncio.wait_for(hung_up.wait(), 10)


def gigabyte_of_zeros() -> bytes:
    """Pack 16 MiB, and repeat them: each piece ends on a byte and needs nothing of the one before."""
    packer = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    head = packer.compress(b"") + packer.flush(zlib.Z_FULL_FLUSH)
    piece = packer.compress(bytes(16 * MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    return head + piece * 64


BODY_WITHOUT_END = b"HTTP/1.1 200 OK\r\n\r\n"
CHUNKS_WITHOUT_END = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("head", "chunk"),
    [
        (BODY_WITHOUT_END, bytes(64 * KIB)),
        (CHUNKS_WITHOUT_END, b"10000\r\n" + bytes(64 * KIB) + b"\r\n"),
    ],
)
def test_an_endless_answer_is_cut_at_the_limit(head: bytes, chunk: bytes) -> None:
    async def ask() -> None:
        async with endless(head, chunk) as url:
            await get(url, max_bytes=4 * MIB)

    with pytest.raises(http.NoAnswer, match="the answer is larger than 4 MB"):
        asyncio.run(ask())


def test_a_small_body_that_unpacks_to_a_gigabyte_takes_no_memory() -> None:
    bomb = raw(body=gigabyte_of_zeros(), headers={"content-encoding": "gzip"})
    tracemalloc.start()
    try:
        with pytest.raises(http.NoAnswer, match="the answer is larger than 1 MB"):
            answered(bomb)
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "answer",
    [
        raw(body=b"half", length=100),
        Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", hang_up=True),
        Raw(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n", hang_up=True),
        Raw(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", hang_up=True),
        Raw(b"HTTP/1.1 200 OK\r\nx-head", hang_up=True),
        raw(body=gzip.compress(b"whole")[:-1], headers={"content-encoding": "gzip"}),
        raw(body=b"no gzip", headers={"content-encoding": "gzip"}),
        raw(body=gzip.compress(b"whole") + b"more", headers={"content-encoding": "gzip"}),
    ],
)
def test_an_answer_cut_short_is_none(answer: Raw) -> None:
    with pytest.raises(http.NoAnswer) as cut:
        answered(answer)

    assert cut.value.sent


def test_an_answer_to_head_that_is_cut_in_its_headers_is_none() -> None:
    with pytest.raises(http.NoAnswer):
        answered(Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n", hang_up=True), method="HEAD")


def test_a_packed_answer_without_a_body_is_read() -> None:
    assert answered(raw(204, headers={"content-encoding": "gzip"})).content == b""


def test_a_header_of_64_kib_is_read() -> None:
    value = "a" * (64 * KIB - len("x-large"))

    assert answered(raw(headers={"x-large": value})).headers["x-large"] == value


def test_a_larger_header_is_a_sentence_of_its_own() -> None:
    with pytest.raises(http.NoAnswer, match="a header of the answer is larger than 64 KB") as too_large:
        answered(raw(headers={"x-large": "a" * 72 * KIB}))

    assert too_large.value.sent


def test_no_request_is_begun_when_no_time_is_left() -> None:
    async def ask() -> int:
        async with odd_server(in_turn(raw())) as server:
            with pytest.raises(http.NoAnswer) as late:
                await get(server.url, seconds=0.0)
            assert not late.value.sent
            return len(server.asked)

    assert asyncio.run(ask()) == 0


def test_where_no_proxy_is_asked_407_is_an_answer_like_any_other() -> None:
    assert answered(raw(407)).status_code == 407
