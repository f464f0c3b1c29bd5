import asyncio
from collections.abc import Sequence
from datetime import timedelta

import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.core.errors import (
    DestinationInvalid,
    PartnerError,
    PartnerKeyRefused,
    PartnerOutcomeUnknown,
    PartnerRateLimited,
    PartnerRequestRejected,
    PartnerUnreachable,
)
from cohort_pipelines.core.http import URL, client
from cohort_pipelines.destinations.exchange import (
    ATTEMPTS,
    again_after,
    checked_header,
    checked_url,
    exchange,
    failure,
    host_of,
    insist,
)
from cohort_pipelines_tests.faults.projects import without_waiting


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://api.taplytics.com", "api.taplytics.com"),
        ("https://API.example/secret/path?key=secret#secret", "api.example"),
        ("http://127.0.0.1:8080/x", "127.0.0.1:8080"),
        ("http://my_relay:80/", "my_relay"),
        ("http://[::1]:8080/", "[::1]:8080"),
    ],
)
def test_only_host_and_port_of_a_url_are_told(url: str, host: str) -> None:
    assert host_of(checked_url("P", url)) == host


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.example/secret",
        "ftp://secret",
        "https://",
        "https://u:secret@host/",
        "http://secret:99999/",
        "http://[secret",
        "http://host/sec ret",
        "http://host/secret\x01",
        "http://host/\nsecret",
        "http://ho%st/secret",
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(DestinationInvalid) as refusal:
        checked_url("P", url)

    assert "secret" not in str(refusal.value)


def test_a_header_is_passed_on_or_refused_without_its_value() -> None:
    assert checked_header("P", "x-access-token", "abc =/+") == {"x-access-token": "abc =/+"}
    with pytest.raises(DestinationInvalid) as refusal:
        checked_header("P", "x-access-token", "secret\r\nhost: evil")
    assert "secret" not in str(refusal.value)
    assert "evil" not in str(refusal.value)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        *((status, PartnerKeyRefused) for status in (401, 403)),
        *((status, PartnerRequestRejected) for status in (302, 400, 402, 404, 405, 409, 410, 413, 422)),
        (429, PartnerRateLimited),
        *((status, PartnerOutcomeUnknown) for status in (408, 425, 500, 502, 503, 504, 599)),
    ],
)
def test_each_status_has_one_meaning(status: int, error: type[PartnerError]) -> None:
    told = failure("P", status)

    assert type(told) is error
    assert str(status) in str(told)


UNCLEAR = PartnerOutcomeUnknown("P", "HTTP 503", 0.0)
RATE_LIMITED = PartnerRateLimited("P", "HTTP 429", 0.0)
UNREACHABLE = PartnerUnreachable("P", "ConnectionRefusedError")
UNREACHABLE.retry_after = 0.0
REFUSED = PartnerRequestRejected("P", 400)
KEY_REFUSED = PartnerKeyRefused("P", 401)


@pytest.fixture(autouse=True)
def _tried_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    without_waiting(monkeypatch)


def doubtful_after(*tries: PartnerError | None) -> bool:
    left = list(tries)

    async def ask() -> None:
        if failed := left.pop(0):
            raise failed

    return asyncio.run(insist("P", ask, clock.now() + timedelta(seconds=5)))


@pytest.mark.parametrize(
    ("tries", "doubtful"),
    [
        ([None], False),
        ([RATE_LIMITED, None], False),
        ([UNREACHABLE, None], False),
        ([UNCLEAR, None], True),
        ([UNCLEAR, RATE_LIMITED, UNREACHABLE, None], True),
    ],
)
def test_an_acknowledgement_after_a_try_that_may_still_land_is_doubtful(
    tries: Sequence[PartnerError | None], doubtful: bool
) -> None:
    assert doubtful_after(*tries) is doubtful


@pytest.mark.parametrize(
    ("tries", "error"),
    [
        ([REFUSED], PartnerRequestRejected),
        ([RATE_LIMITED, UNREACHABLE, REFUSED], PartnerRequestRejected),
        ([UNCLEAR, REFUSED], PartnerOutcomeUnknown),
        ([UNCLEAR, KEY_REFUSED], PartnerKeyRefused),
    ],
)
def test_a_refusal_says_that_nothing_took_effect_only_if_no_earlier_try_can_have(
    tries: Sequence[PartnerError], error: type[PartnerError]
) -> None:
    with pytest.raises(error, match=r"40[01]"):
        doubtful_after(*tries)


@pytest.mark.parametrize(
    ("tries", "error"),
    [
        ([RATE_LIMITED] * ATTEMPTS, PartnerRateLimited),
        ([UNREACHABLE] * ATTEMPTS, PartnerUnreachable),
        ([UNREACHABLE] * (ATTEMPTS - 1) + [RATE_LIMITED], PartnerRateLimited),
        ([RATE_LIMITED] * (ATTEMPTS - 1) + [UNREACHABLE], PartnerUnreachable),
        ([UNCLEAR] + [RATE_LIMITED] * (ATTEMPTS - 1), PartnerOutcomeUnknown),
        ([RATE_LIMITED, UNCLEAR] + [UNREACHABLE] * (ATTEMPTS - 2), PartnerOutcomeUnknown),
    ],
)
def test_only_tries_that_cannot_land_leave_a_row_as_it_was(
    tries: Sequence[PartnerError], error: type[PartnerError]
) -> None:
    with pytest.raises(PartnerError) as failed:
        doubtful_after(*tries)
    assert type(failed.value) is error


def test_without_time_nothing_is_asked() -> None:
    async def scenario() -> None:
        async with client(connections=1) as http:
            await exchange(http, "P", URL("http://127.0.0.1:9/"), deadline=clock.now())

    with pytest.raises(PartnerRateLimited, match="no time was left"):
        asyncio.run(scenario())


def test_a_wait_that_nobody_named_is_a_short_one() -> None:
    assert again_after(RATE_LIMITED) == 0.0
    assert 1 < again_after(PartnerRateLimited("P", "HTTP 429")) < 60
