"""Mixpanel's refusals, with the bodies and headers that real clients have recorded.

Sources: airbyte source-mixpanel base_errors_handler.py (400), singer tap-mixpanel tests (400 time-out, 402), and the
test constants of mixpanel-headless (the three forms of 429). The body of a 401 is published nowhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from starlette.responses import Response

JSON = "application/json"
MORE = "For more information, consult https://developer.mixpanel.com/reference/rate-limits"


@dataclass(eq=False)
class Answer(Exception):
    """An answer that ends a request early."""

    status: int
    body: Mapping[str, Any] | str
    headers: Mapping[str, str] = field(default_factory=dict)

    def response(self) -> Response:
        """Return it as a Starlette response."""
        body = self.body if isinstance(self.body, str) else msgspec.json.encode(self.body)
        return Response(body, self.status, dict(self.headers), JSON)


def bad_request(asked: str, error: str) -> Answer:
    """400 with Mixpanel's usual body; ``asked`` is the path with its query."""
    return Answer(400, {"request": asked, "error": error})


def app_error(asked: str, status: int, error: str) -> Answer:
    """Return an error in the App API's form (openapi/service-accounts)."""
    return Answer(status, {"request": asked, "error": error, "status": "error"})


def unable_to_authenticate(asked: str) -> Answer:
    """400: what an absent or unreadable credential gets."""
    return bad_request(asked, "Unable to authenticate request")


def credential_refused(asked: str) -> Answer:
    """401: an unknown service account or a wrong secret."""
    return app_error(asked, 401, "Invalid service account credentials")


def no_access(asked: str, project_id: str) -> Answer:
    """403: the account does not see the project (status and body are not published)."""
    return app_error(asked, 403, f"Permission denied for project {project_id}")


def plan_without_api(asked: str, _project_id: str) -> Answer:
    """402: the project's plan has no Query API."""
    return Answer(402, {"request": asked, "error": "Your plan does not allow API calls. Please upgrade your plan."})


def timed_out(asked: str, _project_id: str) -> Answer:
    """400, although it is a time-out."""
    return bad_request(asked, "Timeout Error.")


def hour_used_up(asked: str, project_id: str, per_hour: int, at_once: int, seconds: int) -> Answer:
    """429: the project's queries of the hour are used up."""
    return Answer(
        429,
        {
            "request": asked,
            "error": f"Query rate limit exceeded for project_id: {project_id}. This request exceeded the rate limit "
            f"({per_hour + 1}/{per_hour} queries running in the last hour). {MORE}",
        },
        {
            "RateLimit-Policy": _policy(per_hour, at_once),
            "RateLimit": f'"project";r=0;t={seconds}, "project-concurrency";r={at_once}',
            "Retry-After": str(seconds),
        },
    )


def too_many_at_once(asked: str, project_id: str, per_hour: int, at_once: int, left: int) -> Answer:
    """429: too many queries of the project run at once."""
    return Answer(
        429,
        {
            "request": asked,
            "error": f"Query rate limit exceeded for project_id: {project_id}. This request exceeded the concurrency "
            f"limit ({at_once + 1}/{at_once} queries running concurrently).",
        },
        {
            "RateLimit-Policy": _policy(per_hour, at_once),
            "RateLimit": f'"project";r={left}, "project-concurrency";r=0;t=10',
        },
    )


def load_shed(asked: str, project_id: str) -> Answer:
    """429 without any rate-limit header: Mixpanel is overloaded."""
    return Answer(429, {"request": asked, "error": f"Query rate limit exceeded for project_id: {project_id} {MORE}"})


def _policy(per_hour: int, at_once: int) -> str:
    return f'"project";q={per_hour};w=3600, "project-concurrency";q={at_once};qu="concurrent-requests"'
