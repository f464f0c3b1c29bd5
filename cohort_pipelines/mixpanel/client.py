"""One way to ask Mixpanel: time limit, meaning of the answer, retries, and the count of what it cost."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TypeVar

import msgspec

from cohort_pipelines import clock, http
from cohort_pipelines.errors import MixpanelError, MixpanelTimedOut, MixpanelUnavailable
from cohort_pipelines.mixpanel.answers import UNCOUNTED, refusal
from cohort_pipelines.mixpanel.project import Project

AT_ONCE = 5  # queries of a project that Mixpanel runs at the same time (docs.mixpanel.com, rate limits)
REQUEST_SECONDS = 120.0  # for a whole answer; the time that clients of Mixpanel's own staff use
GRACE_SECONDS = 30.0  # for a request that is under way at the deadline, or begun after it
ANSWER_BYTES = 64 * 2**20  # a page of a thousand members with all their properties is some MB

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
    """

    asked: str
    path: str
    form: Mapping[str, str] | None = None
    cohort_id: int | None = None
    counted: bool = False

    @property
    def attempts(self) -> int:
        """How often it is asked at most; less often where each time may cost a query."""
        return 4 if self.counted else 6


@dataclass(slots=True)
class Client:
    """An open connection to a project, and what it has cost so far: HTTP requests, and queries of the budget."""

    project: Project
    connection: http.AsyncClient
    requests: int = 0
    queries: int = 0

    async def ask(self, question: Question, decode: Callable[[bytes], T], deadline: datetime) -> T:
        """Return the decoded answer; what may pass is asked again, without ever waiting past ``deadline``.

        A request that is under way at ``deadline`` is given up :data:`GRACE_SECONDS` later.

        Raises:
            ClockSkewed: the answer is dated by a clock that is not this host's.
            MixpanelError: the refusal or failure, as the class that it is.
        """
        once = partial(self._ask_once, question, decode, deadline)
        return await http.with_retries(once, attempts=question.attempts, deadline=deadline)

    async def _ask_once(self, question: Question, decode: Callable[[bytes], T], deadline: datetime) -> T:
        asked_at = clock.host_now()
        response = await self._send(question, deadline)
        if not response.is_success:
            raise refusal(response, question.asked, self.project.project_id, question.cohort_id)
        if answered_at := http.date_of(response):
            clock.require_agreement(answered_at, "Mixpanel", asked_at)
        try:
            return decode(response.content)
        except msgspec.ValidationError as error:  # its text names fields and types, never values
            raise MixpanelUnavailable(question.asked, f"the answer has another shape, {error}") from None
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise MixpanelUnavailable(question.asked, "the answer is not JSON") from None

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
            response = await http.send(self.connection, request, seconds=seconds, max_bytes=ANSWER_BYTES)
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


def _unanswered(asked: str, silence: http.NoAnswer) -> MixpanelError:
    timed_out = silence.cause == TimeoutError.__name__
    return MixpanelTimedOut(asked) if timed_out else MixpanelUnavailable(asked, f"no whole answer ({silence.cause})")
