"""A receiver that really replaces its audience once all `members` pages of a session have come.

Mixpanel's specification asks that of receivers (docs/cohort-sync/webhooks.mdx), though none that could be read does it.
The pages go out one after another, so that a receiver that empties the group at page 1 and adds from then on ends right
too. No page can be left out: one that is refused ends the publishing.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain, islice
from math import ceil
from typing import Literal, Protocol
from uuid import NAMESPACE_URL, uuid5

from cohort_pipelines.core import clock, event_loop
from cohort_pipelines.core.errors import PartnerError, PartnerRateLimited
from cohort_pipelines.destinations.exchange import BackingOff, again_after
from cohort_pipelines.destinations.messages import PAGE_ROWS
from cohort_pipelines.destinations.receiver import CohortMessages
from cohort_pipelines.destinations.wire import Audience, Permit, Publication

MembersMode = Literal["add", "replace_session"]

_NAP_SECONDS = 10.0  # a longer wait is made of these, so that a pause is noticed


class ReplacingMessages:
    """A receiver of cohort messages that takes an audience as one session of `members` pages.

    It is the same end as ``receiver``, so that what is known of a target outlives a change of the way it is written.
    """

    atomic: bool = False

    def __init__(self, receiver: CohortMessages) -> None:
        self._receiver = receiver
        self.wire = receiver.wire
        self.host = receiver.host
        self.account = receiver.account
        self.cohort = receiver.cohort
        self.assumed_per_second = receiver.assumed_per_second
        self.findable = receiver.findable

    def count_requests(self, rows: int) -> int:
        """Count the pages of a session; an empty audience is one page too."""
        return max(1, ceil(rows / PAGE_ROWS))

    def publish(self, target: str, audience: Audience, permit: Permit) -> Publication:
        """Post ``audience`` as pages of one session, whose name follows from the target, generation and checksum.

        An empty audience is one page without members. A receiver that only turns us away (429) is asked again for as
        long as ``permit`` allows. Not covered: a page of an audience that was empty, given up before the target was
        ever established, which takes effect only after a later audience.

        Raises:
            PartnerKeyRefused, PartnerOutcomeUnknown: what the receiver has is unknown.
            PartnerRequestRejected, PartnerUnreachable: the page permitted last took no effect.
        """
        return event_loop.run(self._publish(target, audience, permit))

    def find(self, target: str, permit: Permit) -> int:
        """Ask as a receiver that adds is asked, and again while it only turns us away.

        Raises:
            PartnerTargetMissing: it answers 404 or 410.
            PartnerRateLimited: no more was permitted before another answer.
            PartnerError: it would not tell.
        """
        return event_loop.run(self._find(target, permit))

    def holds(self, target: str, checksum: str) -> bool:  # noqa: ARG002  the interface's arguments
        """Take it for true: a receiver cannot be read; reconciliation sends the audience again."""
        return True

    async def check(self, target: str | None) -> str:
        """Check as for a receiver that adds.

        Raises:
            PartnerKeyRefused, PartnerRequestRejected, PartnerUnreachable, PartnerOutcomeUnknown: why it is not.
        """
        return await self._receiver.check(target)

    async def _find(self, target: str, permit: Permit) -> int:
        course = _Course(permit)
        async with self._receiver.export(target) as messages:
            if not await course.deliver(messages.look):
                rate_limited = PartnerRateLimited(messages.partner, "no time was left to ask", None)
                rate_limited.requests = course.requests
                raise rate_limited
        return course.requests

    async def _publish(self, target: str, audience: Audience, permit: Permit) -> Publication:
        users, pages = chain.from_iterable(audience.ids), max(1, -(-audience.rows // PAGE_ROWS))
        name = f"{self.host}/{self.account}/{target}/{audience.generation}/{audience.checksum}"
        course = _Course(permit)
        async with self._receiver.export(target, str(uuid5(NAMESPACE_URL, name))) as messages:
            for number in range(1, pages + 1):
                members = list(islice(users, PAGE_ROWS))

                def page(until: datetime, number: int = number, members: Sequence[str] = members) -> _Page:
                    return messages.page("members", members, until, number, pages)

                if not await course.deliver(page):
                    return Publication("some" if number > 1 else "none", course.doubtful, course.requests)
        return Publication("all", course.doubtful, course.requests)


class _Page(Protocol):
    """A message that can be posted any number of times."""

    requests: int

    async def deliver(self) -> bool:
        """Post it until there is an answer that counts; return whether that is doubtful."""


@dataclass(slots=True)
class _Course:
    """A session's requests so far, and whether an earlier try of one may still land."""

    permit: Permit
    doubtful: bool = False
    requests: int = 0
    backing_off: BackingOff = field(default_factory=BackingOff)

    async def deliver(self, page_until: Callable[[datetime], _Page]) -> bool:
        """Post a page until it is acknowledged; return False when no more is permitted before."""
        free_at = clock.monotonic()
        while (until := await asyncio.to_thread(self.permit)) is not None:  # it records the permit, which may take long
            if (left := free_at - clock.monotonic()) > 0:
                await asyncio.sleep(min(left, (until - clock.now()).total_seconds(), _NAP_SECONDS))
                continue
            page = page_until(until)
            try:
                self.doubtful |= await page.deliver()
            except PartnerRateLimited as busy:
                free_at = clock.monotonic() + self.backing_off.rate_limited(again_after(busy))
            except PartnerError as error:
                error.requests = self.requests + page.requests
                raise
            else:
                self.backing_off.taken()
                return True
            finally:
                self.requests += page.requests
        return False
