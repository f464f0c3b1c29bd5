import httpx
import msgspec
import pytest

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
from cohort_pipelines.mixpanel.answers import refusal

IN_THE_HOUR = "This request exceeded the rate limit (61/60 queries running in the last hour). For more information, ..."
AT_ONCE = "This request exceeded the concurrency limit (6/5 queries running concurrently)."
POLICY = '"project";q=60;w=3600, "project-concurrency";q=5;qu="concurrent-requests"'


def refused(status: int, error: str = "", headers: dict[str, str] | None = None) -> MixpanelError:
    body = msgspec.json.encode({"request": "/api/query/engage?project_id=3", "error": error})
    return refusal(httpx.Response(status, content=body, headers=headers), "page 0 of cohort 7", 3, 7)


@pytest.mark.parametrize(
    ("status", "error", "meaning"),
    [
        (401, "", MixpanelCredentialRefused),
        (400, "Unable to authenticate request", MixpanelCredentialRefused),
        (402, "Your plan does not allow API calls", MixpanelPlanWithoutApi),
        (400, "Timeout Error.", MixpanelTimedOut),
        (400, "cohort 7 does not exist", MixpanelCohortUnknown),
        (404, "Cohort not found", MixpanelCohortUnknown),
        (403, "No access to this project", MixpanelProjectUnknown),
        (403, "", MixpanelRequestRefused),
        (400, "bad expression", MixpanelRequestRefused),
        (301, "", MixpanelNotReached),
        (500, "", MixpanelUnavailable),
        (503, "", MixpanelUnavailable),
    ],
)
def test_an_answer_is_told_by_its_status_and_words(status: int, error: str, meaning: type[MixpanelError]) -> None:
    assert type(refused(status, error)) is meaning


def test_the_hour_is_used_up() -> None:
    headers = {
        "RateLimit-Policy": POLICY,
        "RateLimit": '"project";r=0;t=3600, "project-concurrency";r=3',
        "Retry-After": "1800",
    }
    error = refused(429, IN_THE_HOUR, headers)
    assert isinstance(error, QueryBudgetExhausted)
    assert error.retry_after == 1800
    assert "61/60 queries in the last hour" in str(error)


def test_the_hour_is_used_up_without_words() -> None:
    headers = {"RateLimit-Policy": POLICY, "RateLimit": '"project";r=0;t=90, "project-concurrency";r=3'}
    error = refused(429, "", headers)
    assert isinstance(error, QueryBudgetExhausted)
    assert error.retry_after == 90
    assert "all 60 queries in the last hour" in str(error)


def test_the_hour_is_used_up_without_headers() -> None:
    error = refused(429, IN_THE_HOUR)
    assert isinstance(error, QueryBudgetExhausted)
    assert error.retry_after is None


@pytest.mark.parametrize(
    "answer",
    [("", {"RateLimit": '"project";r=12, "project-concurrency";r=0;t=10'}), (AT_ONCE, {"Retry-After": "10"})],
)
def test_too_many_run_at_once(answer: tuple[str, dict[str, str]]) -> None:
    error = refused(429, *answer)
    assert isinstance(error, TooManyConcurrentQueries)
    assert error.retry_after == 10


def test_load_is_shed() -> None:
    error = refused(429, "Query rate limit exceeded for project_id: 3 For more information, ...")
    assert isinstance(error, MixpanelOverloaded)
    assert error.retry_after is None


@pytest.mark.parametrize("header", ["", "nonsense", '"project"', '"project";r=0;t=soon', ";;=,"])
def test_a_strange_rate_limit_header_does_no_harm(header: str) -> None:
    assert isinstance(refused(429, "", {"RateLimit": header}), MixpanelOverloaded | QueryBudgetExhausted)


@pytest.mark.parametrize("body", [b"", b"[1]", b'{"error":{"code":1}}', b"\xff"])
def test_a_body_that_is_no_complaint_is_survived(body: bytes) -> None:
    assert isinstance(refusal(httpx.Response(400, content=body), "x", 3), MixpanelRequestRefused)


def test_no_message_repeats_the_body() -> None:
    for status in (400, 401, 402, 403, 404, 429, 500):
        assert "/api/query" not in str(refused(status, "something"))


@pytest.mark.parametrize("status", [400, 403, 404])
def test_an_html_page_is_blamed_on_what_stands_between(status: int) -> None:
    response = httpx.Response(status, content=b"<html>cohort not found</html>", headers={"content-type": "text/html"})
    error = refusal(response, "page 0 of cohort 7", 3, 7)
    assert isinstance(error, MixpanelNotReached)
    assert f"an HTML page ({status})" in str(error)
    assert "proxy or firewall" in str(error)


@pytest.mark.parametrize(
    ("location", "shown"),
    [("https://eu.mixpanel.com/x?secret=1", "(302) to eu.mixpanel.com."), ("/x", "(302)."), ("http://[", "(302).")],
)
def test_a_redirect_is_blamed_on_the_region_and_names_the_host_alone(location: str, shown: str) -> None:
    error = refused(302, "", {"location": location})
    assert isinstance(error, MixpanelNotReached)
    assert shown in str(error)
    assert "Check the region and api_url" in str(error)
