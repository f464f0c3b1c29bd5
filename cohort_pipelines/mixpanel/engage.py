"""Asking for the members of a cohort, page by page: ``POST /api/query/engage``.

Sources: docs.mixpanel.com reference/engage-query (parameters, paging) and rate-limits. Page 0 costs a query of the
project's hour; the pages of its session cost none (mixpanel-headless, docs/guide/request-pacing.md).
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Literal

import msgspec

from cohort_pipelines.errors import MixpanelRequestRefused
from cohort_pipelines.mixpanel.client import AT_ONCE, Client, Question
from cohort_pipelines.mixpanel.pages import Page, PageDecoder, page_decoder
from cohort_pipelines.mixpanel.proof import Torn

AnonymousMembers = Literal["fetch", "skip"]

PATH = "/api/query/engage"
_ANY_PROPERTY = "$created"  # asked for when none is needed: an empty list might mean all


@dataclass(frozen=True, slots=True)
class CohortReader:
    """Reads the pages of one cohort; none of its retries waits past ``deadline``."""

    client: Client
    cohort_id: int
    form: dict[str, str]
    decode: PageDecoder
    deadline: datetime

    async def first(self) -> Page:
        """Ask for page 0, which opens a session and costs a query."""
        return await self._ask(0, {}, counted=True)

    async def later(self, number: int, session: str) -> Page:
        """Ask for another page of the session, which costs no query.

        Raises:
            Torn: the page is refused although page 0 was not, so the session is gone.
        """
        try:
            return await self._ask(number, {"session_id": session}, counted=False)
        except MixpanelRequestRefused as refused:
            message = f"page {number} was refused ({refused.status})"
            raise Torn(message) from None

    async def _ask(self, number: int, session: dict[str, str], *, counted: bool) -> Page:
        question = Question(
            asked=f"page {number} of cohort {self.cohort_id}",
            path=PATH,
            form=self.form | session | {"page": str(number)},
            cohort_id=self.cohort_id,
            counted=counted,
        )
        return await self.client.ask(question, self.decode, self.deadline)


def cohort_reader(
    client: Client, cohort_id: int, properties: Sequence[str], anonymous_members: AnonymousMembers, deadline: datetime
) -> CohortReader:
    """Return a reader that keeps ``properties`` and fetches or skips the members without a profile.

    ``include_all_users`` is always sent, because leaving it out means true. When everybody is fetched, so are all
    properties: only they tell who has a profile.
    """
    form = {"filter_by_cohort": _json({"id": cohort_id}), "include_all_users": _json(anonymous_members == "fetch")}
    if anonymous_members == "skip":
        form["output_properties"] = _json(list(properties) or [_ANY_PROPERTY])
    decode = page_decoder(properties, all_have_profiles=anonymous_members == "skip")
    return CohortReader(client, cohort_id, form, decode, deadline)


async def each_in_order(
    ask: Callable[[int], Awaitable[Page]], numbers: range, take: Callable[[int, Page], None]
) -> None:
    """Ask for pages, a few at a time, and hand them on in the order of their numbers.

    At most that few pages are held: a slow page holds back those behind it.
    """
    upcoming = iter(numbers)
    waiting = deque((number, asyncio.ensure_future(ask(number))) for number in islice(upcoming, AT_ONCE))
    try:
        while waiting:
            number, asked = waiting[0]
            page = await asked
            waiting.popleft()
            waiting.extend((later, asyncio.ensure_future(ask(later))) for later in islice(upcoming, 1))
            take(number, page)
    finally:
        unfinished = [asked for _, asked in waiting]
        for asked in unfinished:
            asked.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
