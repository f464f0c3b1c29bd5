import json
import time
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import pytest

from cohort_pipelines.devtools.standins.faults import Fault, Kind
from cohort_pipelines.devtools.standins.project import BETA_USERS
from cohort_pipelines.devtools.standins.services import StandIns

USERS = "/v2/users/"
ENGAGE = "/api/query/engage"
SECRETS = ("authorization", "x-access-token", "apptimizeapitoken")
COHORT = {"filter_by_cohort": json.dumps({"id": BETA_USERS})}


def write(client: httpx.Client, user: str) -> httpx.Response:
    return client.post(USERS, json={"user_id": user, "custom_data": {"beta": True}})


def test_a_fault_acts_on_the_requests_that_it_names(taplytics: httpx.Client) -> None:
    fault = {"kind": "status", "status": 429, "headers": {"Retry-After": "7"}, "body": "slow down", "match": USERS}
    taplytics.post("/standin/faults", json=fault | {"after": 1, "times": 2, "contains": "hit"})
    assert [write(taplytics, user).status_code for user in ("hit 1", "x", "hit 2", "hit 3", "hit 4")] == [
        200,
        200,
        429,
        429,
        200,
    ]


def test_a_status_fault_answers_as_told(taplytics: httpx.Client, standins: StandIns) -> None:
    standins.taplytics_faults.add(Fault(kind="status", status=429, headers={"Retry-After": "7"}, body="slow down"))
    answer = write(taplytics, "u")
    assert (answer.status_code, answer.headers["retry-after"], answer.text) == (429, "7", "slow down")
    assert standins.taplytics.users == {}


def test_a_page_of_html_can_come_instead(taplytics: httpx.Client, standins: StandIns) -> None:
    standins.taplytics_faults.add(Fault(kind="html"))
    answer = write(taplytics, "u")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html")
    assert standins.taplytics.users == {}


@pytest.mark.parametrize(("kind", "stored"), [("cut", False), ("lost_response", True), ("half_body", True)])
def test_a_connection_can_break(taplytics: httpx.Client, standins: StandIns, kind: Kind, stored: bool) -> None:
    standins.taplytics_faults.add(Fault(kind=kind))
    with pytest.raises(httpx.RemoteProtocolError):
        write(taplytics, "u")
    assert ("u" in standins.taplytics.users) is stored
    assert write(taplytics, "v").status_code == 200


def test_an_answer_can_be_late(taplytics: httpx.Client, standins: StandIns) -> None:
    standins.taplytics_faults.add(Fault(kind="delay", seconds=0.2))
    assert write(taplytics, "u").elapsed.total_seconds() >= 0.2


def test_an_answer_can_trickle(taplytics: httpx.Client, standins: StandIns) -> None:
    standins.taplytics_faults.add(Fault(kind="slow_loris", seconds=0.001))
    with taplytics.stream("POST", USERS, json={"user_id": "u"}) as answer:
        pieces = list(answer.iter_raw())
    assert len(pieces) > 1
    assert json.loads(b"".join(pieces)) == {"user_id": "u", "custom_data": {}}


def test_who_hangs_up_ends_a_trickle(mixpanel: httpx.Client, standins: StandIns) -> None:
    standins.mixpanel_faults.add(Fault(kind="slow_loris", seconds=3600))
    with pytest.raises(httpx.ReadTimeout):
        mixpanel.post(ENGAGE, data=COHORT, timeout=0.5)
    asked = (mixpanel.get("/standin/queries") for _ in range(1000))  # the server hears of it between two requests
    assert any(answer.is_success and standins.mixpanel.budget.running == 0 for answer in asked)


def test_an_answer_can_be_longer_than_it_says(taplytics: httpx.Client, standins: StandIns) -> None:
    taplytics.headers["connection"] = "close"  # the server closes it, and may not have by the next request
    whole = write(taplytics, "u").content
    standins.taplytics_faults.add(Fault(kind="wrong_length"))
    answer = write(taplytics, "u")
    assert answer.content == whole[: len(whole) // 2]
    assert answer.headers["content-length"] == str(len(whole) // 2)
    assert write(taplytics, "v").status_code == 200


@pytest.mark.parametrize("service", ["mixpanel", "taplytics", "apptimize"])
def test_a_careless_server_repeats_what_is_secret(service: str, request: pytest.FixtureRequest) -> None:
    client: httpx.Client = request.getfixturevalue(service)
    client.post("/standin/faults", json={"kind": "echo", "status": 400})
    asked = client.build_request("POST", "/engage", params={"api_token": "in-the-url"}, json={"user_id": "u"})
    answer = client.send(asked, auth=client.auth)
    assert answer.status_code == 400
    secret = next(answer.request.headers[name] for name in SECRETS if name in answer.request.headers)
    for part in (secret, "/engage?", "api_token=in-the-url", asked.content.decode()):
        assert part in answer.text


@pytest.mark.parametrize(
    "headers",
    [{}, {"Retry-After": "30"}, {"Retry-After": "Wed, 21 Oct 2099 07:28:00 GMT"}, {"Retry-After": "999999999"}],
)
def test_a_partner_can_turn_everything_away(
    apptimize: httpx.Client, standins: StandIns, headers: dict[str, str]
) -> None:
    apptimize.post("/standin/faults", json={"kind": "status", "status": 429, "headers": headers, "times": None})
    answers = [apptimize.post("/cohorts", json={}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [429, 429, 429]
    assert answers[2].headers.get("retry-after") == headers.get("Retry-After")
    assert standins.apptimize.groups == {}


def date_offset(answer: httpx.Response) -> float:
    assert len(answer.headers.get_list("date")) == 1
    return parsedate_to_datetime(answer.headers["date"]).timestamp() - time.time()


def test_the_date_is_right_unless_told_otherwise(mixpanel: httpx.Client, taplytics: httpx.Client) -> None:
    assert abs(date_offset(mixpanel.get("/api/app/me"))) < 60
    assert mixpanel.post("/standin/date", json={"offset": -3600}).json() == {"offset": -3600}
    assert abs(date_offset(mixpanel.get("/api/app/me")) + 3600) < 60
    assert abs(date_offset(write(taplytics, "u"))) < 60


@pytest.mark.parametrize("wrong", [{}, {"offset": "soon"}, [], {"offset": None}])
def test_an_offset_is_a_number(mixpanel: httpx.Client, wrong: Any) -> None:  # noqa: ANN401  any JSON
    assert mixpanel.post("/standin/date", json=wrong).status_code == 400


def test_faults_can_be_switched_off(taplytics: httpx.Client) -> None:
    taplytics.post("/standin/faults", json={"kind": "status", "times": None})
    assert write(taplytics, "u").status_code == 503
    taplytics.delete("/standin/faults")
    assert write(taplytics, "u").status_code == 200


def test_the_stand_ins_own_routes_never_fail(taplytics: httpx.Client, standins: StandIns) -> None:
    standins.taplytics_faults.add(Fault(kind="cut"))
    assert taplytics.get("/standin/state").status_code == 200
    assert taplytics.get("/standin/requests").json() == {"requests": []}
    with pytest.raises(httpx.RemoteProtocolError):
        write(taplytics, "u")


@pytest.mark.parametrize("fault", [{"kind": "unheard of"}, {"kind": "cut", "extra": 1}, {}, "cut"])
def test_a_fault_that_makes_no_sense_is_refused(taplytics: httpx.Client, fault: Any) -> None:  # noqa: ANN401
    assert taplytics.post("/standin/faults", json=fault).status_code == 400


def test_requests_are_counted_by_path_and_status(taplytics: httpx.Client, standins: StandIns) -> None:
    write(taplytics, "u")
    write(taplytics, "v")
    taplytics.post(USERS, json={})
    standins.taplytics_faults.add(Fault(kind="cut"))
    with pytest.raises(httpx.RemoteProtocolError):
        write(taplytics, "w")
    assert taplytics.get("/standin/requests").json()["requests"] == [
        {"path": USERS, "status": 0, "count": 1},
        {"path": USERS, "status": 200, "count": 2},
        {"path": USERS, "status": 400, "count": 1},
    ]
    assert taplytics.delete("/standin/requests").json() == {"requests": []}


def second_page(client: httpx.Client, standins: StandIns, kind: Kind) -> tuple[dict[str, Any], dict[str, Any]]:
    right = client.post(ENGAGE, data=COHORT).json()
    standins.mixpanel_faults.add(Fault(kind=kind, match=ENGAGE, contains="page=1"))
    asked = COHORT | {"session_id": right["session_id"], "page": "1"}
    wrong, reconciled = (client.post(ENGAGE, data=asked).json() for _ in range(2))
    assert reconciled["total"] == right["total"]
    assert (reconciled["session_id"], len(reconciled["results"])) == (right["session_id"], 1000)
    return right, wrong


def test_a_page_can_be_repeated(mixpanel: httpx.Client, standins: StandIns) -> None:
    right, wrong = second_page(mixpanel, standins, "repeat_page")
    assert wrong["results"] == right["results"]


def test_a_page_can_be_skipped(mixpanel: httpx.Client, standins: StandIns) -> None:
    right, wrong = second_page(mixpanel, standins, "skip_page")
    third = mixpanel.post(ENGAGE, data=COHORT | {"session_id": right["session_id"], "page": "2"}).json()
    assert wrong["results"] == third["results"]


def test_a_page_can_be_short(mixpanel: httpx.Client, standins: StandIns) -> None:
    assert len(second_page(mixpanel, standins, "short_page")[1]["results"]) == 500


def test_the_total_can_change(mixpanel: httpx.Client, standins: StandIns) -> None:
    assert second_page(mixpanel, standins, "total_changes")[1]["total"] == 2501


def test_the_session_can_change(mixpanel: httpx.Client, standins: StandIns) -> None:
    right, wrong = second_page(mixpanel, standins, "session_changes")
    assert wrong["session_id"] != right["session_id"]
