import asyncio
import json
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import httpx
import pytest

from cohort_pipelines.devtools.standins.behaviour import Behaviour, Reception

pytestmark = pytest.mark.slow

TARGET = "Beta Users"
STRANGERS = [f"never-sent-{number}" for number in range(3)]


class Caller:
    """One of the two partners, spoken to in its own way."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client

    def behave(self, **fields: Any) -> dict[str, Any]:  # noqa: ANN401  whatever a behaviour has
        answer = self.client.post("/standin/behaviour", json=fields)
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        return told

    def land(self, **fields: Any) -> dict[str, int]:  # noqa: ANN401  a count, or none
        landed: dict[str, int] = self.client.post("/standin/land", json=fields).json()
        return landed

    def edit(self, **fields: Any) -> httpx.Response:  # noqa: ANN401  ids or a number of them
        return self.client.post("/standin/edit", json={"target": TARGET, **fields})

    def pending(self) -> int:
        number: int = self.client.get("/standin/state").json()["pending"]
        return number

    def lands_by_itself(self) -> bool:
        return any(self.pending() == 0 for _ in range(1000))  # asking lets the server's loop go on

    def held(self) -> list[str]:
        of_target = {"field": TARGET, "group": TARGET}
        return [json.loads(line) for line in self.client.get("/standin/state", params=of_target).text.splitlines()]

    def put(self, some_id: str, member: bool = True) -> httpx.Response:
        raise NotImplementedError


class Taplytics(Caller):
    def put(self, some_id: str, member: bool = True) -> httpx.Response:
        return self.client.post("/v2/users/", json={"user_id": some_id, "custom_data": {TARGET: member}})


class Apptimize(Caller):
    def put(self, some_id: str, member: bool = True) -> httpx.Response:
        return self.send("members" if member else "remove_members", [some_id])

    def send(
        self, action: str, ids: Iterable[str], page: int = 1, pages: int = 1, session: str = "s"
    ) -> httpx.Response:
        parameters = {
            "mixpanel_cohort_name": TARGET,
            "mixpanel_cohort_id": "1",
            "mixpanel_session_id": session,
            "page_info": {"total_pages": pages, "page_count": page},
            "members": [{"mixpanel_distinct_id": one} for one in ids],
        }
        return self.client.post("/cohorts", json={"action": action, "parameters": parameters})


@pytest.fixture(params=["taplytics", "apptimize"])
def partner(request: pytest.FixtureRequest) -> Caller:
    client: httpx.Client = request.getfixturevalue(request.param)
    return Taplytics(client) if request.param == "taplytics" else Apptimize(client)


@pytest.fixture
def messages(apptimize: httpx.Client) -> Apptimize:
    return Apptimize(apptimize)


def put_all(partner: Caller, ids: Iterable[str], member: bool = True) -> None:
    for some_id in ids:
        assert partner.put(some_id, member).status_code == 200


def test_a_late_request_gets_no_answer_and_arrives_when_told_to(partner: Caller) -> None:
    partner.put("a")
    partner.behave(late=1, late_after=1)
    partner.put("b")
    with pytest.raises(httpx.RemoteProtocolError):
        partner.put("c")
    put_all(partner, "d")
    assert (partner.held(), partner.pending()) == (["a", "b", "d"], 1)
    assert partner.land() == {"landed": 1, "pending": 0}
    assert partner.held() == ["a", "b", "c", "d"]


def test_a_late_request_undoes_what_came_after_it(partner: Caller) -> None:
    partner.put("u")
    partner.behave(late=1)
    with pytest.raises(httpx.RemoteProtocolError):
        partner.put("u", member=False)
    put_all(partner, "u")
    assert partner.held() == ["u"]
    partner.land()
    assert partner.held() == []


def test_a_gateway_can_answer_for_a_late_request(partner: Caller) -> None:
    partner.behave(late=None, late_status=504)
    assert [partner.put(one).status_code for one in "ab"] == [504, 504]
    partner.behave(late=0)
    assert partner.put("c").status_code == 200
    assert partner.held() == ["c"]
    assert partner.land(count=1) == {"landed": 1, "pending": 1}
    assert partner.held() == ["a", "c"]
    path = partner.client.get("/standin/requests").json()["requests"]
    assert [(row["status"], row["count"]) for row in path] == [(200, 1), (504, 2)]


def test_what_is_late_lands_by_itself(partner: Caller) -> None:
    partner.behave(late=1, late_status=504, apply_after=0)
    partner.put("a")
    assert partner.lands_by_itself()
    assert partner.held() == ["a"]


def test_a_share_of_the_requests_is_late_and_the_seed_says_which(partner: Caller) -> None:
    late = []
    for seed in (7, 7, 8):
        partner.behave(late_share=0.5, late_status=504, seed=seed)
        late.append([partner.put(f"u{number}").status_code == 504 for number in range(40)])
        partner.land()
    assert late[0] == late[1] != late[2]
    assert 5 < sum(late[0]) < 35


def test_a_late_request_is_judged_when_it_lands(partner: Caller) -> None:
    partner.behave(late=1, late_status=504)
    partner.put("bad")
    partner.behave(refuse=["bad"])
    assert partner.land() == {"landed": 1, "pending": 0}
    assert partner.held() == []


def test_an_asynchronous_partner_acknowledges_before_it_applies(partner: Caller) -> None:
    put_all(partner, "a")
    partner.behave(asynchronous=True)
    put_all(partner, "bc")
    put_all(partner, "a", member=False)
    assert (partner.held(), partner.pending()) == (["a"], 3)
    assert partner.client.get("/standin/behaviour").json()["pending"] == 3
    assert partner.land(count=1) == {"landed": 1, "pending": 2}
    assert partner.held() == ["a", "b"]
    partner.land()
    assert partner.held() == ["b", "c"]


def test_an_asynchronous_partner_refuses_at_once(partner: Caller) -> None:
    partner.behave(asynchronous=True, refuse=["bad"])
    assert partner.put("bad").status_code == 400
    assert partner.pending() == 0


def test_what_was_acknowledged_is_applied_by_itself(partner: Caller) -> None:
    partner.behave(asynchronous=True, apply_after=0, reordered=True)
    put_all(partner, "ab")
    assert partner.lands_by_itself()
    assert partner.held() == ["a", "b"]


def test_what_is_late_and_what_is_acknowledged_wait_together(partner: Caller) -> None:
    put_all(partner, "a")
    partner.behave(asynchronous=True, late=1, late_status=504)
    partner.put("u")
    put_all(partner, "u", member=False)
    assert partner.land(count=1) == {"landed": 1, "pending": 1}
    assert partner.held() == ["a", "u"]
    partner.land()
    assert partner.held() == ["a"]


def test_the_group_of_an_acknowledged_message_is_there_at_once(messages: Apptimize) -> None:
    messages.behave(asynchronous=True)
    assert messages.send("add_members", ["u"]).status_code == 404
    assert messages.send("members", []).status_code == 200
    assert messages.send("add_members", ["u"]).status_code == 200
    messages.land()
    assert messages.held() == ["u"]


def order_of_landing(partner: Caller, seed: int) -> list[str]:
    ids = [f"{seed}-{number}" for number in range(8)]
    partner.behave(asynchronous=True, reordered=True, seed=seed)
    put_all(partner, ids)
    order: list[str] = []
    for _ in ids:
        partner.land(count=1)
        order += sorted({one for one in partner.held() if one in ids} - set(order))
    partner.edit(remove=ids)
    assert sorted(order) == ids
    return [one.partition("-")[2] for one in order]


def test_pending_effects_can_land_out_of_order_and_the_seed_says_how(partner: Caller) -> None:
    first, again, other = (order_of_landing(partner, seed) for seed in (1, 1, 2))
    assert first == again != other
    assert any(earlier > later for earlier, later in pairwise(first))


def test_timers_land_out_of_order_too() -> None:
    async def landed(*, reordered: bool) -> list[int]:
        reception, order = Reception(Behaviour(asynchronous=True, apply_after=0.05, reordered=reordered)), list[int]()
        for number in range(20):
            reception.apply(lambda number=number: order.append(number), landing=False)  # type: ignore[misc]
        await asyncio.gather(*reception._timers)
        return order

    assert asyncio.run(landed(reordered=False)) == list(range(20))
    assert sorted(asyncio.run(landed(reordered=True))) == list(range(20)) != asyncio.run(landed(reordered=True))


def test_a_receiver_that_replaces_waits_for_the_last_page_to_land(messages: Apptimize) -> None:
    messages.send("members", ["old"])
    messages.behave(members="replace", late=1, late_status=504)
    assert messages.send("members", ["a"], page=1, pages=2, session="t").status_code == 504
    assert messages.send("members", ["b"], page=2, pages=2, session="t").status_code == 200
    assert messages.held() == ["old"]
    messages.land()
    assert messages.held() == ["a", "b"]
    assert messages.send("add_members", ["c"]).status_code == 200
    assert messages.held() == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("equality", "first", "second", "third"),
    [("casefold", "Straße", "STRASSE", "Strasse"), ("nfc", "Zoe\u0308", "Zo\u00eb", "Zoe\u0308")],
)
def test_two_spellings_can_be_one_user(partner: Caller, equality: str, first: str, second: str, third: str) -> None:
    partner.behave(id_equality=equality)
    put_all(partner, [first, second, "other"])
    assert partner.held() == sorted([first, "other"])
    put_all(partner, [third], member=False)
    assert partner.held() == ["other"]


def test_spellings_are_told_apart_unless_it_is_said_otherwise(partner: Caller) -> None:
    put_all(partner, ["Ada", "ada"])
    partner.behave(id_equality="casefold")
    put_all(partner, ["ADA"], member=False)
    assert len(partner.held()) == 1  # both were there already; one of them is the user that is written to


def test_ids_that_we_never_sent_can_be_there(partner: Caller) -> None:
    assert partner.edit(add=3).json() == {"users": 3}
    assert partner.held() == STRANGERS
    put_all(partner, "u")
    assert partner.held() == [*STRANGERS, "u"]
    assert partner.client.get("/standin/requests").json()["requests"][0]["count"] == 1


def test_somebody_can_edit_the_target(partner: Caller) -> None:
    put_all(partner, "abc")
    partner.behave(asynchronous=True, ignore=["d"], refuse=["e"], id_equality="casefold")
    assert partner.edit(add=["d", "e", "B"], remove=["A", "unheard of"]).json() == {"users": 4}
    assert partner.held() == ["b", "c", "d", "e"]


def test_an_edit_is_not_among_what_was_sent(taplytics: httpx.Client, messages: Apptimize) -> None:
    Taplytics(taplytics).edit(add=["u"])
    messages.edit(add=["u"])
    assert taplytics.get("/standin/writes").json() == messages.client.get("/standin/messages").json() == []
    assert taplytics.get("/standin/state").json()["created"] == 0


def test_particular_ids_can_be_refused(partner: Caller) -> None:
    put_all(partner, ["bad"])
    partner.behave(refuse=["bad"])
    for member in (True, False):
        answer = partner.put("bad", member)
        assert answer.status_code == 400
        assert "bad" not in answer.text
    assert partner.held() == ["bad"]
    partner.behave(refuse=[])
    put_all(partner, ["bad"], member=False)
    assert partner.held() == []


def test_one_bad_row_poisons_a_page(messages: Apptimize) -> None:
    messages.behave(refuse=["bad"])
    assert messages.send("members", ["a", "bad", "b"]).status_code == 400
    assert messages.client.get("/standin/state").json()["groups"] == {}
    assert messages.send("members", ["a", "b"]).status_code == 200
    assert messages.held() == ["a", "b"]


def test_a_partner_can_store_fewer_than_it_accepts(partner: Caller) -> None:
    put_all(partner, ["kept"])
    partner.behave(ignore=["lost", "kept"])
    put_all(partner, ["lost", "stored"])
    put_all(partner, ["kept"], member=False)
    assert partner.held() == ["kept", "stored"]


def test_a_behaviour_is_changed_field_by_field_and_can_be_taken_back(partner: Caller) -> None:
    at_start = partner.client.get("/standin/behaviour").json()
    partner.behave(late=5)
    told = partner.behave(asynchronous=True)
    assert (told["behaviour"]["late"], told["behaviour"]["asynchronous"]) == (5, True)
    assert partner.client.delete("/standin/behaviour").json() == at_start


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("behaviour", {"lateness": 1}),
        ("behaviour", {"late": "often"}),
        ("behaviour", {"id_equality": "soundex"}),
        ("behaviour", []),
        ("land", {"number": 1}),
        ("edit", {"add": ["u"]}),
        ("edit", {"target": TARGET, "add": "u"}),
    ],
)
def test_what_makes_no_sense_is_refused(partner: Caller, path: str, body: Any) -> None:  # noqa: ANN401  any JSON
    before = partner.client.get("/standin/behaviour").json()
    assert partner.client.post(f"/standin/{path}", json=body).status_code == 400
    assert partner.client.get("/standin/behaviour").json() == before
    assert partner.held() == []
