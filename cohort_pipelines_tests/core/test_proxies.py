"""Real proxies and private certificates on loopback, named by the environment."""

import asyncio
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trustme

from cohort_pipelines.core import http
from cohort_pipelines.core.errors import CertificatesUnreadable, PartnerUnreachable
from cohort_pipelines.destinations import webhook

LOGIN = "Basic " + b64encode(b"ann:s%cret").decode()
VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    return authority


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(handle: Handler, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Let ``handle`` serve each connection, and end with all of them closed; yield the port."""
    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(asyncio.IncompleteReadError, OSError):
                await handle(reader, writer)
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.create_task(serve(reader, writer)))

    async with await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context) as server:
        yield server.sockets[0].getsockname()[1]
        await asyncio.gather(*serving)


@asynccontextmanager
async def secure_server(authority: trustme.CA, status: int = 200) -> AsyncIterator[int]:
    """Serve ``ok`` under a certificate of ``authority``; yield the port."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 %d Said\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok" % status)
        await writer.drain()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "mixpanel.test").configure_cert(context)
    async with listening(handle, context) as port:
        yield port


@asynccontextmanager
async def proxy(heads: list[str], to: int = 0, status: int = 200) -> AsyncIterator[str]:
    """Tunnel every CONNECT to the port ``to``, or answer ``status``; yield host and port."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        tunnels = status == 200 and heads[-1].startswith("CONNECT")
        writer.write(b"HTTP/1.1 %d Said\r\n%s\r\n" % (status, b"" if tunnels else b"content-length: 0\r\n"))
        await writer.drain()
        if tunnels:
            there, beyond = await asyncio.open_connection("127.0.0.1", to)
            await asyncio.gather(pump(reader, beyond), pump(there, writer))
            with suppress(OSError):
                await beyond.wait_closed()

    async with listening(handle) as port:
        yield f"127.0.0.1:{port}"


async def get(url: str) -> bytes:
    async with http.client(connections=1) as client:
        return (await http.send(client, client.build_request("GET", url), seconds=10, max_bytes=1_000)).content


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
@pytest.mark.parametrize("scheme", ["http://", ""])
def test_https_goes_through_the_proxy_with_its_credentials(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, variable: str, scheme: str
) -> None:
    heads: list[str] = []

    async def ask() -> bytes:
        async with secure_server(authority) as port, proxy(heads, to=port) as address:
            monkeypatch.setenv(variable, f"{scheme}ann:s%25cret@{address}")
            return await get("https://mixpanel.test/path?key=topsecret")

    assert asyncio.run(ask()) == b"ok"
    (head,) = heads
    assert head.startswith("CONNECT mixpanel.test:443 ")
    assert f"proxy-authorization: {LOGIN}".lower() in head.lower()
    assert "topsecret" not in head


@pytest.mark.parametrize("named", ["127.0.0.1", "*", "other.test, 127.0.0.1"])
@pytest.mark.parametrize("variable", ["NO_PROXY", "no_proxy"])
def test_what_no_proxy_names_is_reached_directly(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, variable: str, named: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv(variable, named)

    async def ask() -> bytes:
        async with secure_server(authority) as port:
            return await get(f"https://127.0.0.1:{port}/")

    assert asyncio.run(ask()) == b"ok"


def test_http_is_asked_of_the_proxy_for_http(monkeypatch: pytest.MonkeyPatch) -> None:
    heads: list[str] = []

    async def ask() -> bytes:
        async with proxy(heads) as address:
            monkeypatch.setenv("HTTP_PROXY", f"http://ann:s%25cret@{address}")
            return await get("http://receiver.test/hook")

    assert asyncio.run(ask()) == b""
    assert heads[0].startswith("GET http://receiver.test/hook HTTP/1.1")
    assert f"proxy-authorization: {LOGIN}".lower() in heads[0].lower()


def test_the_proxys_credentials_go_to_no_other_host(monkeypatch: pytest.MonkeyPatch) -> None:
    heads: list[str] = []

    async def ask() -> None:
        async with proxy(heads) as address, proxy(heads) as direct, http.client(connections=1) as client:
            monkeypatch.setenv("HTTP_PROXY", f"http://ann:s%25cret@{address}")
            monkeypatch.setenv("NO_PROXY", "127.0.0.1")
            request = client.build_request("GET", "http://receiver.test/hook")
            await http.send(client, request, seconds=10, max_bytes=1_000)
            request.url = http.URL(f"http://{direct}/hook")  # as where a redirect leads there
            await http.send(client, request, seconds=10, max_bytes=1_000)

    asyncio.run(ask())
    assert ["proxy-authorization" in head.lower() for head in heads] == [True, False]


def test_a_407_that_comes_through_a_tunnel_is_the_servers_own(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask() -> int:
        async with secure_server(authority, status=407) as port, proxy([], to=port) as address:
            monkeypatch.setenv("HTTPS_PROXY", f"http://{address}")
            async with http.client(connections=1) as client:
                request = client.build_request("GET", "https://mixpanel.test/")
                return (await http.send(client, request, seconds=10, max_bytes=1_000)).status_code

    assert asyncio.run(ask()) == 407


@pytest.mark.parametrize("url", ["https://receiver.test/", "http://receiver.test/"])
def test_a_proxy_that_refuses_is_blamed_without_its_credentials(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    async def check() -> None:
        async with proxy([], status=407) as address:
            for variable in ("HTTP_PROXY", "HTTPS_PROXY"):
                monkeypatch.setenv(variable, f"http://ann:topsecret@{address}")
            await webhook(url=url).check(None)

    with pytest.raises(PartnerUnreachable, match="the proxy refused with HTTP 407: its user name or password") as gone:
        asyncio.run(check())

    assert "topsecret" not in f"{gone.value} {gone.value!r}"


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("http://ann:topsecret@127.0.0.1:9", "no connection to the proxy"),
        ("socks5://ann:topsecret@127.0.0.1:9", "is no http:// or https:// URL"),
        ("http://ann:topsecret@127.0.0.1:port", "is no http:// or https:// URL"),
        ("http://ann:topsecret@127.0.0.1:99999", "is no http:// or https:// URL"),
        (" http://ann:topsecret@127.0.0.1:9\n", "no connection to the proxy"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_named_and_nothing_was_sent(
    monkeypatch: pytest.MonkeyPatch, named: str, said: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", named)

    with pytest.raises(http.NoAnswer, match=said) as gone:
        asyncio.run(get("https://mixpanel.test/"))

    assert not gone.value.sent
    assert "topsecret" not in str(gone.value)


def test_a_private_authority_is_trusted_only_where_it_is_named(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask() -> bytes:
        async with secure_server(authority) as port:
            return await get(f"https://127.0.0.1:{port}/")

    assert asyncio.run(ask()) == b"ok"
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(http.NoAnswer, match="Certificate") as distrusted:
        asyncio.run(ask())
    assert not distrusted.value.sent


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_certificates_that_cannot_be_read_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv(variable, str(tmp_path / "absent.pem"))

    with pytest.raises(CertificatesUnreadable, match=variable):
        http.client(connections=1)


def test_the_stand_ins_are_reached_directly_beside_what_was_named_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "internal.test")

    assert http.direct_to("127.0.0.1") == dict.fromkeys(("no_proxy", "NO_PROXY"), "internal.test,127.0.0.1")
