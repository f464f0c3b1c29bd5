import json
from typing import Any

import httpx
import pytest

from cohort_pipelines.devtools.standins.server import InThread
from cohort_pipelines.devtools.standins.services import StandIns

USERS = "/v2/users/"


def set_beta(client: httpx.Client, user: str, value: bool) -> None:
    answer = client.post(USERS, json={"user_id": user, "custom_data": {"Beta Users": value}})
    assert answer.status_code == 200


def ids(client: httpx.Client, field: str) -> list[str]:
    lines = client.get("/standin/state", params={"field": field}).text.splitlines()
    return [json.loads(line) for line in lines]


def test_custom_data_is_merged(taplytics: httpx.Client) -> None:
    taplytics.post(USERS, json={"user_id": "u", "custom_data": {"a": True, "b": 1}})
    answer = taplytics.post(USERS, json={"user_id": "u", "custom_data": {"a": False, "c": "x"}})
    assert answer.json() == {"user_id": "u", "custom_data": {"a": False, "b": 1, "c": "x"}}


def test_users_of_equal_custom_data_do_not_share_what_comes_later(taplytics: httpx.Client) -> None:
    set_beta(taplytics, "u", True)
    set_beta(taplytics, "v", True)
    set_beta(taplytics, "u", False)
    assert ids(taplytics, "Beta Users") == ["v"]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (USERS, {"user_id": "u"}, 200),
        ("/v2/users", {"email": "u@example.com"}, 200),
        ("/v2/users/?user_id=u", {}, 200),
        (USERS, {}, 400),
        (USERS, {"user_id": ""}, 400),
        (USERS, {"user_id": 7}, 400),
        (USERS, {"user_id": "u", "custom_data": [1]}, 400),
        (USERS, [], 400),
        ("/v2/users/unknown", {"custom_data": {}}, 404),
    ],
)
def test_statuses(taplytics: httpx.Client, path: str, body: Any, status: int) -> None:  # noqa: ANN401  any JSON
    assert taplytics.post(path, json=body).status_code == status


def test_the_key_may_be_in_three_places(addresses: InThread) -> None:
    url, key = f"{addresses.taplytics_url}{USERS}", addresses.credentials.taplytics_key
    assert httpx.post(url, json={"user_id": "u"}, headers={"x-access-token": key}).status_code == 200
    assert httpx.post(url, json={"user_id": "u"}, params={"api_token": key}).status_code == 200
    assert httpx.post(url, json={"user_id": "u", "api_token": key}).status_code == 200
    assert httpx.post(url, json={"user_id": "u"}, headers={"x-access-token": "wrong"}).status_code == 401
    assert httpx.post(url, json={"user_id": "u"}).status_code == 401


def test_unknown_users_are_created(taplytics: httpx.Client, standins: StandIns) -> None:
    population = standins.mixpanel.project.population
    set_beta(taplytics, population.distinct_id(1), True)
    set_beta(taplytics, population.distinct_id(20), True)  # one in twenty never opened the app
    set_beta(taplytics, "stranger", True)
    state = taplytics.get("/standin/state").json()
    assert state == {"users": 3, "created": 2, "fields": {"Beta Users": 3}, "pending": 0}


def test_the_segment_is_listed_in_the_order_of_its_bytes(taplytics: httpx.Client) -> None:
    for user in ("b", "Zoë", "🦊", "a", '"quoted"\n', "李雷"):
        set_beta(taplytics, user, True)
    set_beta(taplytics, "c", False)
    assert ids(taplytics, "Beta Users") == ['"quoted"\n', "Zoë", "a", "b", "李雷", "🦊"]
    assert ids(taplytics, "unheard of") == []


def test_the_segment_editor_shows_the_number_of_users(taplytics: httpx.Client) -> None:
    for user in ("u", "v"):
        set_beta(taplytics, user, True)
    page = taplytics.get("/segments/Beta Users").text
    assert '<span class="name">Beta Users</span>' in page
    assert 'data-users="2"' in page
    assert '<a href="/segments/Beta%20Users">Beta Users</a>' in taplytics.get("/").text


def test_a_field_is_shown_as_text(taplytics: httpx.Client) -> None:
    taplytics.post(USERS, json={"user_id": "u", "custom_data": {"<b>&/x": True}})
    assert "&lt;b&gt;&amp;/x" in taplytics.get("/").text
    assert 'data-users="1"' in taplytics.get("/segments/%3Cb%3E%26%2Fx").text


def test_writes_are_remembered_in_order(taplytics: httpx.Client) -> None:
    set_beta(taplytics, "u", True)
    set_beta(taplytics, "u", False)
    assert taplytics.get("/standin/writes").json() == [["u", {"Beta Users": True}], ["u", {"Beta Users": False}]]
    assert taplytics.delete("/standin/writes").json() == []
