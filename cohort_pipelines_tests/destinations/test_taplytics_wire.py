import asyncio
import json
from collections.abc import Coroutine, Sequence
from datetime import UTC, timedelta
from email.utils import format_datetime
from typing import Any, TypeVar

import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.core.changes import Operation
from cohort_pipelines.core.errors import (
    DestinationInvalid,
    PartnerKeyRefused,
    PartnerOutcomeUnknown,
    PartnerRequestRejected,
    PartnerUnreachable,
)
from cohort_pipelines.destinations.taplytics import Taplytics
from cohort_pipelines.destinations.wire import Answer, ChangeWire
from cohort_pipelines.devtools.standins.faults import Fault
from cohort_pipelines.devtools.standins.server import InThread
from cohort_pipelines_tests.destinations.odd_server import (
    Asked,
    Raw,
    Reply,
    in_turn,
    odd_server,
    raw,
    tried_once,
    within,
)

T = TypeVar("T")

USER = b'{"user_id": "u", "custom_data": {"Beta": true}}'
ANY_USER = b'{"custom_data": {"Beta": true}}'
OTHER_USER = b'{"user_id": "v", "custom_data": {"Beta": true}}'
KEY = "tl-key-not-to-be-seen"
TOO_SHORT_TO_END = 0.4
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
USER_IN_A_CHUNK = b"%x\r\n%s\r\n" % (len(USER), USER)


def stand_in(standins: InThread, **settings: Any) -> Taplytics:  # noqa: ANN401  any of the settings
    return Taplytics(url=standins.taplytics_url, **{"key": standins.credentials.taplytics_key, **settings})


async def send(
    partner: Taplytics, target: str, operation: Operation, ids: Sequence[str], seconds: float = 20.0
) -> Answer:
    async with partner.open(target) as session:
        return await session.send(operation, ids, 1, 1, within(seconds))


async def send_once(partner: Taplytics, target: str, ids: Sequence[str]) -> Answer:
    with tried_once():
        return await send(partner, target, Operation.ADD, ids)


def answered(reply: Reply, ids: Sequence[str], seconds: float | None = None) -> tuple[Answer, list[Asked]]:
    """Return what became of ``ids``, each tried once unless ``seconds`` are given, and what the server was asked."""

    async def scenario() -> tuple[Answer, list[Asked]]:
        async with odd_server(reply) as server:
            partner = Taplytics(key=KEY, url=server.url)
            if seconds is None:
                return await send_once(partner, "Beta", ids), server.asked
            return await send(partner, "Beta", Operation.ADD, ids, seconds), server.asked

    return asyncio.run(scenario())


def checked(reply: Reply) -> str:
    async def scenario() -> str:
        async with odd_server(reply) as server:
            return await Taplytics(key=KEY, url=server.url).check(None)

    return asyncio.run(scenario())


def run(scenario: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(scenario)


def test_joiners_become_true_and_leavers_false_and_other_fields_stay(standins: InThread) -> None:
    state = standins.standins.taplytics
    state.merge("leaver", {"Beta Users": True, "plan": "pro"})
    partner = stand_in(standins)

    added = run(send(partner, "Beta Users", Operation.ADD, ["joiner", "other"]))
    removed = run(send(partner, "Beta Users", Operation.REMOVE, ["leaver"]))

    assert (added, removed) == (Answer(requests=2), Answer(requests=1))
    assert state.users["joiner"] == {"Beta Users": True}
    assert state.users["leaver"] == {"Beta Users": False, "plan": "pro"}
    assert isinstance(partner, ChangeWire)


def test_ids_and_fields_arrive_byte_for_byte(standins: InThread) -> None:
    ids = ["Zoë 🦊", "=1+1", '"quoted", \\ and\nbroken', "nul\x00inside", "x" * 10_000, "ß", "SS", "ss"]

    assert run(send(stand_in(standins), "Größe.$%", Operation.ADD, ids)) == Answer(requests=len(ids))

    assert set(standins.standins.taplytics.members("Größe.$%")) == set(ids)


def test_sending_nobody_asks_nothing(standins: InThread) -> None:
    async def scenario() -> tuple[int, Answer]:
        async with stand_in(standins).open("nobody") as session:
            return await session.establish(within()), await session.send(Operation.ADD, [], 1, 1, within())

    assert run(scenario()) == (0, Answer())


def test_requests_in_flight_reach_the_bound_over_all_chunks_and_never_pass_it() -> None:
    in_flight: list[int] = []
    full = asyncio.Event()

    async def reply(_asked: Asked) -> Raw:
        in_flight.append(in_flight[-1] + 1 if in_flight else 1)
        if in_flight[-1] == 8:
            full.set()
        await full.wait()
        in_flight.append(in_flight[-1] - 1)
        return raw(200, ANY_USER)

    async def scenario() -> list[Answer]:
        async with (
            odd_server(reply) as server,
            Taplytics(key=KEY, url=server.url, concurrency=8).open("Beta") as session,
        ):
            chunks = [[f"{chunk}-{row}" for row in range(50)] for chunk in range(2)]
            return await asyncio.gather(*(session.send(Operation.ADD, ids, 1, 2, within()) for ids in chunks))

    assert run(scenario()) == [Answer(requests=50), Answer(requests=50)]
    assert max(in_flight) == 8


def test_the_request_is_the_documented_one() -> None:
    _, asked = answered(in_turn(raw(200, USER)), ["u"])

    assert asked[0].head.startswith("POST /v2/users/ HTTP/1.1\r\n")
    assert f"x-access-token: {KEY}" in asked[0].head.lower()
    assert "content-type: application/json" in asked[0].head.lower()
    assert json.loads(asked[0].body) == {"user_id": "u", "custom_data": {"Beta": True}}


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_stops_at_once(status: int) -> None:
    async def scenario() -> int:
        async with odd_server(in_turn(raw(status, KEY.encode()))) as server:
            partner = Taplytics(key=KEY, url=server.url, concurrency=4)
            with pytest.raises(PartnerKeyRefused) as refusal:
                await send(partner, "Beta", Operation.ADD, [str(n) for n in range(100)])
            assert KEY not in str(refusal.value)
            assert refusal.value.requests >= len(server.asked)
            return len(server.asked)

    assert run(scenario()) <= 8


def test_a_key_revoked_in_the_middle_stops_what_is_left() -> None:
    accepted = [raw(200, ANY_USER)] * 10

    async def scenario() -> int:
        async with odd_server(in_turn(*accepted, raw(401))) as server:
            with pytest.raises(PartnerKeyRefused):
                await send(Taplytics(key=KEY, url=server.url, concurrency=4), "Beta", Operation.ADD, ["u"] * 100)
            return len(server.asked)

    assert 10 < run(scenario()) <= 18


def test_a_plan_that_refuses_is_told_without_asking_for_every_row() -> None:
    async def scenario() -> int:
        async with odd_server(in_turn(raw(402))) as server:
            with pytest.raises(PartnerRequestRejected, match="402"):
                await send(Taplytics(key=KEY, url=server.url, concurrency=4), "Beta", Operation.ADD, ["u"] * 100)
            return len(server.asked)

    assert run(scenario()) <= 8


@pytest.mark.parametrize("status", [301, 400, 404, 405, 413, 422])
def test_a_chunk_whose_rows_are_all_refused_alike_is_refused_as_a_whole(status: int) -> None:
    with pytest.raises(PartnerRequestRejected, match=str(status)):
        answered(in_turn(raw(status, b'{"error": "user a"}')), ["a", "b", "c"])


def test_a_bad_row_is_refused_alone() -> None:
    async def reply(asked: Asked) -> Raw:
        return raw(400, asked.body) if b"bad" in asked.body else raw(200, ANY_USER)

    answer, _ = answered(reply, ["good", "bad", "fine"])

    assert answer == Answer(rejected={1: "HTTP 400"}, requests=3)


def test_rows_refused_with_different_statuses_are_told_row_by_row() -> None:
    async def reply(asked: Asked) -> Raw:
        return raw(400 if b"first" in asked.body else 413)

    answer, _ = answered(reply, ["first", "second"])

    assert answer == Answer(rejected={0: "HTTP 400", 1: "HTTP 413"}, requests=2)


@pytest.mark.parametrize(
    ("answer", "seen"),
    [
        pytest.param(raw(500), "HTTP 500", id="500"),
        pytest.param(raw(503), "HTTP 503", id="503"),
        pytest.param(raw(200, b"<!doctype html>Just a moment"), "no user object", id="html"),
        pytest.param(raw(200), "no user object", id="no body"),
        pytest.param(raw(204), "no user object", id="204"),
        pytest.param(raw(200, b"[]"), "no user object", id="not an object"),
        pytest.param(raw(200, b"{}"), "no user object", id="empty object"),
        pytest.param(raw(200, b'{"error": "no such project"}'), "no user object", id="error"),
        pytest.param(raw(200, b'{"user_id": "u"}'), "no user object", id="no custom data"),
        pytest.param(raw(200, b'{"custom_data": null}'), "no user object", id="null"),
        pytest.param(raw(200, b'{"custom_data": {}}'), "does not have", id="empty custom data"),
        pytest.param(raw(200, b'{"custom_data": {"Beta": 1}}'), "does not have", id="a number"),
        pytest.param(raw(200, b'{"user_id": "\xff"}'), "no user object", id="no Unicode"),
        pytest.param(raw(200, b'{"custom_data": ' + b'{"a":' * 100_000), "no user object", id="nested too deep"),
        pytest.param(raw(200, b" " * 2**20 + USER), "larger than 1 MB", id="larger than any user"),
        pytest.param(Raw(CHUNKED, hang_up=True), "did not confirm", id="cut after its headers"),
        pytest.param(Raw(CHUNKED + USER_IN_A_CHUNK, hang_up=True), "did not confirm", id="without the last chunk"),
        pytest.param(raw(200, USER, headers={"x": "a" * 72_000}), "larger than 64 KB", id="headers too large"),
        pytest.param(raw(200, b'{"user_id": "u", "custom_'), "no user object", id="half a JSON"),
        pytest.param(raw(200, OTHER_USER), "another user", id="another user"),
        pytest.param(raw(200, USER[:-1] + b', "error": "failed"}'), "another user", id="the user and an error"),
        pytest.param(raw(200, USER[:-1] + b', "success": false}'), "another user", id="the user and no success"),
        pytest.param(raw(206, USER), "HTTP 206", id="a part"),
        pytest.param(raw(200, USER, headers={"content-encoding": "br"}), "not asked for", id="packed otherwise"),
        pytest.param(raw(200, b'{"custom_data": {"Beta": false}}'), "does not have", id="opposite"),
        pytest.param(raw(200, b'{"custom_data": {"Beta": "true"}}'), "does not have", id="another value"),
        pytest.param(raw(200, b'{"custom_data": {"Other": true}}'), "does not have", id="not stored"),
        pytest.param(raw(200, USER, length=len(USER) + 9), "did not confirm", id="shorter than its Content-Length"),
        pytest.param(Raw(b"", hang_up=True), "did not confirm", id="cut"),
        pytest.param(Raw(b"what?\r\n\r\n", hang_up=True), "did not confirm", id="no HTTP"),
        pytest.param(Raw(raw(200, USER).content, trickle=0.05), "TimeoutError", id="slow-loris"),
    ],
)
def test_an_answer_that_confirms_nothing_is_unknown(answer: Raw, seen: str) -> None:
    got, asked = answered(in_turn(answer), ["u"], TOO_SHORT_TO_END if answer.trickle else None)

    assert list(got.unknown) == [0]
    assert seen in got.unknown[0]
    assert not got.rejected
    assert got.requests == len(asked) == 1


@pytest.mark.parametrize("body", [USER, b'{"_id": "5", "custom_data": {"Other": 1, "Beta": true}, "email": null}'])
def test_the_user_with_what_was_sent_is_an_acknowledgement(body: bytes) -> None:
    assert answered(in_turn(raw(200, body)), ["u"])[0] == Answer(requests=1)


@pytest.mark.slow
@pytest.mark.parametrize("wait", ["0", "1", "date", "soon", None])
def test_being_told_to_wait_is_obeyed_and_then_tried_again(wait: str | None) -> None:
    if wait == "date":
        wait = format_datetime((clock.now() + timedelta(seconds=1)).astimezone(UTC), usegmt=True)
    told = {} if wait is None else {"Retry-After": wait}

    answer, asked = answered(in_turn(raw(429, headers=told), raw(200, USER)), ["u"], seconds=10)

    assert answer == Answer(requests=2)
    assert len(asked) == 2


def test_an_absurd_wait_is_not_begun() -> None:
    answer, asked = answered(in_turn(raw(429, headers={"Retry-After": "999999999"})), ["u"], seconds=60)

    assert (list(answer.not_sent), answer.unknown, answer.again_after, len(asked)) == ([0], {}, 999_999_999, 1)


def test_a_row_that_was_only_rate_limited_is_as_it_was_and_the_rest_is_spared() -> None:
    async def scenario() -> tuple[Answer, int]:
        async with odd_server(in_turn(raw(429))) as server:
            partner = Taplytics(key=KEY, url=server.url, concurrency=4)
            answer = await send_once(partner, "Beta", [str(n) for n in range(100)])
            return answer, len(server.asked)

    answer, asked = run(scenario())

    assert (set(answer.not_sent), answer.unknown) == (set(range(100)), {})
    assert answer.again_after is not None
    assert answer.again_after > 0
    assert answer.requests == asked <= 8


def test_a_partner_that_is_down_is_spared_the_rest_of_the_chunk() -> None:
    async def scenario() -> tuple[Answer, int]:
        async with odd_server(in_turn(raw(500))) as server:
            partner = Taplytics(key=KEY, url=server.url, concurrency=4)
            answer = await send_once(partner, "Beta", [str(n) for n in range(100)])
            return answer, len(server.asked)

    answer, asked = run(scenario())

    assert 1 <= len(answer.unknown) <= 8
    assert set(answer.unknown) | set(answer.not_sent) == set(range(100))
    assert answer.again_after is None
    assert answer.requests == asked <= 8


def test_nothing_is_sent_after_the_deadline() -> None:
    answer, asked = answered(in_turn(raw(200, USER)), ["u", "v"], seconds=-1)

    assert (set(answer.not_sent), answer.again_after, asked, answer.requests) == ({0, 1}, 0.0, [], 0)


def test_a_lost_answer_is_unknown_although_the_flag_was_stored_and_sending_again_settles_it(standins: InThread) -> None:
    standins.standins.taplytics_faults.add(Fault("lost_response", contains="unlucky"))
    partner = stand_in(standins)

    first = run(send_once(partner, "Lost", ["lucky", "unlucky"]))
    again = run(send(partner, "Lost", Operation.ADD, ["unlucky"]))

    assert (list(first.unknown), first.rejected) == ([1], {})
    assert again == Answer(requests=1)
    assert set(standins.standins.taplytics.members("Lost")) == {"lucky", "unlucky"}


@pytest.mark.slow
def test_a_burst_of_failures_is_outlasted(standins: InThread) -> None:
    standins.standins.taplytics_faults.add(Fault("status", times=2, contains="patient"))

    answer = run(send(stand_in(standins), "Burst", Operation.ADD, ["patient"]))

    assert answer == Answer(doubtful=frozenset({0}), requests=3)


def test_a_row_acknowledged_after_a_lost_answer_is_doubtful(standins: InThread) -> None:
    standins.standins.taplytics_faults.add(Fault("lost_response", contains="unlucky"))

    answer = run(send(stand_in(standins), "Doubt", Operation.ADD, ["lucky", "unlucky"]))

    assert answer == Answer(doubtful=frozenset({1}), requests=3)


def test_a_row_that_was_rate_limited_before_is_not_doubtful(standins: InThread) -> None:
    standins.standins.taplytics_faults.add(Fault("status", status=429))

    assert run(send(stand_in(standins), "Busy", Operation.ADD, ["u"])) == Answer(requests=2)


def test_a_row_refused_after_a_lost_answer_is_unknown(standins: InThread) -> None:
    standins.standins.taplytics_faults.add(Fault("lost_response", contains="unlucky"))
    standins.standins.taplytics_faults.add(Fault("status", status=400, times=None))

    answer = run(send(stand_in(standins), "Refused", Operation.ADD, ["rejected", "unlucky"]))

    assert (answer.rejected, list(answer.unknown), answer.requests) == ({0: "HTTP 400"}, [1], 3)
    assert "HTTP 400, after a try" in answer.unknown[1]
    assert set(standins.standins.taplytics.members("Refused")) == {"unlucky"}


def test_a_closed_port_leaves_rows_as_they_were_and_is_unreachable_for_check(unused_port: int) -> None:
    partner = Taplytics(key=KEY, url=f"http://127.0.0.1:{unused_port}")

    answer = run(send_once(partner, "Beta", ["u"]))

    assert (list(answer.not_sent), answer.unknown, answer.again_after) == ([0], {}, None)
    with pytest.raises(PartnerUnreachable):
        run(partner.check(None))


def test_check_changes_nobody(standins: InThread) -> None:
    before = dict(standins.standins.taplytics.users)

    assert run(stand_in(standins).check("Beta")) == "Connected"
    with pytest.raises(PartnerKeyRefused):
        run(stand_in(standins, key="wrong").check("Beta"))

    assert standins.standins.taplytics.users == before


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (402, PartnerRequestRejected),
        (404, PartnerRequestRejected),
        (403, PartnerKeyRefused),
        (500, PartnerOutcomeUnknown),
    ],
)
def test_check_says_why_it_is_not_connected(status: int, error: type[Exception]) -> None:
    with pytest.raises(error, match=str(status)):
        checked(in_turn(raw(status)))


def test_what_tells_the_connection_apart_holds_no_secret() -> None:
    partner = Taplytics(key=KEY, url="https://taplytics.example:8443/proxy/", account="second")

    assert (partner.wire, partner.host, partner.account) == ("taplytics", "taplytics.example:8443", "second")
    assert KEY not in repr(partner)


@pytest.mark.parametrize(
    "settings",
    [{"key": ""}, {"key": "two\nlines"}, {"key": "ключ"}, {"key": "k", "header": "x:"}, {"key": "k", "concurrency": 0}],
)
def test_settings_that_cannot_be_sent_are_refused_without_showing_them(settings: dict[str, Any]) -> None:
    with pytest.raises(DestinationInvalid) as refusal:
        Taplytics(**settings)

    assert not settings["key"] or settings["key"] not in str(refusal.value)
