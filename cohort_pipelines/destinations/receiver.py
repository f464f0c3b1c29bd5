"""A receiver of Mixpanel's cohort messages: what Apptimize's `http` delivery and the webhook have in common.

Mixpanel tells receivers to replace what they hold on `members`, but those that could be read (Flagsmith, Usertour)
only add. So an overwrite goes out as `add_members` and `remove_members`; `members` is sent once and empty, to make
the target exist.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil
from uuid import uuid4

from cohort_pipelines.core import clock
from cohort_pipelines.core.changes import NamedCohort, Operation
from cohort_pipelines.core.errors import (
    PartnerError,
    PartnerOutcomeUnknown,
    PartnerRateLimited,
    PartnerRequestRejected,
    PartnerTargetMissing,
    PartnerUnreachable,
)
from cohort_pipelines.core.http import URL, AsyncClient, client
from cohort_pipelines.destinations.exchange import (
    REQUEST_SECONDS,
    again_after,
    checked_url,
    exchange,
    failure,
    host_of,
    insist,
)
from cohort_pipelines.destinations.messages import MEMBER_ID_KEY, PAGE_ROWS, Action, Cohort, encode, require_accepted
from cohort_pipelines.destinations.wire import Answer, Session

_IN_FLIGHT = 2


class CohortMessages:
    """A receiver of cohort messages; the target's name is the cohort's name in each of them.

    Args:
        partner: what errors call it.
        url: where messages are posted; any part of it but the host may be secret and is never shown.
        headers: the credential's header, if any; never shown.
        project_id: Mixpanel's project, named in each message.
        cohort_id: Mixpanel's cohort, named in each message.
        account: tells apart receivers behind one host.
        id_key: the member's key that holds the partner user id.

    Raises:
        DestinationInvalid: the URL cannot be used.
    """

    wire: str = "cohort_messages"
    chunk_rows: int = PAGE_ROWS
    workers: int = _IN_FLIGHT + 1  # while one records what became of its message, the others send
    judges_rows: bool = False
    assumed_per_second: float = 1_000.0  # a full message
    findable: bool = True

    def __init__(
        self,
        *,
        partner: str,
        url: str,
        headers: Mapping[str, str],
        project_id: int,
        cohort_id: int,
        account: str = "",
        id_key: str = MEMBER_ID_KEY,
    ) -> None:
        self._url = checked_url(partner, url)
        self.host = host_of(self._url)
        self.account = account
        self._partner = partner
        self._headers = {"content-type": "application/json", **headers}
        self.cohort: NamedCohort | None = (project_id, cohort_id) if cohort_id else None
        self._project_id = str(project_id)
        self._cohort_id = str(cohort_id)
        self._id_key = id_key

    def count_requests(self, adds: int, removals: int, *, first: bool) -> int:
        """Count the pages of additions and those of removals, and one that makes the target exist."""
        return first + ceil(adds / self.chunk_rows) + ceil(removals / self.chunk_rows)

    @asynccontextmanager
    async def open(self, target: str) -> AsyncIterator[Session]:
        """Open a session whose messages carry one `mixpanel_session_id`."""
        async with self.export(target) as messages:
            yield messages

    @asynccontextmanager
    async def export(self, target: str, session_id: str = "") -> "AsyncIterator[_Messages]":
        """Open the messages that carry ``session_id``, or else one of their own."""
        async with client(connections=_IN_FLIGHT, headers=self._headers) as http:
            yield self._messages(http, target, session_id or str(uuid4()))

    def _messages(self, http: AsyncClient, target: str, session_id: str) -> "_Messages":
        cohort = Cohort(
            mixpanel_project_id=self._project_id,
            mixpanel_cohort_id=self._cohort_id,
            mixpanel_cohort_name=target,
            mixpanel_session_id=session_id,
        )
        return _Messages(http, self._partner, self._url, self._id_key, cohort, asyncio.Semaphore(_IN_FLIGHT))

    async def check(self, target: str | None) -> str:
        """Send the target an empty `add_members`, as Mixpanel does without joiners; without a target only knock.

        404 is what Flagsmith answers for a group that it has not been told of yet, so it counts as connected.

        Raises:
            PartnerKeyRefused, PartnerRequestRejected, PartnerUnreachable, PartnerOutcomeUnknown: why it is not.
        """
        deadline = clock.now() + timedelta(seconds=REQUEST_SECONDS)
        async with client(connections=1, headers=self._headers) as http:
            if target is None:
                return await self._knock(http, deadline)
            try:
                await self._messages(http, target, str(uuid4())).page("add_members", [], deadline).post()
            except PartnerRequestRejected as refusal:
                if not refusal.may_miss_the_target:
                    raise
                either = "either the group is not there yet or the path of the URL is wrong"
                return f"Connected; it answers {refusal.status}, so {either}"
        return "Connected"

    async def _knock(self, http: AsyncClient, deadline: datetime) -> str:
        response = await exchange(http, self._partner, self._url, method="HEAD", deadline=deadline)
        if response.is_server_error:
            raise failure(self._partner, response.status_code)
        return "Reachable; the credential is tried once there is a target"


@dataclass(slots=True)
class _Page:
    """One message on its way, and how often it was posted."""

    http: AsyncClient
    partner: str
    url: URL
    action: Action
    body: bytes
    deadline: datetime
    requests: int = 0

    async def post(self) -> None:
        """Post once."""
        self.requests += 1
        response = await exchange(self.http, self.partner, self.url, body=self.body, deadline=self.deadline)
        require_accepted(self.partner, self.action, response)

    async def deliver(self) -> bool:
        """Post until there is an answer that counts; return whether it is doubtful (:func:`insist`)."""
        return await insist(self.partner, self.post, self.deadline)

    async def deliver_and_count(self) -> int:
        """Deliver it, and return how often it was posted."""
        try:
            await self.deliver()
        except PartnerError as failed:
            failed.requests = self.requests
            raise
        return self.requests


class _Look(_Page):
    """An empty `add_members`, which asks for the target."""

    async def deliver(self) -> bool:
        try:
            return await super().deliver()
        except PartnerRequestRejected as refusal:
            if refusal.may_miss_the_target:
                raise PartnerTargetMissing(self.partner, refusal.status) from None
            return False


@dataclass(frozen=True, slots=True)
class _Messages:
    """One export's messages for one target."""

    http: AsyncClient
    partner: str
    url: URL
    id_key: str
    cohort: Cohort
    slots: asyncio.Semaphore

    def page(self, action: Action, ids: Sequence[str], deadline: datetime, number: int = 1, of: int = 1) -> _Page:
        """Return the message with page ``number`` ``of`` so many."""
        members = [{self.id_key: user_id} for user_id in ids]
        body = encode(self.cohort, action, members, page=number, pages=of)
        return _Page(self.http, self.partner, self.url, action, body, deadline)

    def look(self, deadline: datetime) -> _Look:
        """Return the message that asks for the target."""
        body = encode(self.cohort, "add_members", [], page=1, pages=1)
        return _Look(self.http, self.partner, self.url, "add_members", body, deadline)

    async def establish(self, deadline: datetime) -> int:
        """Send one empty `members` page, which receivers take for "create it".

        Not covered: a receiver that really replaces on `members`, and carries out a try that was given up only after
        the additions have come, empties its group. None that could be read replaces.
        """
        return await self.page("members", [], deadline).deliver_and_count()

    async def find(self, deadline: datetime) -> int:
        """Send an empty `add_members`, as Mixpanel does without joiners; Flagsmith answers 404 for an unknown group.

        A receiver that refuses it with another status is one that takes no empty message, and tells nothing.

        Raises:
            PartnerTargetMissing: it answers 404 or 410.
            PartnerError: it would not tell.
        """
        return await self.look(deadline).deliver_and_count()

    async def send(self, operation: Operation, ids: Sequence[str], page: int, pages: int, deadline: datetime) -> Answer:
        """Send ``ids`` as one page; its rows share one fate.

        Raises:
            PartnerKeyRefused: the key is refused.
            PartnerRequestRejected: the page was refused, by its status or by a failure in the body of a 200, and no
                earlier try of it may have taken effect.
        """
        action: Action = "add_members" if operation is Operation.ADD else "remove_members"
        message, rows = self.page(action, ids, deadline, page, pages), range(len(ids))
        try:
            async with self.slots:
                doubtful = await message.deliver()
        except PartnerRateLimited as busy:
            not_sent = dict.fromkeys(rows, str(busy))
            return Answer(not_sent=not_sent, again_after=again_after(busy), requests=message.requests)
        except PartnerUnreachable as down:
            return Answer(not_sent=dict.fromkeys(rows, str(down)), requests=message.requests)
        except PartnerOutcomeUnknown as lost:
            return Answer(unknown=dict.fromkeys(rows, str(lost)), requests=message.requests)
        except PartnerError as refusal:
            refusal.requests = message.requests
            raise
        return Answer(doubtful=frozenset(rows if doubtful else ()), requests=message.requests)
