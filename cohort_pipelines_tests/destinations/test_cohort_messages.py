import asyncio
import json
from collections.abc import Callable, Coroutine
from contextlib import nullcontext
from datetime import datetime
from typing import Any, TypeVar

import pytest

from cohort_pipelines.core.changes import Operation
from cohort_pipelines.core.errors import (
    PartnerError,
    PartnerKeyRefused,
    PartnerOutcomeUnknown,
    PartnerRequestRejected,
    PartnerUnreachable,
)
from cohort_pipelines.destinations.apptimize import apptimize_http
from cohort_pipelines.destinations.receiver import CohortMessages
from cohort_pipelines.destinations.wire import Answer, ChangeWire, Session
from cohort_pipelines.devtools.standins.faults import Fault
from cohort_pipelines.devtools.standins.server import InThread
from cohort_pipelines_tests.destinations.odd_server import (
    Asked,
    Raw,
    Reply,
    in_turn,
    odd_server,
    raw,
    taken,
    tried_once,
    within,
)

T = TypeVar("T")

TOO_SHORT_TO_END = 0.4
TAKEN = b'{"action": "add_members", "status": "success"}'
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
TAKEN_IN_A_CHUNK = b"%x\r\n%s\r\n" % (len(TAKEN), TAKEN)


def run(scenario: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(scenario)


def stand_in(standins: InThread, token: str | None = None) -> CohortMessages:
    return apptimize_http(
        url=standins.apptimize_url, token=token or standins.credentials.apptimize_token, region="eu", cohort_id=7
    )


def receiver(url: str) -> CohortMessages:
    return CohortMessages(partner="P", url=url, headers={"x-key": "k"}, project_id=12, cohort_id=34)


def answered(
    reply: Reply, what: Callable[[Session, datetime], Coroutine[Any, Any, T]], seconds: float | None = None
) -> tuple[T, list[Asked]]:
    """Return what came of ``what``, each request tried once unless ``seconds`` are given, and what was asked."""

    async def scenario() -> tuple[T, list[Asked]]:
        async with odd_server(reply) as server, receiver(server.url).open("Beta") as session:
            with tried_once() if seconds is None else nullcontext():
                return await what(session, within(seconds or 20)), server.asked

    return run(scenario())


async def add_two(session: Session, deadline: datetime) -> Answer:
    return await session.send(Operation.ADD, ["a", "b"], 2, 5, deadline)


def ids_of(standins: InThread, group: str) -> set[str]:
    return standins.standins.apptimize.groups[group].ids


def test_a_group_is_made_filled_and_emptied(standins: InThread) -> None:
    async def scenario() -> tuple[int, Answer, Answer]:
        async with stand_in(standins).open("Mixpanel: Beta") as session:
            made = await session.establish(within())
            added = await session.send(Operation.ADD, ["i_1", "i_2", "i_3"], 1, 1, within())
            return made, added, await session.send(Operation.REMOVE, ["i_2", "i_unknown"], 1, 1, within())

    assert run(scenario()) == (1, Answer(requests=1), Answer(requests=1))
    assert ids_of(standins, "Mixpanel: Beta") == {"i_1", "i_3"}
    assert isinstance(stand_in(standins), ChangeWire)


def test_ids_arrive_byte_for_byte_and_a_page_may_be_full(standins: InThread) -> None:
    partner = stand_in(standins)
    ids = ['i_Zoë 🦊"\n\x00', "=1+1", *(f"i_{n}" for n in range(partner.chunk_rows - 2))]

    async def scenario() -> Answer:
        async with partner.open("Mixpanel: Full") as session:
            await session.establish(within())
            return await session.send(Operation.ADD, ids, 1, 1, within())

    assert run(scenario()) == Answer(requests=1)
    assert ids_of(standins, "Mixpanel: Full") == set(ids)
    assert partner.chunk_rows == 1_000


def test_messages_are_the_published_ones() -> None:
    async def whole_export(session: Session, deadline: datetime) -> None:
        await session.establish(deadline)
        await session.send(Operation.ADD, ["a", "b"], 2, 5, deadline)
        await session.send(Operation.REMOVE, ["c"], 5, 5, deadline)

    _, asked = answered(taken, whole_export)
    empty, added, removed = (json.loads(one.body) for one in asked)

    session_id = empty["parameters"]["mixpanel_session_id"]
    assert added == {
        "action": "add_members",
        "parameters": {
            "mixpanel_project_id": "12",
            "mixpanel_cohort_id": "34",
            "mixpanel_cohort_name": "Beta",
            "mixpanel_cohort_description": "",
            "mixpanel_session_id": session_id,
            "page_info": {"total_pages": 5, "page_count": 2},
            "members": [{"mixpanel_distinct_id": "a"}, {"mixpanel_distinct_id": "b"}],
        },
    }
    assert (empty["action"], empty["parameters"]["members"]) == ("members", [])
    assert empty["parameters"]["page_info"] == {"total_pages": 1, "page_count": 1}
    assert (removed["action"], removed["parameters"]["mixpanel_session_id"]) == ("remove_members", session_id)
    assert "content-type: application/json" in asked[0].head.lower()


def test_each_export_has_a_session_of_its_own() -> None:
    async def scenario() -> set[str]:
        async with odd_server(taken) as server:
            for _ in range(2):
                async with receiver(server.url).open("Beta") as session:
                    await session.establish(within())
            return {json.loads(one.body)["parameters"]["mixpanel_session_id"] for one in server.asked}

    assert len(run(scenario())) == 2


@pytest.mark.parametrize(
    "body",
    [
        b'{"action": "add_members", "status": "success"}',
        b'{"action": "add_members", "status": "success", "error": null, "more": [1]}',
    ],
)
def test_the_published_reply_is_an_acknowledgement(body: bytes) -> None:
    assert answered(in_turn(raw(200, body)), add_two)[0] == Answer(requests=1)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(raw(500), id="500"),
        pytest.param(raw(200, b"<!doctype html>Just a moment"), id="html"),
        pytest.param(raw(200, b"ok"), id="text"),
        pytest.param(raw(200, b'"success"'), id="not an object"),
        pytest.param(raw(200), id="no body"),
        pytest.param(raw(204), id="204"),
        pytest.param(raw(200, b"{}"), id="empty object"),
        pytest.param(raw(200, b'{"success": false}'), id="success false"),
        pytest.param(raw(200, b'{"success": true}'), id="success true"),
        pytest.param(raw(200, b'{"message": "ok"}'), id="message"),
        pytest.param(raw(200, b'{"status": "success"}'), id="no action"),
        pytest.param(raw(200, b'{"action": "add_members"}'), id="no status"),
        pytest.param(raw(200, b'{"status": "success", "action": "members"}'), id="of another message"),
        pytest.param(raw(200, b'{"status": "\xff"}'), id="no Unicode"),
        pytest.param(raw(200, b'{"error": ' + b"[" * 100_000), id="nested too deep"),
        pytest.param(raw(200, TAKEN + b" " * 2**20), id="larger than any reply"),
        pytest.param(raw(200, TAKEN, length=99), id="shorter than its Content-Length"),
        pytest.param(Raw(CHUNKED + TAKEN_IN_A_CHUNK, hang_up=True), id="without the last chunk"),
        pytest.param(Raw(CHUNKED, hang_up=True), id="cut after its headers"),
        pytest.param(raw(200, TAKEN[:-1] + b', "error": "partial"}'), id="success and an error"),
        pytest.param(raw(206, TAKEN), id="a part"),
        pytest.param(raw(200, b'{"status": "queued"}'), id="another status"),
        pytest.param(raw(200, b'{"error": {"message": "no"}}'), id="error without status"),
        pytest.param(raw(200, b'{"status": "failure", "error": {"message": "b", "code": 503}}'), id="failure 503"),
        pytest.param(raw(200, b'{"status"', length=99), id="half a body"),
        pytest.param(Raw(b"", hang_up=True), id="cut"),
        pytest.param(Raw(raw(200, TAKEN).content, trickle=0.05), id="slow-loris"),
    ],
)
def test_an_answer_that_confirms_nothing_leaves_every_row_unknown(answer: Raw) -> None:
    got, asked = answered(in_turn(answer), add_two, TOO_SHORT_TO_END if answer.trickle else None)

    assert set(got.unknown) == {0, 1}
    assert not got.rejected
    assert got.requests == len(asked) == 1


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (raw(401, b"k"), PartnerKeyRefused),
        (raw(403), PartnerKeyRefused),
        (raw(400, b'{"error": "user a"}'), PartnerRequestRejected),
        (raw(404), PartnerRequestRejected),
        (raw(413), PartnerRequestRejected),
        (raw(200, b'{"status": "failure", "error": {"message": "user a", "provider": "x"}}'), PartnerRequestRejected),
        (raw(200, b'{"status": "failure"}'), PartnerRequestRejected),
        (raw(200, b'{"status": "failure", "error": "user a"}'), PartnerRequestRejected),
        (raw(200, b'{"status": "failure", "error": {"code": 404}}'), PartnerRequestRejected),
        (raw(200, b'{"status": "failure", "error": {"code": 401}}'), PartnerKeyRefused),
    ],
)
def test_a_refused_page_is_refused_as_a_whole_in_words_of_ours(answer: Raw, error: type[PartnerError]) -> None:
    with pytest.raises(error) as refusal:
        answered(in_turn(answer), add_two)

    assert "user a" not in str(refusal.value)


def test_a_wait_that_fits_is_waited_for_and_one_that_does_not_is_not_begun() -> None:
    brief = answered(in_turn(raw(429, headers={"Retry-After": "1"}), taken), add_two, seconds=10)[0]
    absurd = answered(in_turn(raw(503, headers={"Retry-After": "86400"})), add_two, seconds=10)[0]

    assert brief == Answer(requests=2)
    assert (set(absurd.unknown), absurd.requests) == ({0, 1}, 1)


@pytest.mark.parametrize(
    ("answer", "wait"),
    [
        (raw(429), 5.0),
        (raw(429, headers={"Retry-After": "86400"}), 86_400.0),
        (raw(200, b'{"status": "failure", "error": {"code": "429"}}'), 5.0),
    ],
)
def test_a_page_that_was_only_rate_limited_leaves_its_rows_as_they_were(answer: Raw, wait: float) -> None:
    got, asked = answered(in_turn(answer), add_two)

    assert (set(got.not_sent), got.unknown, got.again_after) == ({0, 1}, {}, wait)
    assert got.requests == len(asked) == 1


def test_a_page_that_found_no_server_leaves_its_rows_as_they_were(unused_port: int) -> None:
    async def scenario() -> Answer:
        async with receiver(f"http://127.0.0.1:{unused_port}").open("Beta") as session:
            return await add_two(session, within())

    with tried_once():
        answer = run(scenario())
    assert (set(answer.not_sent), answer.unknown, answer.again_after) == ({0, 1}, {}, None)


def test_a_message_fewer_is_under_way_than_there_are_workers() -> None:
    in_flight: list[int] = [0]
    full = asyncio.Event()

    async def reply(asked: Asked) -> Raw:
        in_flight.append(in_flight[-1] + 1)
        if in_flight[-1] == 2:
            full.set()
        await full.wait()
        in_flight.append(in_flight[-1] - 1)
        return await taken(asked)

    async def scenario() -> int:
        async with odd_server(reply) as server:
            partner = receiver(server.url)
            async with partner.open("Beta") as session:
                await asyncio.gather(*(add_two(session, within()) for _ in range(3 * partner.workers)))
            return partner.workers

    assert run(scenario()) == max(in_flight) + 1 == 3


def test_establishing_is_tried_again_and_then_says_why_not(standins: InThread) -> None:
    standins.standins.apptimize_faults.add(Fault("cut", times=1))

    async def scenario() -> int:
        async with stand_in(standins).open("Mixpanel: Late") as session:
            return await session.establish(within())

    assert run(scenario()) == 2
    standins.standins.apptimize_faults.add(Fault("status", times=None))
    with tried_once(), pytest.raises(PartnerOutcomeUnknown, match="HTTP 503"):
        run(scenario())


def test_a_lost_answer_is_unknown_although_the_members_were_added(standins: InThread) -> None:
    standins.standins.apptimize_faults.add(Fault("lost_response", contains="add_members"))

    async def scenario() -> tuple[Answer, Answer]:
        async with stand_in(standins).open("Mixpanel: Lost") as session:
            await session.establish(within())
            with tried_once():
                lost = await session.send(Operation.ADD, ["i_1"], 1, 1, within())
            return lost, await session.send(Operation.ADD, ["i_1"], 1, 1, within())

    lost, again = run(scenario())

    assert (list(lost.unknown), again) == ([0], Answer(requests=1))
    assert ids_of(standins, "Mixpanel: Lost") == {"i_1"}


async def fill(standins: InThread, group: str) -> Answer:
    async with stand_in(standins).open(group) as session:
        await session.establish(within())
        return await session.send(Operation.ADD, ["i_1", "i_2"], 1, 1, within())


def test_a_page_acknowledged_after_a_lost_answer_is_doubtful(standins: InThread) -> None:
    standins.standins.apptimize_faults.add(Fault("lost_response", contains="add_members"))

    assert run(fill(standins, "Mixpanel: Doubt")) == Answer(doubtful=frozenset({0, 1}), requests=2)


def test_a_page_that_was_rate_limited_before_is_not_doubtful(standins: InThread) -> None:
    standins.standins.apptimize_faults.add(Fault("status", status=429, contains="add_members"))

    assert run(fill(standins, "Mixpanel: Busy")) == Answer(requests=2)


def test_a_page_refused_after_a_lost_answer_is_unknown(standins: InThread) -> None:
    standins.standins.apptimize_faults.add(Fault("lost_response", contains="add_members"))
    standins.standins.apptimize_faults.add(Fault("status", status=400, contains="add_members"))

    answer = run(fill(standins, "Mixpanel: Refused"))

    assert (set(answer.unknown), answer.doubtful, answer.requests) == ({0, 1}, frozenset(), 2)
    assert "HTTP 400, after a try" in answer.unknown[0]
    assert ids_of(standins, "Mixpanel: Refused") == {"i_1", "i_2"}


def test_check_adds_nobody_and_tells_what_is_there(standins: InThread) -> None:
    partner = stand_in(standins)
    groups = dict(standins.standins.apptimize.groups)

    assert (
        run(partner.check("Mixpanel: Nowhere"))
        == "Connected; it answers 404, so either the group is not there yet or the path of the URL is wrong"
    )
    assert run(partner.check(None)).startswith("Reachable")
    assert standins.standins.apptimize.groups == groups

    async def make() -> None:
        async with partner.open("Mixpanel: There") as session:
            await session.establish(within())

    run(make())
    assert run(partner.check("Mixpanel: There")) == "Connected"
    assert ids_of(standins, "Mixpanel: There") == set()
    with pytest.raises(PartnerKeyRefused):
        run(stand_in(standins, token="wrong").check("Mixpanel: There"))


@pytest.mark.parametrize("target", [None, "Beta"])
def test_check_tells_a_closed_port(target: str | None, unused_port: int) -> None:
    with pytest.raises(PartnerUnreachable):
        run(receiver(f"http://127.0.0.1:{unused_port}").check(target))


@pytest.mark.parametrize("target", [None, "Beta"])
def test_check_tells_a_server_that_fails(target: str | None) -> None:
    async def scenario() -> str:
        async with odd_server(in_turn(raw(502))) as server:
            return await receiver(server.url).check(target)

    with pytest.raises(PartnerOutcomeUnknown, match="502"):
        run(scenario())
