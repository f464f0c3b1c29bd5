import asyncio
import logging
from base64 import b64encode
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from cohort_pipelines.core.changes import Operation
from cohort_pipelines.core.errors import DestinationInvalid, PartnerError
from cohort_pipelines.destinations import webhook
from cohort_pipelines.destinations.apptimize import apptimize_http
from cohort_pipelines_tests.destinations.odd_server import Raw, in_turn, odd_server, raw, taken, within

SECRET = "se cret+&/%41ü=?"


def first_head(settings: dict[str, Any], path: str = "/hook") -> str:
    async def scenario() -> str:
        async with odd_server(taken) as server:
            async with webhook(url=server.url + path, **settings).open("Beta") as session:
                await session.establish(within())
            return server.asked[0].head

    return asyncio.run(scenario())


def test_no_authentication_sends_none() -> None:
    head = first_head({})

    assert head.startswith("POST /hook HTTP/1.1")
    assert "authorization" not in head.lower()


def test_basic_bearer_and_header_travel_in_a_header() -> None:
    basic = b64encode(f"user:{SECRET}".encode()).decode()

    assert f"authorization: Basic {basic}" in first_head({"auth": "basic", "username": "user", "secret": SECRET})
    assert "authorization: Bearer abc" in first_head({"auth": "bearer", "secret": "abc"})
    assert "x-hook-key: abc" in first_head({"auth": "header", "name": "X-Hook-Key", "secret": "abc"})


@pytest.mark.parametrize(("path", "joined"), [("/hook", "/hook?"), ("/hook?team=1", "/hook?team=1&")])
def test_a_query_parameter_is_added_to_the_url(path: str, joined: str) -> None:
    head = first_head({"auth": "query", "name": "statsig-api-key", "secret": SECRET}, path)

    asked_for = head.split(" ")[1]
    assert asked_for.startswith(f"{joined}statsig-api-key=")
    assert parse_qs(urlsplit(asked_for).query)["statsig-api-key"] == [SECRET]


@pytest.mark.parametrize(
    "answer",
    [raw(), raw(500), raw(404, b"key"), raw(401), raw(200, b"<html>"), Raw(b"what?\r\n\r\n", hang_up=True)],
)
def test_a_key_in_the_url_is_never_seen(answer: Raw, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    told: list[str] = []

    async def scenario() -> None:
        async with odd_server(in_turn(answer)) as server:
            partner = webhook(url=f"{server.url}/hook", auth="query", name="key", secret="topsecret")
            told.append(f"{partner!r} {partner.host} {partner.account}")
            for target in (None, "Beta"):
                try:
                    told.append(await partner.check(target))
                except PartnerError as error:
                    told.append(f"{error!r} {error}")
            assert any("topsecret" in one.head for one in server.asked)

    asyncio.run(scenario())

    assert len(told) == 3
    assert "topsecret" not in f"{told} {caplog.text}"


@pytest.mark.parametrize(
    "settings",
    [
        {"auth": "basic", "username": "u"},
        {"auth": "bearer"},
        {"auth": "header", "secret": "hidden"},
        {"auth": "header", "name": "x", "secret": "hidden\n"},
        {"auth": "query", "secret": "hidden"},
        {"auth": "query", "name": "key"},
        {"url": "hidden"},
    ],
)
def test_what_is_missing_or_cannot_be_sent_is_said_before_anything_is(settings: dict[str, Any]) -> None:
    with pytest.raises(DestinationInvalid) as refusal:
        webhook(**{"url": "https://hook.example", **settings})

    assert "hidden" not in str(refusal.value)


def test_the_account_tells_receivers_of_one_host_apart() -> None:
    one = webhook(url="https://hook.example/a", account="a")
    other = apptimize_http(url="https://hook.example/b", token="t", region="na")

    assert (one.wire, one.host, one.account) == ("cohort_messages", "hook.example", "a")
    assert (other.wire, other.host, other.account) == ("cohort_messages", "hook.example", "na")


def test_apptimize_sends_its_token_in_the_documented_header_and_ids_under_the_chosen_key() -> None:
    async def scenario() -> tuple[str, bytes]:
        async with odd_server(taken) as server:
            partner = apptimize_http(url=server.url, token="abc", region="eu", id_key="$apptimize_user_id")
            async with partner.open("Mixpanel: Beta") as session:
                await session.send(Operation.ADD, ["i_1"], 1, 1, within())
            return server.asked[0].head, server.asked[0].body

    head, body = asyncio.run(scenario())

    assert "apptimizeapitoken: abc" in head
    assert b'"members":[{"$apptimize_user_id":"i_1"}]' in body
