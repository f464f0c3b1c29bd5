"""A whole audience as one session of pages, to receivers that replace what they hold, and to odd ones."""

import asyncio
import json
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.core.errors import (
    PartnerError,
    PartnerKeyRefused,
    PartnerOutcomeUnknown,
    PartnerRequestRejected,
    PartnerTargetMissing,
    PartnerUnreachable,
)
from cohort_pipelines.destinations import webhook
from cohort_pipelines.destinations.apptimize import apptimize_http
from cohort_pipelines.destinations.exchange import ATTEMPTS
from cohort_pipelines.destinations.receiver import CohortMessages
from cohort_pipelines.destinations.replacing import ReplacingMessages
from cohort_pipelines.destinations.wire import Audience, Permit, Publication, sends_everybody
from cohort_pipelines.devtools.standins.behaviour import Behaviour
from cohort_pipelines.devtools.standins.faults import Fault
from cohort_pipelines.devtools.standins.server import InThread, in_thread
from cohort_pipelines.devtools.standins.settings import Settings
from cohort_pipelines_tests.destinations.odd_server import Asked, Raw, Reply, in_turn, odd_server, raw, taken, within

TARGET = "Mixpanel: Beta"
NO_MORE_TRIES = 0.4


@pytest.fixture(scope="module")
def services() -> Iterator[InThread]:
    with in_thread(Settings(members=100, apptimize=Behaviour(members="replace"))) as running:
        yield running


@pytest.fixture
def partner(standins: InThread) -> ReplacingMessages:
    standins.standins.apptimize.groups.clear()
    receiver = apptimize_http(
        url=standins.apptimize_url,
        token=standins.credentials.apptimize_token,
        region="eu",
        cohort_id=7,
    )
    return ReplacingMessages(receiver)


def audience(ids: Iterable[str], generation: int = 1, checksum: str = "f00d") -> Audience:
    every = list(ids)
    batches = [every[start : start + 700] for start in range(0, len(every), 700)]
    return Audience(batches, len(every), generation, checksum)


def users(*numbers: int) -> set[str]:
    return {f"i_{number}" for number in numbers}


def ids_of(standins: InThread) -> set[str]:
    return standins.standins.apptimize.groups[TARGET].ids


def permits(count: int) -> Permit:
    """Permit so many requests, each for as long as it takes."""
    left = [within] * count

    def permit() -> datetime | None:
        return left.pop()() if left else None

    return permit


def published(
    reply: Reply, whom: Audience, permit: Permit = within
) -> tuple[Publication | PartnerError, list[dict[str, Any]]]:
    """Publish to a server that answers as ``reply`` does; return how it ended, and the messages that came."""

    async def scenario() -> tuple[Publication | PartnerError, list[Asked]]:
        async with odd_server(reply) as server:
            receiver = CohortMessages(partner="P", url=server.url, headers={"x-key": "k"}, project_id=1, cohort_id=2)
            try:
                return await asyncio.to_thread(ReplacingMessages(receiver).publish, TARGET, whom, permit), server.asked
            except PartnerError as error:
                return error, server.asked

    ended, asked = asyncio.run(scenario())
    return ended, [json.loads(one.body) for one in asked]


def pages_of(messages: list[dict[str, Any]]) -> list[tuple[int, int, int]]:
    parameters = [message["parameters"] for message in messages]
    return [
        (each["page_info"]["page_count"], each["page_info"]["total_pages"], len(each["members"])) for each in parameters
    ]


def test_an_audience_replaces_the_one_before(partner: ReplacingMessages, standins: InThread) -> None:
    assert partner.publish(TARGET, audience(users(1, 2, 3)), within) == Publication(requests=1)
    assert partner.publish(TARGET, audience(users(3, 4), 2), within) == Publication(requests=1)

    assert ids_of(standins) == users(3, 4)
    assert sends_everybody(partner)


def test_pages_of_a_thousand_count_together(partner: ReplacingMessages, standins: InThread) -> None:
    many = users(*range(2_500))

    assert partner.publish(TARGET, audience(many), within) == Publication(requests=3)
    assert ids_of(standins) == many


def test_an_empty_audience_is_one_page_that_empties_the_group(partner: ReplacingMessages, standins: InThread) -> None:
    partner.publish(TARGET, audience(users(1)), within)

    assert partner.publish(TARGET, audience([], 2), within) == Publication(requests=1)
    assert ids_of(standins) == set()


def test_ids_arrive_byte_for_byte(partner: ReplacingMessages, standins: InThread) -> None:
    ids = ['i_Zoë 🦊"\n\x00', "=1+1", "@x", "i_ABC", "i_abc", "i_" + "x" * 1_000]

    partner.publish(TARGET, audience(ids), within)

    assert ids_of(standins) == set(ids)


@pytest.mark.parametrize(
    ("rows", "pages"), [(0, [(1, 1, 0)]), (1_000, [(1, 1, 1_000)]), (1_001, [(1, 2, 1_000), (2, 2, 1)])]
)
def test_pages_are_numbered_and_know_how_many_they_are(rows: int, pages: list[tuple[int, int, int]]) -> None:
    _, messages = published(taken, audience(users(*range(rows))))

    assert pages_of(messages) == pages
    assert {message["action"] for message in messages} == {"members"}
    assert {message["parameters"]["mixpanel_cohort_name"] for message in messages} == {TARGET}


def test_a_session_is_one_generation_of_one_audience() -> None:
    def session(generation: int, checksum: str) -> str:
        _, messages = published(taken, audience(users(*range(1_001)), generation, checksum))
        (name,) = {message["parameters"]["mixpanel_session_id"] for message in messages}
        return str(name)

    async def same_server() -> list[str]:
        async with odd_server(taken) as server:
            for generation, checksum in [(1, "a"), (1, "a"), (2, "a"), (1, "b")]:
                receiver = ReplacingMessages(webhook(url=server.url))
                await asyncio.to_thread(receiver.publish, TARGET, audience(users(1), generation, checksum), within)
            return [json.loads(one.body)["parameters"]["mixpanel_session_id"] for one in server.asked]

    assert session(1, "a") != session(2, "a")
    first, again, later, other = asyncio.run(same_server())
    assert first == again
    assert len({first, later, other}) == 3


def test_pages_go_out_one_after_another() -> None:
    under_way = most = 0

    async def reply(asked: Asked) -> Raw:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.01)
        under_way -= 1
        return await taken(asked)

    _, messages = published(reply, audience(users(*range(4_500))))

    assert [number for number, _, _ in pages_of(messages)] == [1, 2, 3, 4, 5]
    assert most == 1


def test_a_page_that_got_no_answer_is_sent_again_and_leaves_a_doubt(
    partner: ReplacingMessages, standins: InThread
) -> None:
    standins.standins.apptimize_faults.add(Fault(kind="lost_response", after=1))

    assert partner.publish(TARGET, audience(users(*range(2_500))), within) == Publication(doubtful=True, requests=4)
    assert ids_of(standins) == users(*range(2_500))


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (raw(401), PartnerKeyRefused),
        (raw(403), PartnerKeyRefused),
        (raw(400), PartnerRequestRejected),
        (raw(404), PartnerRequestRejected),
        (raw(200, b'{"status": "failure"}'), PartnerRequestRejected),
    ],
)
@pytest.mark.parametrize("page", [1, 2])
def test_a_refusal_ends_it_at_once(answer: Raw, error: type[PartnerError], page: int) -> None:
    answers: list[Raw | Reply] = [*[taken] * (page - 1), answer]

    ended, messages = published(in_turn(*answers), audience(users(*range(3_000))))

    assert type(ended) is error
    assert isinstance(ended, PartnerError)
    assert (len(messages), ended.requests) == (page, page)


@pytest.mark.parametrize(
    "answer", [raw(500), raw(200), raw(200, b"{}"), raw(200, b"{}", length=99), Raw(b"", hang_up=True)]
)
def test_what_gets_no_clear_answer_in_time_is_unknown(answer: Raw) -> None:
    ended, messages = published(in_turn(taken, answer), audience(users(*range(1_500))), lambda: within(NO_MORE_TRIES))

    assert type(ended) is PartnerOutcomeUnknown
    assert ended.requests == len(messages) >= 2


def test_a_refusal_after_a_try_without_an_answer_is_unknown() -> None:
    ended, _ = published(in_turn(Raw(b"", hang_up=True), raw(400)), audience(users(1)))

    assert type(ended) is PartnerOutcomeUnknown


def test_nobody_listens(unused_port: int) -> None:
    receiver = ReplacingMessages(webhook(url=f"http://127.0.0.1:{unused_port}/"))

    with pytest.raises(PartnerUnreachable):
        receiver.publish(TARGET, audience(users(1)), lambda: within(NO_MORE_TRIES))


def test_a_receiver_that_is_busy_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cohort_pipelines.destinations.exchange._UNNAMED_WAIT", 0.01)
    busy = raw(429, headers={"retry-after": "60"})
    waiting: list[timedelta] = []

    def permit() -> datetime | None:
        if len(waiting) == 2:
            return None
        waiting.append(timedelta(0))
        return clock.now() + timedelta(seconds=0.05)

    ended, messages = published(in_turn(busy), audience(users(1)), permit)

    assert ended == Publication(reached="none", requests=1)  # asked once, and then only waited
    assert len(messages) == 1


@pytest.mark.slow
@pytest.mark.parametrize("wait", ["0", "9" * 15, "9" * 400, "Fri, 31 Dec 99999999999 23:59:59 GMT"])
def test_a_receiver_that_is_busy_for_ever_is_asked_less_and_less(wait: str) -> None:
    over = within(2.5)

    def permit() -> datetime | None:
        return None if clock.now() >= over else over

    ended, messages = published(in_turn(raw(429, headers={"retry-after": wait})), audience(users(1)), permit)

    assert isinstance(ended, Publication)
    assert (ended.reached, ended.requests) == ("none", len(messages))
    assert 1 <= len(messages) <= 3 * ATTEMPTS


def test_a_receiver_that_was_busy_takes_the_rest() -> None:
    ended, messages = published(
        in_turn(taken, raw(429, headers={"retry-after": "0"}), taken), audience(users(*range(1_500)))
    )

    assert ended == Publication(requests=3)
    assert [number for number, _, _ in pages_of(messages)] == [1, 2, 2]


def test_a_receiver_that_was_busy_tells_of_the_target_later(partner: ReplacingMessages, standins: InThread) -> None:
    standins.standins.apptimize_faults.add(Fault(kind="status", status=429, headers={"Retry-After": "1"}))

    def permit() -> datetime:
        return clock.now() + timedelta(seconds=0.5)

    with pytest.raises(PartnerTargetMissing) as missing:
        partner.find(TARGET, permit)
    assert missing.value.requests == 2


@pytest.mark.parametrize(("allowed", "reached"), [(0, "none"), (1, "some"), (2, "some"), (3, "all")])
def test_no_page_is_sent_without_a_permit(
    partner: ReplacingMessages, standins: InThread, allowed: int, reached: str
) -> None:
    partner.publish(TARGET, audience(users(9)), within)

    publication = partner.publish(TARGET, audience(users(*range(2_500)), 2), permits(allowed))

    assert (publication.reached, publication.requests) == (reached, allowed)
    assert ids_of(standins) == (users(*range(2_500)) if reached == "all" else users(9))


def test_what_a_permit_raises_ends_it(partner: ReplacingMessages) -> None:
    def refuse() -> datetime | None:
        raise LookupError

    with pytest.raises(LookupError):
        partner.publish(TARGET, audience(users(1)), refuse)


def test_it_is_the_same_end_as_the_receiver_that_adds() -> None:
    adding = webhook(url="https://hook.example/x", account="shop")
    replacing = ReplacingMessages(adding)

    assert (replacing.wire, replacing.host, replacing.account) == (adding.wire, "hook.example", "shop")


def test_it_cannot_be_read_and_is_checked_like_any_receiver(partner: ReplacingMessages, standins: InThread) -> None:
    assert partner.holds(TARGET, "f00d")
    partner.publish(TARGET, audience(users(1)), within)
    assert asyncio.run(partner.check(TARGET)) == "Connected"
    assert ids_of(standins) == users(1)


def test_no_error_tells_the_secret_or_an_id() -> None:
    async def echoing(asked: Asked) -> Raw:
        return raw(400, asked.head.encode() + asked.body)

    async def scenario() -> PartnerError:
        async with odd_server(echoing) as server:
            url = f"{server.url}/topsecret-path"
            receiver = ReplacingMessages(webhook(url=url, auth="query", name="key", secret="topsecret"))
            with pytest.raises(PartnerRequestRejected) as refused:
                await asyncio.to_thread(receiver.publish, TARGET, audience(["id-of-somebody"]), within)
            return refused.value

    error = asyncio.run(scenario())
    assert "topsecret" not in f"{error} {error!r}"
    assert "id-of-somebody" not in f"{error} {error!r}"
