"""One request to a partner, within its time, and what its status means: the same for every destination."""

import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from urllib.parse import urlsplit

from cohort_pipelines.core import clock
from cohort_pipelines.core.errors import (
    DestinationInvalid,
    PartnerError,
    PartnerKeyRefused,
    PartnerOutcomeUnknown,
    PartnerRateLimited,
    PartnerRequestRejected,
    PartnerUnreachable,
)
from cohort_pipelines.core.http import URL, AsyncClient, NoAnswer, Response, retry_after, send, with_retries


async def _always() -> None:
    """Permit every request."""


_permission: ContextVar[Callable[[], Awaitable[None]]] = ContextVar("permission", default=_always)
REQUEST_SECONDS = 30.0  # in total; far below the ten minutes after which delivery takes a request to have settled
ANSWER_BYTES = 2**20  # a full error page fits in; what a wire documents is far smaller
ATTEMPTS = 5
_UNNAMED_WAIT = 5.0  # seconds, on top of those between the tries
_LONGEST_UNNAMED = 30.0
_LONGEST_WAIT = 86_400.0  # as good as for ever

_HOST = re.compile(r"[a-z0-9._-]+|[0-9a-f:.]+")  # the second is an IPv6 address
_KEY_REFUSED = frozenset({401, 403})
_MAY_PASS = frozenset({408, 425})
_SERVER_ERROR = 500


@contextmanager
def only_while(permitted: Callable[[], Awaitable[None]]) -> Iterator[None]:
    """Await ``permitted()`` right before each request of what is done within, also in tasks; it raises to prevent one.

    A request can wait long for its turn after it was decided on, and be tried again.
    """
    token = _permission.set(permitted)
    try:
        yield
    finally:
        _permission.reset(token)


async def exchange(
    http: AsyncClient, partner: str, url: URL, *, body: bytes = b"", method: str = "POST", deadline: datetime
) -> Response:
    """Send one request and return its whole answer, whatever its status.

    Raises:
        PartnerUnreachable: no connection was made.
        PartnerRateLimited: no time was left, so nothing was sent.
        PartnerOutcomeUnknown: no complete answer of at most :data:`ANSWER_BYTES` came before ``deadline`` or within
            :data:`REQUEST_SECONDS`.
    """
    await _permission.get()()
    seconds = min(REQUEST_SECONDS, (deadline - clock.now()).total_seconds())
    if seconds <= 0:
        raise PartnerRateLimited(partner, "no time was left to ask", 0.0)
    try:
        request = http.build_request(method, url, content=body)
        return await send(http, request, seconds=seconds, max_bytes=ANSWER_BYTES)
    except NoAnswer as gone:
        lost = PartnerOutcomeUnknown if gone.sent else PartnerUnreachable
        raise lost(partner, gone.cause) from None


async def insist(partner: str, ask: Callable[[], Awaitable[None]], deadline: datetime) -> bool:
    """Await ``ask()``, one try of a request, until there is an answer that counts.

    Returns whether the acknowledgement is doubtful: an earlier try got no clear answer and may still land after it.

    Raises:
        PartnerKeyRefused: the key is refused.
        PartnerRequestRejected: the request was refused, and no earlier try of it can have taken effect.
        PartnerRateLimited: it was rate limited at the last try, and no earlier one can have taken effect.
        PartnerUnreachable: no connection was made at the last try, and no earlier one can have taken effect.
        PartnerOutcomeUnknown: a try got no clear answer, and none after it an acknowledgement.
    """
    doubtful = False

    async def attempt() -> None:
        nonlocal doubtful
        try:
            await ask()
        except PartnerOutcomeUnknown as unclear:
            doubtful |= not isinstance(unclear, PartnerRateLimited)
            raise

    try:
        await with_retries(attempt, attempts=ATTEMPTS, deadline=deadline)
    except PartnerRequestRejected as refusal:
        if doubtful:
            raise _unclear(partner, f"HTTP {refusal.status}") from refusal
        raise
    except (PartnerRateLimited, PartnerUnreachable) as held_up:
        if doubtful:
            raise _unclear(partner, type(held_up).__name__) from held_up
        raise
    return doubtful


def again_after(rate_limited: PartnerRateLimited) -> float:
    """Return for how many seconds to leave a partner alone that only turned requests away."""
    return _UNNAMED_WAIT if rate_limited.retry_after is None else rate_limited.retry_after


@dataclass(slots=True)
class BackingOff:
    """How long to leave a partner alone that turns requests away: longer with each time in a row, whatever it names."""

    times: int = 0

    def rate_limited(self, seconds: float) -> float:
        """Return for how many seconds to ask for nothing; the partner named so many ``seconds``."""
        least = min(2.0 ** (self.times - 1), _LONGEST_UNNAMED) if self.times else 0.0
        self.times = min(self.times + 1, 10)  # far beyond where it matters
        return min(max(seconds, least), _LONGEST_WAIT)

    def taken(self) -> None:
        """Take note that something was not rate limited."""
        self.times = 0


def _unclear(partner: str, last: str) -> PartnerOutcomeUnknown:
    return PartnerOutcomeUnknown(partner, f"{last}, after a try that may have taken effect")


def failure(partner: str, status: int, wait: float | None = None) -> PartnerError:
    """Return the error that a status other than 2xx stands for; ``wait`` is its Retry-After in seconds.

    A redirect counts as refused: none is followed, since a credential must not travel to another host.
    """
    if status in _KEY_REFUSED:
        return PartnerKeyRefused(partner, status)
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return PartnerRateLimited(partner, f"HTTP {status}", wait)
    if status in _MAY_PASS or status >= _SERVER_ERROR:
        return PartnerOutcomeUnknown(partner, f"HTTP {status}", wait)
    return PartnerRequestRejected(partner, status)


def require_success(partner: str, response: Response) -> None:
    """Refuse every status but 2xx, and of these the one that says that the answer is only a part.

    Raises:
        PartnerKeyRefused, PartnerRequestRejected, PartnerOutcomeUnknown: as :func:`failure` tells them apart.
    """
    if not response.is_success:
        raise failure(partner, response.status_code, retry_after(response))
    if response.status_code == HTTPStatus.PARTIAL_CONTENT:
        raise PartnerOutcomeUnknown(partner, f"HTTP {response.status_code}")


def checked_url(partner: str, url: str) -> URL:
    """Return ``url``, read once; no client will have to quote it in an error of its own.

    Raises:
        DestinationInvalid: ``url`` is no plain http or https URL, or carries a credential before its host.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port  # reading the port checks it
    except ValueError:
        raise DestinationInvalid(partner, "the URL cannot be read") from None
    if parts.scheme not in {"http", "https"} or not _HOST.fullmatch(host):
        raise DestinationInvalid(partner, "the URL must start with https:// or http:// and name a host")
    if "@" in parts.netloc:
        raise DestinationInvalid(partner, "the URL must not carry a user name or password; there are settings for them")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise DestinationInvalid(partner, "the URL holds characters that have to be percent-encoded")
    return URL(url)


def host_of(url: URL) -> str:
    """Return host and port of ``url``, which may hold a key anywhere else."""
    return url.netloc.decode("ascii")


def checked_header(partner: str, name: str, value: str) -> dict[str, str]:
    """Return one header, checked so that no client has to quote the value in an error of its own.

    Raises:
        DestinationInvalid: name or value is empty or holds what a header cannot carry.
    """
    if not name or not name.isascii() or not name.replace("-", "").replace("_", "").isalnum():
        raise DestinationInvalid(partner, "the header's name may hold letters, digits, - and _ only")
    if not value or not value.isascii() or not value.isprintable():
        raise DestinationInvalid(
            partner, f"the value of the header {name} is empty or holds characters it cannot carry"
        )
    return {name: value}
