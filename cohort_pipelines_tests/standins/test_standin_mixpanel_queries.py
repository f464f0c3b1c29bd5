"""What clients that this project did not write ask of Mixpanel: it is answered as documented, or refused."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from cohort_pipelines.devtools.standins.project import BETA_USERS
from cohort_pipelines.devtools.standins.server import InThread, in_thread
from cohort_pipelines.devtools.standins.services import StandIns
from cohort_pipelines.devtools.standins.settings import Settings

ENGAGE = "/api/query/engage"
COHORT = {"filter_by_cohort": json.dumps({"id": BETA_USERS})}
A_COHORT = 'filter_by_cohort must be {"id": a number}; this stand-in supports no other'
REFUSED = "is not supported by this stand-in"


@pytest.fixture(scope="module")
def addresses() -> Iterator[InThread]:
    with in_thread(Settings(members=2500)) as running:
        yield running


@pytest.fixture(autouse=True)
def _a_new_hour(standins: StandIns) -> None:
    standins.mixpanel.budget.reset()


def total(client: httpx.Client, **parameters: Any) -> int:  # noqa: ANN401  whatever is asked
    answer = client.post(ENGAGE, data=parameters)
    assert answer.status_code == 200, answer.text
    found: int = answer.json()["total"]
    return found


def stats(client: httpx.Client, **parameters: Any) -> httpx.Response:  # noqa: ANN401  whatever is asked
    return client.post(f"{ENGAGE}/stats", data=parameters)


def test_where_selects_profiles(mixpanel: httpx.Client, standins: StandIns) -> None:
    project = standins.mixpanel.project
    profiles = [project.profile(number) for number in range(project.size)]
    answer = mixpanel.get("/api/2.0/engage", params={"where": 'properties["plan"] == "free"'}).json()
    assert answer["total"] == sum(profile.get("plan") == "free" for profile in profiles)
    assert {row["$properties"]["plan"] for row in answer["results"]} == {"free"}


def test_where_with_a_cohort_selects_members(mixpanel: httpx.Client, standins: StandIns) -> None:
    project = standins.mixpanel.project
    assert total(mixpanel, **COHORT, where='not defined(properties["plan"])') == 2500 - sum(project.with_profile[:2500])
    assert total(mixpanel, **COHORT, include_all_users="false", where='properties["plan"] == "free"') == 0


def test_the_pages_of_a_where_are_cut_from_what_it_selects(mixpanel: httpx.Client) -> None:
    asked: dict[str, str | int] = {"where": 'properties["$last_seen"] >= "2026-11-10T00:00:00"', "page_size": 400}
    page = mixpanel.get("/api/2.0/engage", params=asked).json()
    rows = page["results"]
    for number in range(1, -(-page["total"] // 400)):
        later = asked | {"session_id": page["session_id"], "page": number}
        rows += mixpanel.get("/api/2.0/engage", params=later).json()["results"]
    assert len({row["$distinct_id"] for row in rows}) == page["total"] > 800
    assert min(row["$properties"]["$last_seen"] for row in rows) >= "2026-11-10T00:00:00"


def test_a_later_page_of_another_query_is_refused(mixpanel: httpx.Client) -> None:
    session = mixpanel.post(ENGAGE, data=COHORT).json()["session_id"]
    other = {"session_id": session, "page": 1, "filter_by_cohort": '{"id": 1478098}'}
    answer = mixpanel.post(ENGAGE, data=other)
    assert answer.status_code == 400
    assert answer.json()["error"] == "filter_by_cohort is not what the first page of the session was asked with"


def test_distinct_ids_of_a_cohort_are_its_members_alone(mixpanel: httpx.Client, standins: StandIns) -> None:
    project = standins.mixpanel.project
    members = [project.distinct_id(number) for number in range(10)]
    stranger = project.distinct_id(next(number for number in range(2500, project.size) if project.with_profile[number]))
    ids = json.dumps([*members, stranger, "nobody"])
    with_profile = sum(project.with_profile[:10])
    assert total(mixpanel, distinct_ids=ids) == with_profile + 1
    assert total(mixpanel, distinct_ids=ids, **COHORT) == 10
    assert total(mixpanel, distinct_ids=ids, **COHORT, include_all_users="false") == with_profile
    assert total(mixpanel, distinct_id=stranger, **COHORT) == 0
    assert total(mixpanel, distinct_id=stranger, where='properties["plan"] == "beta"') == 0


@pytest.mark.parametrize(
    ("parameters", "error"),
    [
        ({"filter_by_cohort": '{"id": 5}'}, "cohort 5 does not exist"),
        ({"filter_by_cohort": "{"}, "invalid JSON in a parameter"),
        ({"page": "x"}, "a parameter is not a whole number"),
        ({"page": 1}, "request for page in uncached query for params"),
        ({"page": 1, "session_id": "1-X"}, "request for page in uncached query for params"),
        ({"page": -1}, "request for page in uncached query for params"),
        ({"page_size": 0}, "a parameter is not a positive number"),
        ({"limit": -5}, "a parameter is not a positive number"),
        ({"filter_by_cohort": "1478097"}, A_COHORT),
        ({"filter_by_cohort": '{"raw_cohort": {}}'}, A_COHORT),
        (COHORT | {"include_all_users": "unknown"}, "a parameter is neither true nor false"),
        ({"include_all_users": "false"}, "include_all_users goes with filter_by_cohort only"),
        ({"distinct_ids": '"abc"'}, "a parameter is not a JSON array of strings"),
        ({"distinct_ids": "[1]"}, "a parameter is not a JSON array of strings"),
        ({"distinct_ids": "[]"}, "distinct_ids is empty"),
        ({"distinct_ids": '["a"]', "distinct_id": "a"}, "distinct_id and distinct_ids exclude each other"),
        ({"output_properties": "plan"}, "invalid JSON in a parameter"),
        ({"where": 'properties["plan"'}, "where: the expression cannot be read"),
        ({"where": 'boolean(properties["plan"])'}, "where: boolean(properties['plan']) is not supported"),
        ({"where": 'properties["plan"] and true'}, "where: a string stands where a boolean must"),
    ],
)
def test_a_query_that_makes_no_sense_is_refused(mixpanel: httpx.Client, parameters: dict[str, Any], error: str) -> None:
    answer = mixpanel.post(ENGAGE, data=parameters)
    assert (answer.status_code, answer.json()["error"]) == (400, error)
    assert answer.json()["request"] == f"{ENGAGE}?project_id=2529987"


@pytest.mark.parametrize("name", ["search", "sort_key", "sort_order", "behaviors", "as_of_timestamp", "data_group_id"])
def test_a_parameter_that_would_be_ignored_is_refused(mixpanel: httpx.Client, name: str) -> None:
    answer = mixpanel.post(ENGAGE, data=COHORT | {name: "1"})
    assert (answer.status_code, answer.json()["error"]) == (400, f"{name} {REFUSED}")
    later = {"session_id": mixpanel.post(ENGAGE, data=COHORT).json()["session_id"], "page": 1, name: "1"}
    assert mixpanel.post(ENGAGE, data=later).json()["error"] == f"{name} {REFUSED}"


@pytest.mark.parametrize(
    "path",
    [
        ENGAGE,
        f"{ENGAGE}/stats",
        f"{ENGAGE}/properties",
        "/api/query/cohorts/list",
        "/api/app/me",
        "/api/app/projects/2529987/cohorts",
        "/api/app/projects/2529987/cohorts/1478097",
    ],
)
def test_every_path_refuses_parameters_that_it_does_not_know(mixpanel: httpx.Client, path: str) -> None:
    assert mixpanel.get(path, params={"query_origin": "a client", "action": "count()"}).status_code in (200, 400)
    answer = mixpanel.get(path, params={"workspace_id": 7})
    assert answer.status_code == 400
    assert answer.json() == {
        "request": f"{path}?project_id=2529987&workspace_id=7",
        "error": f"workspace_id {REFUSED}",
    }


def test_a_json_body_that_is_no_object_is_refused(mixpanel: httpx.Client) -> None:
    assert mixpanel.post(ENGAGE, json=[COHORT]).json()["error"] == f"data {REFUSED}"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/2.0/engage/revenue", 404),
        ("POST", "/api/2.0/jql", 404),
        ("GET", "/api/app/workspaces/7/cohorts", 404),
        ("DELETE", ENGAGE, 405),
        ("POST", "/api/app/projects/2529987/cohorts", 405),
    ],
)
def test_an_unknown_path_or_method_says_so(mixpanel: httpx.Client, method: str, path: str, status: int) -> None:
    answer = mixpanel.request(method, path)
    assert answer.status_code == status
    assert answer.json() == {
        "request": f"{path}?project_id=2529987",
        "error": f"{method} of this path {REFUSED}",
        "status": "error",
    }


def test_the_users_of_a_query_can_be_counted(mixpanel: httpx.Client, standins: StandIns) -> None:
    with_profile = standins.mixpanel.project.with_profile
    answer = stats(mixpanel, action="count()").json()
    assert answer.keys() == {"results", "status", "computed_at"}
    assert (answer["results"], answer["status"]) == (sum(with_profile), "ok")
    assert stats(mixpanel, action="count()", **COHORT).json()["results"] == 2500
    identified = stats(mixpanel, action="count()", include_all_users="false", **COHORT).json()["results"]
    assert identified == sum(with_profile[:2500])
    assert stats(mixpanel, action="count()", selector='properties["plan"] == "nothing"').json()["results"] == 0


@pytest.mark.parametrize(
    ("parameters", "error"),
    [
        ({}, f"only the action count() {REFUSED}".replace("is not", "is")),
        ({"action": 'extremes(properties["sessions"])'}, f"only the action count() {REFUSED}".replace("is not", "is")),
        ({"action": "count()", "where": "true"}, f"where {REFUSED}"),
        ({"action": "count()", "segment_by_cohorts": "{}"}, f"segment_by_cohorts {REFUSED}"),
        ({"action": "count()", "selector": "("}, "where: the expression cannot be read"),
        ({"action": "count()", "filter_by_cohort": '{"id": 5}'}, "cohort 5 does not exist"),
    ],
)
def test_other_statistics_are_refused(mixpanel: httpx.Client, parameters: dict[str, str], error: str) -> None:
    answer = stats(mixpanel, **parameters)
    assert (answer.status_code, answer.json()["error"]) == (400, error)


@pytest.mark.parametrize("path", ["/api/query/engage/properties", "/api/2.0/engage/properties/"])
def test_the_profile_properties_are_listed(mixpanel: httpx.Client, standins: StandIns, path: str) -> None:
    answer = mixpanel.get(path, params={"limit": 2000}).json()
    everybody = sum(standins.mixpanel.project.with_profile)
    assert answer["status"] == "ok"
    assert answer["computed_at"]
    assert answer["results"]["$email"] == {"count": everybody, "type": "string"}
    assert answer["results"]["$last_seen"] == {"count": everybody, "type": "datetime"}
    assert answer["results"]["sessions"] == {"count": everybody, "type": "number"}
    assert answer["results"]["lapsed"] == {"count": everybody, "type": "boolean"}
    assert 0 < answer["results"]["$apptimize_user_id"]["count"] < everybody
    assert len(mixpanel.get(path, params={"limit": 2}).json()["results"]) == 2


def test_counts_and_property_lists_cost_a_query(mixpanel: httpx.Client, standins: StandIns) -> None:
    stats(mixpanel, action="count()")
    mixpanel.get(f"{ENGAGE}/properties")
    assert standins.mixpanel.budget.used() == 2


def test_the_app_shows_one_cohort(mixpanel: httpx.Client, standins: StandIns) -> None:
    answer = mixpanel.get("/api/app/projects/2529987/cohorts/1478097").json()
    listed = mixpanel.get("/api/app/projects/2529987/cohorts").json()["results"]
    assert answer == {"status": "ok", "results": listed[0]}
    assert mixpanel.get("/api/app/projects/1/cohorts/1478097/").status_code == 403
    unknown = mixpanel.get("/api/app/projects/2529987/cohorts/5")
    assert (unknown.status_code, unknown.json()["status"]) == (404, "error")
    assert unknown.json()["error"] == "cohort 5 does not exist"
    assert standins.mixpanel.budget.used() == 0


@pytest.mark.parametrize(("status", "body"), [(400, ""), (404, ""), (403, '{"error": "Forbidden"}'), (400, "<html>")])
def test_the_answer_for_an_unknown_cohort_can_be_another(mixpanel: httpx.Client, status: int, body: str) -> None:
    assert mixpanel.post("/standin/unknown_cohort", json={"status": status, "body": body}).status_code == 200
    for answer in (
        mixpanel.post(ENGAGE, data={"filter_by_cohort": '{"id": 5}'}),
        mixpanel.get("/api/app/projects/2529987/cohorts/5"),
    ):
        assert (answer.status_code, answer.text) == (status, body)
    assert mixpanel.post(ENGAGE, data=COHORT).status_code == 200
    mixpanel.delete("/standin/unknown_cohort")
    assert "does not exist" in mixpanel.post(ENGAGE, data={"filter_by_cohort": '{"id": 5}'}).text
