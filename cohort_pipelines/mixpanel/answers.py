"""What an answer means that is no 2xx, or that is one and cannot be used.

Mixpanel tells a wrong credential or a time-out by a 400 with a text, and a 429 has three causes. Bodies are searched
for words and never shown: they echo the request's URL.
"""

import re
from typing import Any

import msgspec

from cohort_pipelines.core.errors import (
    MixpanelCohortUnknown,
    MixpanelCredentialRefused,
    MixpanelError,
    MixpanelNotReached,
    MixpanelOverloaded,
    MixpanelPlanWithoutApi,
    MixpanelProjectUnknown,
    MixpanelRequestRefused,
    MixpanelTimedOut,
    MixpanelUnavailable,
    QueryBudgetExhausted,
    TooManyConcurrentQueries,
)
from cohort_pipelines.core.http import NO_JSON, URL, InvalidURL, Response, retry_after

UNAUTHORIZED, PLAN_WITHOUT_API, FORBIDDEN, NOT_FOUND, TOO_MANY = 401, 402, 403, 404, 429
UNCOUNTED = frozenset({UNAUTHORIZED, PLAN_WITHOUT_API, TOO_MANY})  # answers that leave the query budget as it was

_REDIRECTS, _SERVER_ERROR = range(300, 400), 500
_HOST = re.compile(r"[a-z0-9.-]{1,253}")
_ABSENT = re.compile(r"not found|not exist|unknown|no such|no access|not have access|invalid (cohort|project)")
_IN_THE_HOUR = re.compile(r"(\d+/\d+) queries running in the last hour")
_AT_ONCE = "queries running concurrently"
_HOURLY_POLICY = re.compile(r'"project";q=(\d+)')


class Envelope(msgspec.Struct, kw_only=True):
    """What Mixpanel's answers have in common: where they have a status it is "ok", and there is no error."""

    status: str = "ok"
    error: Any = None

    def __post_init__(self) -> None:
        """Take any other answer for a query that failed."""
        if self.status != "ok" or self.error:
            message = "the query failed: its status is not ok, or it names an error"
            raise ValueError(message)


class _Complaint(msgspec.Struct):
    error: str = ""
    message: str = ""


def refusal(  # noqa: PLR0911  one for each meaning
    response: Response, asked: str, project_id: int, cohort_id: int | None = None
) -> MixpanelError:
    """Return the error that ``response`` stands for; ``asked`` says in words what was asked for."""
    status, text = response.status_code, _text(response.content)
    if status == UNAUTHORIZED or "unable to authenticate" in text:
        return MixpanelCredentialRefused()
    if status == PLAN_WITHOUT_API:
        return MixpanelPlanWithoutApi()
    if status == TOO_MANY:
        return _too_many(response, text)
    if status >= _SERVER_ERROR:
        return MixpanelUnavailable(asked, f"status {status}", retry_after(response))
    if answer := _of_another(response):
        return MixpanelNotReached(asked, answer)
    if "timeout error" in text:
        return MixpanelTimedOut(asked)
    return _missing(status, text, project_id, cohort_id) or MixpanelRequestRefused(status, asked)


def defect(response: Response, error: Exception) -> str:
    """Say in words, without any of it, why the body of a 2xx cannot be used; ``error`` is what its decoder raised."""
    if _is_html(response):
        return "it is an HTML page, such as a proxy's or a login's"
    if isinstance(error, msgspec.ValidationError):  # its text names fields and types, never values
        return f"it has another shape, {error}"
    return "it is not JSON"


def _of_another(response: Response) -> str:
    """Say in words what an answer is that is none of Mixpanel's API; empty where it may be one."""
    status = response.status_code
    if status in _REDIRECTS:
        return f"a redirect ({status}){_target(response)}"
    return f"an HTML page ({status})" if _is_html(response) else ""


def _is_html(response: Response) -> bool:
    return response.headers.get("content-type", "").startswith("text/html") or response.content.lstrip()[:1] == b"<"


def _target(response: Response) -> str:
    """Return where a redirect leads to: the host alone, since the rest may hold a secret."""
    try:
        host = URL(response.headers.get("location", "")).host
    except InvalidURL:
        return ""
    return f" to {host}" if _HOST.fullmatch(host) else ""


def _missing(status: int, text: str, project_id: int, cohort_id: int | None) -> MixpanelError | None:
    """Tell which thing is not there or not shown, where a text says so; these texts are documented nowhere."""
    if status not in {FORBIDDEN, NOT_FOUND} and not _ABSENT.search(text):
        return None
    if cohort_id is not None and "cohort" in text:
        return MixpanelCohortUnknown(cohort_id, project_id)
    return MixpanelProjectUnknown(project_id) if "project" in text else None


def _text(body: bytes) -> str:
    """Return what a JSON body complains about, in lower case; "" for any other body."""
    try:
        complaint = msgspec.json.decode(body, type=_Complaint)
    except NO_JSON:
        return ""
    return (complaint.error or complaint.message).lower()


def _too_many(response: Response, text: str) -> MixpanelError:
    """Tell the three 429s apart: by the RateLimit header, else by the text; one with neither sheds load."""
    tripped = _tripped(response.headers.get("ratelimit", ""))
    wait = retry_after(response)
    in_the_hour = _IN_THE_HOUR.search(text)
    if "project" in tripped or in_the_hour:
        policy = _HOURLY_POLICY.search(response.headers.get("ratelimit-policy", ""))
        used = in_the_hour[1] if in_the_hour else f"all {policy[1]}" if policy else "all"
        return QueryBudgetExhausted(f"{used} queries in the last hour", _first(wait, tripped.get("project")))
    if "project-concurrency" in tripped or _AT_ONCE in text:
        return TooManyConcurrentQueries(_first(wait, tripped.get("project-concurrency")))
    return MixpanelOverloaded(wait)


def _tripped(header: str) -> dict[str, float | None]:
    """Return the policies of a RateLimit header that have nothing left, each with its seconds until it has again.

    Example of a header: ``"project";r=12, "project-concurrency";r=0;t=10``.
    """
    tripped: dict[str, float | None] = {}
    for item in header.split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        values = dict(parameter.partition("=")[::2] for parameter in parameters)
        if values.get("r") == "0":
            seconds = values.get("t", "")
            tripped[name.strip('"')] = float(seconds) if seconds.isdecimal() else None
    return tripped


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)
