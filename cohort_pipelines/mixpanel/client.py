"""One way to ask Mixpanel: time limit, meaning of the answer, retries, and the count of what it cost."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TypeVar

from cohort_pipelines.core import clock, http
from cohort_pipelines.core.errors import (
    ClockSkewed,
    MixpanelAnswerTooLarge,
    MixpanelAnswerUnreadable,
    MixpanelError,
    MixpanelTimedOut,
    MixpanelUnavailable,
)
from cohort_pipelines.mixpanel.answers import UNCOUNTED, defect, refusal
from cohort_pipelines.mixpanel.project import MAX_PAGE_BYTES, Project

AT_ONCE = 5  # queries of a project that Mixpanel runs at the same time (docs.mixpanel.com, rate limits)
REQUEST_SECONDS = 120.0  # for a whole answer; the time that clients of Mixpanel's own staff use
GRACE_SECONDS = 30.0  # for a request that is under way at the deadline, or begun after it

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A request to one of a project's endpoints.

    Attributes:
        asked: what it asks for, in words for error messages.
        path: the endpoint.
        form: what a POST carries; None makes it a GET.
        cohort_id: the cohort it is about, if it is about one.
        counted: whether it counts against the project's queries per hour.
        dated: whether its answer tells the time, so that the clocks are compared.
        max_bytes: how large its answer may be, unpacked.
    """

    asked: str
    path: str
    form: Mapping[str, str] | None = None
    cohort_id: int | None = None
    counted: bool = False
    dated: bool = False
    max_bytes: int = MAX_PAGE_BYTES

    @property
    def attempts(self) -> int:
        """How often it is asked at most; less often where each time may cost a query."""
        return 4 if self.counted else 6


WHO_ASKS = Question(asked="the projects of the service account", path="/api/app/me", dated=True)
"""The question for who the service account is; it costs no query (docs.mixpanel.com, reference/service-accounts)."""


@dataclass(slots=True)
class Client:
    """An open connection to a project, and what it has cost so far: HTTP requests, and queries of the budget."""

    project: Project
    connection: http.AsyncClient
    requests: int = 0
    queries: int = 0

    async def ask(self, question: Question, decode: Callable[[bytes], T], deadline: datetime) -> T:
        """Return the decoded answer; what may pass is asked again, without ever waiting past ``deadline``.

        Raises:
            ClockSkewed, MixpanelError: as for :meth:`ask_once`.
        """
        once = partial(self.ask_once, question, decode, deadline)
        return await http.with_retries(once, attempts=question.attempts, deadline=deadline)

    async def ask_once(self, question: Question, decode: Callable[[bytes], T], deadline: datetime) -> T:
        """Return the decoded answer to one request.

        A request that is under way at ``deadline`` is given up :data:`GRACE_SECONDS` later.

        Raises:
            ClockSkewed: the answer, and another one, are dated by a clock that is not this host's.
            MixpanelError: the refusal or failure, as the class that it is.
        """
        asked_at = clock.host_now()
        response = await self._send(question, deadline)
        if not response.is_success:
            raise refusal(response, question.asked, self.project.project_id, question.cohort_id)
        if question.dated:
            await self._require_agreement(response, asked_at, deadline)
        try:
            return await asyncio.to_thread(decode, response.content)  # a malformed page of 64 MB takes many seconds
        except http.NO_JSON as error:
            raise MixpanelAnswerUnreadable(question.asked, defect(response, error)) from None

    async def _require_agreement(self, response: http.Response, asked_at: datetime, deadline: datetime) -> None:
        """Compare the clocks; where one answer alone is dated otherwise, its own clock is the odd one.

        Raises:
            ClockSkewed: a second answer, of a request that costs no query, is dated otherwise too.
        """
        answered_at = http.date_of(response)
        if answered_at is None:
            return
        try:
            clock.require_agreement(answered_at, "Mixpanel", asked_at)
        except ClockSkewed as skewed:
            asked_again_at = clock.host_now()
            try:
                answered_again_at = http.date_of(await self._send(WHO_ASKS, deadline))
            except MixpanelError:
                answered_again_at = None
            if answered_again_at is None:
                raise skewed from None
            clock.require_agreement(answered_again_at, "Mixpanel", asked_again_at, confirmed=True)

    async def _send(self, question: Question, deadline: datetime) -> http.Response:
        request = self.connection.build_request(
            "GET" if question.form is None else "POST",
            question.path,
            params=self.project.query,
            data=question.form,
        )
        self.requests += 1
        seconds = min(REQUEST_SECONDS, max(0.0, (deadline - clock.now()).total_seconds()) + GRACE_SECONDS)
        try:
            response = await http.send(self.connection, request, seconds=seconds, max_bytes=question.max_bytes)
            if moved := _with_slash(response):
                request = self.connection.build_request("GET", moved)
                response = await http.send(self.connection, request, seconds=seconds, max_bytes=question.max_bytes)
        except http.NoAnswer as silence:
            self.queries += question.counted and silence.sent  # Mixpanel counts on arrival
            raise _unanswered(question.asked, silence) from None
        self.queries += question.counted and response.status_code not in UNCOUNTED
        return response


@asynccontextmanager
async def connect(project: Project) -> AsyncIterator[Client]:
    """Open a client of ``project``; nothing is asked yet."""
    account = http.BasicAuth(project.service_account, project.secret)
    async with http.client(project.base_url, connections=AT_ONCE, auth=account) as connection:
        yield Client(project, connection)


def _with_slash(response: http.Response) -> http.URL | None:
    """Return where a GET is redirected to by a slash at the end of its path, as the App API does; no other is followed.

    Source: client.go of Mixpanel's Terraform provider.
    """
    asked = response.request.url
    with_slash = asked.copy_with(path=f"{asked.path}/")
    with suppress(http.InvalidURL):
        moved = asked.join(response.headers.get("location", ""))
        if response.request.method == "GET" and moved.copy_with(query=asked.query) == with_slash:
            return with_slash
    return None


def _unanswered(asked: str, silence: http.NoAnswer) -> MixpanelError:
    if isinstance(silence, http.TooLarge):
        return MixpanelAnswerTooLarge(asked, silence.cause)
    timed_out = silence.cause == TimeoutError.__name__
    return MixpanelTimedOut(asked) if timed_out else MixpanelUnavailable(asked, f"no whole answer ({silence.cause})")
