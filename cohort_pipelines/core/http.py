"""HTTP in one module, so that a change of library is a change here.

The httpx interface over aiohttp's transport: httpx's own async transport costs 5.5 ms of CPU for a small request with
32 in flight, this one 0.65 ms (measured on loopback).
"""

import asyncio
import logging
import os
import zlib
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar
from urllib.request import getproxies, proxy_bypass

import aiohttp
import httpx
import msgspec
import tenacity
from aiohttp.http_exceptions import LineTooLong
from httpx_aiohttp import AiohttpTransport

from cohort_pipelines.core import clock
from cohort_pipelines.core.errors import CertificatesUnreadable, Transient

AsyncClient = httpx.AsyncClient
BasicAuth = httpx.BasicAuth
InvalidURL = httpx.InvalidURL
Response = httpx.Response
URL = httpx.URL

T = TypeVar("T")

NO_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding a body raises: it has another shape, is no JSON, is no Unicode, or is nested too deep."""

# httpx writes every URL into its log at INFO, and a URL may hold a key.
logging.getLogger("httpx").addFilter(lambda record: record.levelno >= logging.WARNING)

_HEADER_BYTES = 64 * 2**10
_LAST_PORT = 2**16 - 1
_GZIP = zlib.MAX_WBITS | 16
_OF_THE_BODY_AS_SENT = frozenset({b"content-encoding", b"content-length", b"transfer-encoding"})
_NEVER_SENT = (
    aiohttp.ClientConnectorError,
    aiohttp.ClientHttpProxyError,
    aiohttp.InvalidURL,
    httpx.UnsupportedProtocol,
    httpx.InvalidURL,
)


class NoAnswer(Exception):
    """A request got no complete answer. ``sent`` is False only when it surely never left."""

    def __init__(self, cause: str, *, sent: bool) -> None:
        super().__init__(cause)
        self.cause = cause
        self.sent = sent


class TooLarge(NoAnswer):
    """An answer, or a header of it, is larger than may be read; the next one will be too."""


class _ProxyUnusable(Exception):
    """A proxy that the environment names is none that can be used."""


class _Transport(AiohttpTransport):
    """aiohttp's transport, with the environment's proxies, and room for large response headers: its limit is 8 KB."""

    async def handle_async_request(self, request: httpx.Request) -> Response:
        self.proxy = _proxy_to(request.url)  # it is read before anything else can run
        request.headers.pop("proxy-authorization", None)  # of the hop before, which may have had a proxy
        if self.proxy and request.url.scheme == "http":  # else they belong to the tunnel alone
            request.headers.update(self.proxy.headers)
        return await super().handle_async_request(request)

    def get_client(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(limit=self.limits.max_connections or 0, ssl=self.ssl_context)
        return aiohttp.ClientSession(connector=connector, max_line_size=_HEADER_BYTES, max_field_size=_HEADER_BYTES)


def client(
    base_url: str = "", *, connections: int, headers: Mapping[str, str] | None = None, auth: BasicAuth | None = None
) -> AsyncClient:
    """Open a client with at most ``connections`` connections; limits of time and size are each request's own.

    It goes through the proxies that the environment names, and trusts the certificates of `SSL_CERT_FILE` or
    `SSL_CERT_DIR` where that is set.

    Raises:
        CertificatesUnreadable: that cannot be read.
    """
    folder = os.environ.get("SSL_CERT_DIR")
    if folder and not os.environ.get("SSL_CERT_FILE") and not Path(folder).is_dir():
        raise CertificatesUnreadable(NotADirectoryError.__name__)
    try:
        transport = _Transport(limits=httpx.Limits(max_connections=connections))
    except OSError as error:
        raise CertificatesUnreadable(type(error).__name__) from None
    return AsyncClient(
        base_url=base_url,
        headers={"accept-encoding": "gzip", **(headers or {})},
        auth=auth,
        timeout=None,
        transport=transport,
    )


def direct_to(host: str) -> dict[str, str]:
    """Return the environment variables by which no proxy is asked for ``host``, beside those that need none anyway."""
    hosts = ",".join(filter(None, [os.environ.get("no_proxy") or os.environ.get("NO_PROXY"), host]))
    return {"no_proxy": hosts, "NO_PROXY": hosts}


def _proxy_to(url: URL) -> httpx.Proxy | None:
    """Return the environment's proxy for ``url``, as curl chooses it; names in lower case come before upper case."""
    proxies = getproxies()
    proxy = (proxies.get(url.scheme) or proxies.get("all") or "").strip()
    port = url.port or (443 if url.scheme == "https" else 80)
    host = f"[{url.host}]" if ":" in url.host else url.host
    if not proxy or proxy_bypass(f"{host}:{port}"):
        return None
    try:
        found = httpx.Proxy(proxy if "://" in proxy else f"http://{proxy}")
    except (ValueError, httpx.InvalidURL):
        raise _ProxyUnusable from None
    if found.url.scheme not in {"http", "https"} or (found.url.port or 0) > _LAST_PORT:
        raise _ProxyUnusable
    login = b64encode(b":".join(found.raw_auth)).decode() if found.raw_auth else ""
    return httpx.Proxy(found.url, headers={"proxy-authorization": f"Basic {login}"} if login else None)


async def send(http: AsyncClient, request: httpx.Request, *, seconds: float, max_bytes: int) -> Response:
    """Send ``request`` and read the whole answer, of at most ``max_bytes`` unpacked, within ``seconds`` in total.

    Raises:
        TooLarge: the answer, or a header of it, is larger.
        NoAnswer: no complete answer came; ``sent`` tells whether the request may have taken effect.
    """
    if seconds <= 0:
        raise NoAnswer(TimeoutError.__name__, sent=False)
    try:
        async with asyncio.timeout(seconds), aclosing(await http.send(request, stream=True)) as response:
            unauthenticated = response.status_code == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED
            if unauthenticated and request.url.scheme == "http" and _proxy_to(request.url):  # else the server said so
                raise NoAnswer(_refused_by_proxy(response.status_code), sent=False)
            body = await _read(response, max_bytes)
    except _ProxyUnusable:
        unusable = "the proxy that the environment names is no http:// or https:// URL"
        raise NoAnswer(unusable, sent=False) from None
    except TimeoutError:
        raise NoAnswer(TimeoutError.__name__, sent=True) from None
    except (httpx.HTTPError, httpx.InvalidURL, aiohttp.ClientError, zlib.error) as error:
        # the transport calls every broken connection a ConnectTimeout, even one that broke after the request had left
        cause = error.__cause__ or error
        if isinstance(cause.__cause__, LineTooLong):
            too_large = f"a header of the answer is larger than {_HEADER_BYTES // 2**10} KB"
            raise TooLarge(too_large, sent=True) from None
        raise NoAnswer(_in_words(cause), sent=not isinstance(cause, _NEVER_SENT)) from None
    headers = [(name, value) for name, value in response.headers.raw if name.lower() not in _OF_THE_BODY_AS_SENT]
    return Response(response.status_code, headers=headers, content=body, request=request)


async def _read(response: Response, max_bytes: int) -> bytes:
    """Return the body, unpacked piece by piece, so that a small one cannot unpack to more than may be read."""
    body, gzip = bytearray(), None
    if response.headers.get("content-encoding", "identity").lower() not in {"identity", "gzip", "x-gzip"}:
        packed = "the answer is packed in a way that was not asked for"
        raise NoAnswer(packed, sent=True)
    if response.headers.get("content-encoding", "").lower() in {"gzip", "x-gzip"}:
        gzip = zlib.decompressobj(_GZIP)
    async for piece in response.aiter_raw():
        body += gzip.decompress(piece, max_bytes + 1 - len(body)) if gzip else piece
        if len(body) > max_bytes:
            too_large = f"the answer is larger than {max_bytes / 2**20:g} MB"
            raise TooLarge(too_large, sent=True)
        if gzip and gzip.unused_data:
            raise zlib.error
    if gzip and response.num_bytes_downloaded and not gzip.eof:
        raise zlib.error
    return bytes(body)


def _refused_by_proxy(status: int) -> str:
    wrong = (
        "its user name or password is missing or wrong" if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED else ""
    )
    return f"the proxy refused with HTTP {status}{wrong and f': {wrong}'}"


def _in_words(cause: BaseException) -> str:
    if isinstance(cause, aiohttp.ClientProxyConnectionError):
        return "no connection to the proxy that the environment names"
    if isinstance(cause, aiohttp.ClientHttpProxyError):
        return _refused_by_proxy(cause.status)
    return "the answer is damaged gzip" if isinstance(cause, zlib.error) else type(cause).__name__


def retry_after(response: Response) -> float | None:
    """Read the Retry-After header as seconds from now; None when it is missing or makes no sense.

    Both forms of RFC 9110 section 10.2.3 are read: delay-seconds and HTTP-date.
    """
    value = response.headers.get("retry-after", "").strip()
    if value.isdecimal():
        return float(value)
    at = _read_date(value)
    return None if at is None else max(0.0, (at - clock.now()).total_seconds())


def date_of(response: Response) -> datetime | None:
    """Read the Date header: what the server's clock said; None when it is missing or makes no sense."""
    return _read_date(response.headers.get("date", ""))


def _read_date(value: str) -> datetime | None:
    try:
        at = parsedate_to_datetime(value)
        at.astimezone(UTC)  # at either end of time there is no such moment
    except (ValueError, OverflowError):  # the second where its year is absurd
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


async def with_retries(
    call: Callable[[], Awaitable[T]], *, attempts: int, deadline: datetime, first_wait: float = 0.5
) -> T:
    """Await ``call()`` until it succeeds, at most ``attempts`` times, never waiting past ``deadline``.

    A :class:`~cohort_pipelines.core.errors.Transient` error is tried again after an exponential wait with jitter, or
    after its ``retry_after`` where that is longer. When tries or time are used up, the last error is raised as it is.
    """
    until = clock.monotonic() + (deadline - clock.now()).total_seconds()
    backoff = tenacity.wait_exponential_jitter(multiplier=first_wait, max=30)

    def wait(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        named = error.retry_after if isinstance(error, Transient) else None
        return max(backoff(state), named or 0.0)

    enough = tenacity.stop_after_attempt(attempts)

    def stop(state: tenacity.RetryCallState) -> bool:
        return enough(state) or until - clock.monotonic() <= state.upcoming_sleep

    retrying = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception(lambda error: isinstance(error, Transient)),
        wait=wait,
        stop=stop,
        reraise=True,
    )

    async def attempt() -> T:  # tenacity awaits only what it sees to be a coroutine function
        return await call()

    return await retrying(attempt)
