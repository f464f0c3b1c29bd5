import base64
import json
from typing import Any

import httpx
import pytest

from cohort_pipelines.devtools.standins.population import Kind
from cohort_pipelines.devtools.standins.server import InThread
from cohort_pipelines.devtools.standins.services import StandIns


@pytest.fixture
def token(addresses: InThread) -> str:
    return addresses.credentials.project_token


@pytest.fixture
def member(standins: StandIns) -> int:
    population = standins.mixpanel.project.population
    return next(number for number in range(population.members) if population.kind(number) is Kind.REGULAR)


def test_updates_may_be_in_base64(mixpanel: httpx.Client, standins: StandIns, token: str, member: int) -> None:
    project = standins.mixpanel.project
    update = {"$token": token, "$distinct_id": project.distinct_id(member), "$set": {"plan": "free"}}
    data = base64.b64encode(json.dumps([update]).encode()).decode()
    assert mixpanel.post("/engage", params={"verbose": 1}, data={"data": data}).json()["status"] == 1
    assert project.profile(member)["plan"] == "free"


def test_ignore_time_leaves_last_seen(mixpanel: httpx.Client, standins: StandIns, token: str, member: int) -> None:
    project = standins.mixpanel.project
    before = project.profile(member)
    update = {"$token": token, "$distinct_id": project.distinct_id(member), "$ip": 0, "$set": {"plan": "free"}}
    assert mixpanel.post("/engage", json=[update | {"$ignore_time": True, "$ignore_alias": True}]).text == "1"
    assert project.profile(member) == before | {"plan": "free"}
    mixpanel.post("/engage", json=update)
    assert project.profile(member)["$last_seen"] > before["$last_seen"]


@pytest.mark.parametrize(
    ("update", "error"),
    [
        ({"$add": {"sessions": 1}}, "$add is not supported by this stand-in"),
        ({"$set_once": {"plan": "free"}}, "$set_once is not supported by this stand-in"),
        ({"$append": {"list": 1}}, "$append is not supported by this stand-in"),
        ({"$set": {"plan": "free"}, "$time": 1}, "$time is not supported by this stand-in"),
        ({"$set": {"plan": "free"}, "$ip": "1.2.3.4"}, "only a $ip of 0 is supported by this stand-in"),
    ],
)
def test_an_update_that_would_be_ignored_is_refused(
    mixpanel: httpx.Client, standins: StandIns, member: int, update: dict[str, Any], error: str
) -> None:
    token, before = standins.mixpanel.token, standins.mixpanel.project.profile(member)
    whole = {"$token": token, "$distinct_id": standins.mixpanel.project.distinct_id(member)} | update
    good = {"$token": token, "$distinct_id": "new", "$set": {"plan": "beta"}}
    answer = mixpanel.post("/engage", json=[good, whole])
    assert (answer.status_code, answer.json()["error"]) == (400, error)
    assert standins.mixpanel.project.profile(member) == before
    assert standins.mixpanel.project.find("new") is None


def test_an_alias_cannot_be_passed_over(mixpanel: httpx.Client, standins: StandIns, token: str, member: int) -> None:
    alias = standins.mixpanel.project.profile(member)["$apptimize_user_id"]
    update = {"$token": token, "$distinct_id": alias, "$delete": "", "$ignore_alias": True}
    assert mixpanel.post("/engage", json=[update]).status_code == 400
    assert standins.mixpanel.project.profile(member)


def test_updates_that_cannot_be_read_are_refused(mixpanel: httpx.Client) -> None:
    assert mixpanel.post("/engage", data={"data": "#"}).json()["error"] == "data is neither JSON nor JSON in base64"
    assert mixpanel.post("/engage", data={"data": "[1"}).json()["error"] == "invalid JSON in a parameter"
    refused = mixpanel.post("/engage", params={"strict": 1}, json=[]).json()["error"]
    assert refused == "strict is not supported by this stand-in"
