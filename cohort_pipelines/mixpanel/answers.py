"""What an answer that is no 2xx means.

Mixpanel tells a wrong credential or a time-out by a 400 with a text, and a 429 has three causes. Bodies are searched
for words and never shown: they echo the request's URL.
"""

import re

import msgspec

from cohort_pipelines.errors import (
    MixpanelCohortUnknown,
    MixpanelCredentialRefused,
    MixpanelError,
    MixpanelOverloaded,
    MixpanelPlanWithoutApi,
    MixpanelProjectUnknown,
    MixpanelRequestRefused,
    MixpanelTimedOut,
    MixpanelUnavailable,
    QueryBudgetExhausted,
    TooManyConcurrentQueries,
)
from cohort_pipelines.http import Response, retry_after

UNAUTHORIZED, PLAN_WITHOUT_API, FORBIDDEN, NOT_FOUND, TOO_MANY = 401, 402, 403, 404, 429
UNCOUNTED = frozenset({UNAUTHORIZED, PLAN_WITHOUT_API, TOO_MANY})  # answers that leave the query budget as it was
_SERVER_ERROR = 500
_ABSENT = re.compile(r"not found|not exist|unknown|no such|no access|not have access|invalid (cohort|project)")
_IN_THE_HOUR = re.compile(r"(\d+/\d+) queries running in the last hour")
_AT_ONCE = "queries running concurrently"
_HOURLY_POLICY = re.compile(r'"project";q=(\d+)')


class _Complaint(msgspec.Struct):
    error: str = ""
    message: str = ""


def refusal(response: Response, asked: str, project_id: int, cohort_id: int | None = None) -> MixpanelError:
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
    if "timeout error" in text:
        return MixpanelTimedOut(asked)
    return _missing(status, text, project_id, cohort_id) or MixpanelRequestRefused(status, asked)


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
    except (msgspec.DecodeError, UnicodeDecodeError):
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
