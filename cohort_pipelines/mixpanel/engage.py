"""Asking for the members of a cohort, page by page: ``POST /api/query/engage``.

Sources: docs.mixpanel.com reference/engage-query (parameters, paging) and rate-limits. Page 0 costs a query of the
project's hour; the pages of its session cost none (mixpanel-headless, docs/guide/request-pacing.md).
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Literal

import msgspec

from cohort_pipelines.core.errors import (
    MixpanelAnswerUnreadable,
    MixpanelBusy,
    MixpanelCohortUnknown,
    MixpanelError,
    MixpanelGroupCohort,
    MixpanelProjectUnknown,
    MixpanelRequestRefused,
    Transient,
)
from cohort_pipelines.mixpanel.check import list_cohorts
from cohort_pipelines.mixpanel.client import AT_ONCE, Client, Question
from cohort_pipelines.mixpanel.pages import Page, PageDecoder, page_decoder
from cohort_pipelines.mixpanel.patience import Patience
from cohort_pipelines.mixpanel.proof import Torn

AnonymousMembers = Literal["fetch", "skip"]

PATH = "/api/query/engage"
_CALM = 50  # pages in a row that Mixpanel did not turn away
_ANY_PROPERTY = "$created"  # asked for when none is needed: an empty list might mean all


@dataclass(frozen=True, slots=True)
class CohortReader:
    """Reads the pages of one cohort, as patiently as ``patience`` is."""

    client: Client
    cohort_id: int
    form: dict[str, str]
    decode: PageDecoder
    patience: Patience

    async def first(self) -> Page:
        """Ask for page 0, which opens a session and costs a query.

        Raises:
            MixpanelError: the refusal, or the failure that the deadline leaves no time to wait for.
        """
        while True:
            try:
                page = await self._ask(0, {}, counted=True)
            except MixpanelRequestRefused as refused:
                raise await self._reason(refused) from None
            except MixpanelError as error:
                await self.patience.wait(error, costly=True)
            else:
                self.patience.answered()
                return page

    async def each_later(self, session: str, numbers: range, take: Callable[[int, Page], None]) -> None:
        """Ask for other pages of the session, which cost no query, and hand them on in the order of their numbers.

        Raises:
            Torn: a page is refused or cannot be read although page 0 was not, so the session is gone.
            MixpanelError: as for page 0.
        """
        await each_in_order(lambda number: self._later(number, session), numbers, take, self.patience)

    async def _later(self, number: int, session: str) -> Page:
        in_session = {"session_id": session}
        try:
            try:
                return await self._ask(number, in_session, counted=False)
            except MixpanelAnswerUnreadable:
                return await self._ask(number, in_session, counted=False)
        except MixpanelRequestRefused as refused:
            message = f"page {number} was refused ({refused.status})"
            raise Torn(message) from None
        except (MixpanelCohortUnknown, MixpanelProjectUnknown):
            message = f"page {number} was refused as not found"
            raise Torn(message) from None
        except MixpanelAnswerUnreadable as unreadable:
            message = f"page {number} cannot be read: {unreadable.defect}"
            raise Torn(message) from None

    async def _reason(self, refused: MixpanelRequestRefused) -> MixpanelError:
        """Find out by the list of cohorts why page 0 was refused, since no text of a refusal is documented."""
        try:
            cohort = (await list_cohorts(self.client, self.patience.deadline)).get(self.cohort_id)
        except MixpanelError as error:
            return refused if isinstance(error, Transient) else error
        project_id = self.client.project.project_id
        if cohort is None:
            return MixpanelCohortUnknown(self.cohort_id, project_id)
        return MixpanelGroupCohort(self.cohort_id, project_id) if cohort.group else refused

    async def _ask(self, number: int, session: dict[str, str], *, counted: bool) -> Page:
        question = Question(
            asked=f"page {number} of cohort {self.cohort_id}",
            path=PATH,
            form=self.form | session | {"page": str(number)},
            cohort_id=self.cohort_id,
            counted=counted,
            dated=counted,
            max_bytes=self.client.project.max_page_bytes,
        )
        return await self.client.ask_once(question, self.decode, self.patience.deadline)


def cohort_reader(
    client: Client,
    cohort_id: int,
    properties: Sequence[str],
    anonymous_members: AnonymousMembers,
    patience: Patience,
) -> CohortReader:
    """Return a reader that keeps ``properties`` and fetches or skips the members without a profile.

    ``include_all_users`` is always sent, because leaving it out means true. When everybody is fetched, so are all
    properties: only they tell who has a profile.
    """
    form = {"filter_by_cohort": _json({"id": cohort_id}), "include_all_users": _json(anonymous_members == "fetch")}
    if anonymous_members == "skip":
        form["output_properties"] = _json(list(properties) or [_ANY_PROPERTY])
    decode = page_decoder(properties, all_have_profiles=anonymous_members == "skip")
    return CohortReader(client, cohort_id, form, decode, patience)


async def each_in_order(
    ask: Callable[[int], Awaitable[Page]], numbers: range, take: Callable[[int, Page], None], patience: Patience
) -> None:
    """Ask for pages, a few at a time, and hand them on in the order of their numbers.

    At most :data:`AT_ONCE` pages are held: a slow page holds back those behind it. Fewer are asked for at a time where
    others read the project, or Mixpanel is busy. While what failed is waited for, no
    page is under way.

    Raises:
        MixpanelError: the refusal, or the failure that the deadline leaves no time to wait for.
    """
    fresh = following = numbers.start
    failed_before: list[int] = []
    come: dict[int, Page] = {}
    asked: dict[asyncio.Future[Page], int] = {}
    at_once = _AtOnce()
    try:
        while following < numbers.stop:
            ends = min(following + AT_ONCE, numbers.stop)
            limit = min(at_once.pages, patience.share(AT_ONCE))
            while len(asked) < limit and (failed_before or fresh < ends):
                if failed_before:
                    number = heappop(failed_before)
                else:
                    number, fresh = fresh, fresh + 1
                asked[asyncio.ensure_future(ask(number))] = number
            done = await _some_done(asked)
            failed = [error for task in done if isinstance(error := task.exception(), MixpanelError)]
            for task in done:
                number = asked.pop(task)
                if isinstance(task.exception(), MixpanelError):
                    heappush(failed_before, number)
                else:
                    come[number] = task.result()
            while following in come:
                take(following, come.pop(following))
                following += 1
            at_once.adapt(pages=len(done), rate_limited=sum(isinstance(error, MixpanelBusy) for error in failed))
            if len(failed) < len(done):
                patience.answered()
            if failed:
                await patience.wait(max(failed, key=_gravity), costly=False)
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)


@dataclass(slots=True)
class _AtOnce:
    """How many pages are asked for at a time: one fewer with each 429, one more after so many without."""

    pages: int = AT_ONCE
    calm: int = 0

    def adapt(self, *, pages: int, rate_limited: int) -> None:
        self.calm = 0 if rate_limited else self.calm + pages
        self.pages = max(1, self.pages - rate_limited)
        if self.calm >= _CALM:
            self.pages, self.calm = min(AT_ONCE, self.pages + 1), 0


async def _some_done(asked: Iterable[asyncio.Future[Page]]) -> set[asyncio.Future[Page]]:
    """Wait until a page has come; where one failed, until none is under way."""
    done, others = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
    if others and any(task.exception() for task in done):
        done |= (await asyncio.wait(others))[0]
    return done


def _gravity(error: MixpanelError) -> tuple[bool, float]:
    """Order what does not pass behind what does, and that by the time that it names."""
    return (False, error.retry_after or 0.0) if isinstance(error, Transient) else (True, 0.0)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
