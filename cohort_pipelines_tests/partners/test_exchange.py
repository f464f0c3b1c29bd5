import pytest

from cohort_pipelines.errors import (
    DestinationInvalid,
    PartnerError,
    PartnerKeyRefused,
    PartnerOutcomeUnknown,
    PartnerRequestRefused,
)
from cohort_pipelines.partners.exchange import checked_header, checked_url, failure, host_of


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
        *((status, PartnerRequestRefused) for status in (302, 400, 402, 404, 405, 409, 410, 413, 422)),
        *((status, PartnerOutcomeUnknown) for status in (408, 425, 429, 500, 502, 503, 504, 599)),
    ],
)
def test_each_status_has_one_meaning(status: int, error: type[PartnerError]) -> None:
    told = failure("P", status)

    assert type(told) is error
    assert str(status) in str(told)
