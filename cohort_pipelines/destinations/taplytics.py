"""Taplytics: a cohort is a custom-data field, true for those who are in and false for those who left.

`POST {url}/v2/users/` takes one user a request and merges `custom_data` into what the user has, so a leaver must be
told `false`. Sources: docs.taplytics.com/reference/create-or-update-a-user-1, .../reference/introduction. No bulk call
and no rate limit is documented, so the pace is a bounded number of requests in flight.
"""

import asyncio
import unicodedata
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any

import msgspec

from cohort_pipelines.core import clock
from cohort_pipelines.core.changes import NamedCohort, Operation
from cohort_pipelines.core.errors import (
    DestinationInvalid,
    PartnerKeyRefused,
    PartnerOutcomeUnknown,
    PartnerRateLimited,
    PartnerRequestRejected,
    PartnerUnreachable,
)
from cohort_pipelines.core.http import NO_JSON, URL, AsyncClient, Response, client
from cohort_pipelines.destinations.exchange import (
    REQUEST_SECONDS,
    again_after,
    checked_header,
    checked_url,
    exchange,
    host_of,
    insist,
    require_success,
)
from cohort_pipelines.destinations.wire import Answer, Session

TAPLYTICS_URL = "https://api.taplytics.com"
TAPLYTICS_HEADER = "x-access-token"

_NAME = "Taplytics"
_CHUNK_ROWS = 250
_NOT_SENT = "not sent, since the time was over or Taplytics failed for others of the same chunk"


class Taplytics:
    """A Taplytics project; the target's name is the custom-data field that its segment filters on.

    Args:
        key: the project's REST API key; never shown.
        url: the API's base URL.
        header: the header that carries the key.
        concurrency: requests in flight at once, over all chunks.
        account: tells apart projects behind one host.

    Raises:
        DestinationInvalid: a setting cannot be sent as it is.
    """

    wire: str = "taplytics"
    cohort: NamedCohort | None = None
    workers: int = 2  # the next chunk fills the places that the stragglers of the last one leave
    judges_rows: bool = True
    assumed_per_second: float = 100.0  # 32 requests in flight that take 0.3 s each
    findable: bool = False  # a field is there once a user has it

    def __init__(
        self,
        *,
        key: str,
        url: str = TAPLYTICS_URL,
        header: str = TAPLYTICS_HEADER,
        concurrency: int = 32,
        account: str = "",
    ) -> None:
        if concurrency < 1:
            raise DestinationInvalid(_NAME, "concurrency must be at least 1")
        self._url = checked_url(_NAME, f"{url.rstrip('/')}/v2/users/")
        self.host = host_of(self._url)
        self.account = account
        self.chunk_rows = max(_CHUNK_ROWS, concurrency)
        self._concurrency = concurrency
        self._headers = {"content-type": "application/json", **checked_header(_NAME, header, key)}

    def count_requests(self, adds: int, removals: int, *, first: bool) -> int:  # noqa: ARG002  a field needs no making
        """Count one for each user."""
        return adds + removals

    @asynccontextmanager
    async def open(self, target: str) -> AsyncIterator[Session]:
        """Open a session that sets the custom-data field called ``target``."""
        async with client(connections=self._concurrency, headers=self._headers) as http:
            yield _Flags(http, self._url, target, asyncio.Semaphore(self._concurrency))

    async def check(self, target: str | None) -> str:  # noqa: ARG002  a field exists once a user has it
        """Ask without a user id: 400 (a parameter is missing) means that the key was accepted.

        That Taplytics looks at the key (401) before the parameters is its documented list of statuses read in the
        usual order; it was not verified against the live service.

        Raises:
            PartnerKeyRefused, PartnerRequestRejected, PartnerUnreachable, PartnerOutcomeUnknown: why it is not.
        """
        deadline = clock.now() + timedelta(seconds=REQUEST_SECONDS)
        async with client(connections=1, headers=self._headers) as http:
            response = await exchange(http, _NAME, self._url, body=b"{}", deadline=deadline)
        if response.status_code != HTTPStatus.BAD_REQUEST:
            require_success(_NAME, response)
        return "Connected"


class _Custom(msgspec.Struct):
    """What is read of the user object that Taplytics answers with."""

    custom_data: dict[str, Any]
    user_id: str | None = None
    error: Any = None
    success: bool = True


_decoder = msgspec.json.Decoder(_Custom)


@dataclass(slots=True)
class _Chunk:
    """What is known of a chunk so far."""

    rows: int
    rejected: dict[int, PartnerRequestRejected] = field(default_factory=dict)
    unknown: dict[int, str] = field(default_factory=dict)
    not_sent: dict[int, str] = field(default_factory=dict)
    doubtful: set[int] = field(default_factory=set)
    requests: int = 0
    again_after: float | None = 0.0
    over: bool = False

    def refusal(self) -> PartnerRequestRejected | None:
        """Return why the chunk is refused as a whole: every row alike, or the plan, which speaks for those not sent."""
        refusals = list(self.rejected.values())
        statuses = {refusal.status for refusal in refusals}
        spoken_for = len(self.not_sent) if statuses == {HTTPStatus.PAYMENT_REQUIRED} else 0
        if len(statuses) != 1 or len(refusals) + spoken_for < self.rows:
            return None
        refusals[0].requests = self.requests
        return refusals[0]

    def answer(self) -> Answer:
        """Return what became of each row."""
        refused = {row: f"HTTP {refusal.status}" for row, refusal in self.rejected.items()}
        after = self.again_after if self.not_sent else None
        return Answer(refused, self.unknown, self.not_sent, after, frozenset(self.doubtful), self.requests)


class _Flags:
    """A session that sets one field, user by user."""

    def __init__(self, http: AsyncClient, url: URL, name: str, slots: asyncio.Semaphore) -> None:
        self._http = http
        self._url = url
        self._field = name
        self._slots = slots

    async def establish(self, deadline: datetime) -> int:  # noqa: ARG002  nothing has to exist beforehand
        """Make no request: a field exists once a user has it."""
        return 0

    async def find(self, deadline: datetime) -> int:  # noqa: ARG002  likewise
        """Make no request: a field that no user has is as good as one that was deleted."""
        return 0

    async def send(
        self,
        operation: Operation,
        ids: Sequence[str],
        page: int,  # noqa: ARG002  users are told apart by themselves
        pages: int,  # noqa: ARG002
        deadline: datetime,
    ) -> Answer:
        """Set the field for each of ``ids``; every row is judged alone.

        Once a row gets no clear answer after its retries, or is only rate limited, or the plan refuses (402), the rows
        not yet started are left out, as not sent, which spares a partner that is down or busy.

        Raises:
            PartnerKeyRefused: at once. What this chunk had in flight is cut off, and which of its rows were
                acknowledged before is not told: all of them count as unknown.
            PartnerRequestRejected: every row that was sent was refused with the same status, so none took effect.
        """
        chunk = _Chunk(len(ids))
        refusal: BaseException | None = None
        try:
            async with asyncio.TaskGroup() as rows:
                for row, user_id in enumerate(ids):
                    rows.create_task(self._set(chunk, row, user_id, operation is Operation.ADD, deadline))
        except* PartnerKeyRefused as group:
            refusal = group.exceptions[0]
        if isinstance(refusal, PartnerKeyRefused):
            refusal.requests = chunk.requests
        if refusal := refusal or chunk.refusal():
            raise refusal
        return chunk.answer()

    async def _set(self, chunk: _Chunk, row: int, user_id: str, member: bool, deadline: datetime) -> None:
        flag = {self._field: member}
        body = msgspec.json.encode({"user_id": user_id, "custom_data": flag})

        async def attempt() -> None:
            chunk.requests += 1
            response = await exchange(self._http, _NAME, self._url, body=body, deadline=deadline)
            require_success(_NAME, response)
            _require_user(response, user_id, flag)

        async with self._slots:
            if chunk.over or clock.now() >= deadline:
                chunk.not_sent[row] = _NOT_SENT
                return
            try:
                if await insist(_NAME, attempt, deadline):
                    chunk.doubtful.add(row)
            except PartnerRequestRejected as refusal:
                chunk.rejected[row] = refusal
                chunk.over |= refusal.status == HTTPStatus.PAYMENT_REQUIRED
            except PartnerRateLimited as busy:
                chunk.not_sent[row], chunk.over = str(busy), True
                if chunk.again_after is not None:
                    chunk.again_after = max(chunk.again_after, again_after(busy))
            except PartnerUnreachable as down:
                chunk.not_sent[row], chunk.over, chunk.again_after = str(down), True, None
            except PartnerOutcomeUnknown as lost:
                chunk.unknown[row], chunk.over, chunk.again_after = str(lost), True, None


def _require_user(response: Response, user_id: str, flag: Mapping[str, bool]) -> None:
    """Refuse a success whose body is not what is documented: the user, with the merged custom data.

    Source: the module's docstring.

    Raises:
        PartnerOutcomeUnknown: something other than Taplytics answered, or the flag was not stored.
    """
    try:
        user = _decoder.decode(response.content)
    except NO_JSON:
        raise PartnerOutcomeUnknown(_NAME, f"HTTP {response.status_code} with no user object") from None
    stored = all(user.custom_data.get(name) is member for name, member in flag.items())
    if user.error or not user.success or not stored or not _may_be(user_id, user.user_id):
        raise PartnerOutcomeUnknown(_NAME, "it answered with another user, or one who does not have what was sent")


def _may_be(user_id: str, answered: str | None) -> bool:
    """Say whether an answer may be about ``user_id``: Taplytics may know the user under another spelling."""
    return answered is None or unicodedata.normalize("NFC", answered).casefold() == (
        unicodedata.normalize("NFC", user_id).casefold()
    )
