import base64
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from cohort_pipelines.devtools.standins.project import BETA_USERS
from cohort_pipelines.devtools.standins.server import InThread, in_thread
from cohort_pipelines.devtools.standins.services import StandIns
from cohort_pipelines.devtools.standins.settings import Settings

ENGAGE = "/api/query/engage"
BY_COHORT = json.dumps({"id": BETA_USERS})
COHORT = {"filter_by_cohort": BY_COHORT}


def page_of(client: httpx.Client, **parameters: Any) -> dict[str, Any]:  # noqa: ANN401  whatever is asked
    answer = client.post(ENGAGE, data=COHORT | parameters)
    assert answer.status_code == 200, answer.text
    page: dict[str, Any] = answer.json()
    return page


def rows_of(client: httpx.Client, **parameters: Any) -> list[dict[str, Any]]:  # noqa: ANN401  whatever is asked
    page = page_of(client, **parameters)
    rows: list[dict[str, Any]] = page["results"]
    while len(page["results"]) == page["page_size"]:
        page = page_of(client, session_id=page["session_id"], page=page["page"] + 1, **parameters)
        rows += page["results"]
    return rows


def test_the_pages_are_the_cohort(mixpanel: httpx.Client, standins: StandIns) -> None:
    project = standins.mixpanel.project
    assert rows_of(mixpanel) == [
        {"$distinct_id": project.distinct_id(number), "$properties": project.profile(number)} for number in range(2500)
    ]


def test_a_page_has_the_documented_form(mixpanel: httpx.Client) -> None:
    page = page_of(mixpanel)
    assert page["status"] == "ok"
    assert (page["page"], page["page_size"], page["total"], len(page["results"])) == (0, 1000, 2500, 1000)
    assert page["session_id"]
    last = page_of(mixpanel, session_id=page["session_id"], page=2)
    assert (last["total"], len(last["results"])) == (2500, 500)
    assert page_of(mixpanel, session_id=page["session_id"], page="3")["results"] == []


def form(client: httpx.Client) -> httpx.Response:
    return client.post(ENGAGE, data=COHORT)


def json_text(client: httpx.Client) -> httpx.Response:
    return client.post("/api/2.0/engage/", json=COHORT)


def json_object(client: httpx.Client) -> httpx.Response:
    return client.post(ENGAGE, json={"filter_by_cohort": {"id": BETA_USERS}, "page": 0})


def url(client: httpx.Client) -> httpx.Response:
    return client.get("/api/2.0/engage", params=COHORT | {"page": "0", "session_id": ""})


def body_over_url(client: httpx.Client) -> httpx.Response:
    return client.post(ENGAGE, params={"filter_by_cohort": '{"id": 1}', "page": 7}, data=COHORT | {"page": ""})


@pytest.mark.parametrize("ask", [form, json_text, json_object, url, body_over_url])
def test_parameters_may_be_anywhere(mixpanel: httpx.Client, ask: Callable[[httpx.Client], httpx.Response]) -> None:
    assert ask(mixpanel).json()["results"] == page_of(mixpanel)["results"]


def test_members_without_a_profile_can_be_left_out(mixpanel: httpx.Client) -> None:
    everybody = rows_of(mixpanel)
    identified = rows_of(mixpanel, include_all_users="false")
    assert identified == [row for row in everybody if row["$properties"]]
    assert 0 < len(identified) < len(everybody)


def test_only_the_properties_asked_for_come(mixpanel: httpx.Client) -> None:
    rows = rows_of(mixpanel, output_properties='["$apptimize_user_id"]')
    assert {name for row in rows for name in row["$properties"]} == {"$apptimize_user_id"}
    assert len(rows) == 2500


def test_a_page_can_be_smaller_but_not_larger(mixpanel: httpx.Client) -> None:
    assert page_of(mixpanel, page_size=250)["page_size"] == 250
    assert page_of(mixpanel, page_size=50_000)["page_size"] == 1000
    assert len(rows_of(mixpanel, page_size=250)) == 2500


def test_limit_cuts_the_results_and_not_the_total(mixpanel: httpx.Client) -> None:
    assert len(rows_of(mixpanel, limit=250)) == 250
    assert len(rows_of(mixpanel, limit=1500)) == 1500
    assert page_of(mixpanel, limit=250)["total"] == 2500


def test_a_session_keeps_the_members_of_its_first_page(mixpanel: httpx.Client) -> None:
    before = [row["$distinct_id"] for row in rows_of(mixpanel)]
    first = page_of(mixpanel)
    assert mixpanel.post("/standin/churn", json={"fraction": 0.1}).json() == {"joined": 250, "left": 250}
    rest = [page_of(mixpanel, session_id=first["session_id"], page=page)["results"] for page in (1, 2)]
    assert [row["$distinct_id"] for rows in (first["results"], *rest) for row in rows] == before
    assert {row["$distinct_id"] for row in rows_of(mixpanel)} != set(before)


def test_a_user_is_found_by_distinct_id_or_alias(mixpanel: httpx.Client, standins: StandIns) -> None:
    project = standins.mixpanel.project
    row = next(row for row in page_of(mixpanel)["results"] if "$apptimize_user_id" in row["$properties"])
    for some_id in (row["$distinct_id"], row["$properties"]["$apptimize_user_id"]):
        assert mixpanel.post(ENGAGE, data={"distinct_id": some_id}).json()["results"] == [row]
    ids = json.dumps([project.distinct_id(number) for number in range(10)])
    found = mixpanel.post(ENGAGE, data={"distinct_ids": ids}).json()
    assert found["total"] == sum(project.with_profile[:10])


def test_without_a_filter_everybody_with_a_profile_comes(mixpanel: httpx.Client, standins: StandIns) -> None:
    assert mixpanel.post(ENGAGE).json()["total"] == sum(standins.mixpanel.project.with_profile) > 2500


def encoded(credential: str) -> str:
    return f"Basic {base64.b64encode(credential.encode()).decode()}"


ACCOUNT = "exporter.1a2b3c.mp-service-account:standin-mixpanel-secret"


@pytest.mark.parametrize(
    ("authorization", "project_id", "status"),
    [
        (encoded(ACCOUNT), "2529987", 200),
        (f"Basic {ACCOUNT}", "2529987", 200),
        (encoded("standin-project-secret"), "", 200),
        (encoded("standin-project-secret:"), "", 200),
        (encoded(ACCOUNT), "", 400),
        (encoded(ACCOUNT), "1", 403),
        (encoded("standin-project-secret"), "1", 403),
        (encoded(f"{ACCOUNT}x"), "2529987", 401),
        (encoded("standin-project-token"), "2529987", 401),
        ("Basic 1", "2529987", 400),
        ("Bearer 1", "2529987", 400),
        ("", "2529987", 400),
    ],
)
def test_who_may_ask(addresses: InThread, authorization: str, project_id: str, status: int) -> None:
    url = f"{addresses.mixpanel_url}/api/query/cohorts/list"
    answer = httpx.post(url, headers={"Authorization": authorization}, params={"project_id": project_id})
    assert answer.status_code == status


def test_an_unreadable_credential_is_told_apart(addresses: InThread) -> None:
    answer = httpx.get(f"{addresses.mixpanel_url}/api/app/me")
    assert answer.json() == {"request": "/api/app/me", "error": "Unable to authenticate request"}


def test_the_cohorts_are_listed(mixpanel: httpx.Client) -> None:
    beta, lapsed = mixpanel.post("/api/query/cohorts/list").json()
    assert beta == {
        "count": 2500,
        "is_visible": 1,
        "description": "plan is beta, or tried the beta before login",
        "created": "2026-10-01 09:00:00",
        "project_id": 2529987,
        "id": 1478097,
        "name": "Beta Users",
    }
    assert lapsed["name"] == "Lapsed Users"


def test_the_app_lists_the_cohorts_with_their_integrations(mixpanel: httpx.Client, standins: StandIns) -> None:
    assert mixpanel.post("/standin/integrations", json={"count": 2}).json() == {"count": 2}
    answer = mixpanel.get("/api/app/projects/2529987/cohorts").json()
    assert answer["status"] == "ok"
    assert answer["results"][0] == {
        "id": 1478097,
        "name": "Beta Users",
        "description": "plan is beta, or tried the beta before login",
        "count": 2500,
        "is_visible": True,
        "is_locked": False,
        "data_group_id": None,
        "active_integrations": [1, 2],
    }
    assert [cohort["name"] for cohort in answer["results"]] == ["Beta Users", "Lapsed Users"]
    assert standins.mixpanel.budget.used() == 0


def test_the_app_refuses_who_has_no_access(mixpanel: httpx.Client, addresses: InThread) -> None:
    path = "/api/app/projects/2529987/cohorts"
    assert mixpanel.get("/api/app/projects/1/cohorts/").status_code == 403
    assert httpx.get(f"{addresses.mixpanel_url}{path}").status_code == 400
    assert httpx.get(f"{addresses.mixpanel_url}{path}", auth=("who", "ever")).status_code == 401
    mixpanel.post("/standin/role", json={"role": None})
    assert mixpanel.get(path).status_code == 403


def test_a_cohort_has_no_integration_unless_it_is_said(mixpanel: httpx.Client) -> None:
    listed = mixpanel.get("/api/app/projects/2529987/cohorts/").json()["results"]
    assert [cohort["active_integrations"] for cohort in listed] == [[], []]
    with in_thread(Settings(members=10, active_integrations=1)) as one:
        auth = (one.credentials.service_account, one.credentials.secret)
        answer = httpx.get(f"{one.mixpanel_url}/api/app/projects/2529987/cohorts", auth=auth)
    assert [cohort["active_integrations"] for cohort in answer.json()["results"]] == [[1], [1]]


@pytest.mark.parametrize("role", ["owner", "admin", "analyst", "consumer", "Cohort syncers"])
def test_the_role_can_be_set(mixpanel: httpx.Client, role: str) -> None:
    mixpanel.post("/standin/role", json={"role": role})
    projects = mixpanel.get("/api/app/me/").json()["results"]["projects"]
    assert projects["2529987"]["role"]["name"] == role


def test_an_account_without_a_role_sees_no_project(mixpanel: httpx.Client) -> None:
    mixpanel.post("/standin/role", json={"role": None})
    assert mixpanel.get("/api/app/me").json()["results"]["projects"] == {}
    assert mixpanel.post(ENGAGE).status_code == 403


def test_profile_updates_change_who_is_in_the_cohort(mixpanel: httpx.Client, addresses: InThread) -> None:
    token = addresses.credentials.project_token
    one, other = (row["$distinct_id"] for row in rows_of(mixpanel, include_all_users="false")[:2])
    updates = [
        {"$token": token, "$distinct_id": one, "$set": {"plan": "free"}},
        {"$token": token, "$distinct_id": other, "$unset": ["plan"]},
        {"$token": token, "$distinct_id": "new", "$set": {"plan": "beta", "$apptimize_user_id": "i_new"}},
        {"$token": "another", "$distinct_id": "foreign", "$set": {"plan": "beta"}},
    ]
    assert mixpanel.post("/engage", params={"verbose": "1"}, json=updates).json() == {"status": 1, "error": None}
    ids = {row["$distinct_id"] for row in rows_of(mixpanel)}
    assert ids & {one, other, "new", "foreign"} == {"new"}
    by_alias = mixpanel.post(ENGAGE, data={"distinct_id": "i_new"}).json()["results"]
    assert [row["$distinct_id"] for row in by_alias] == ["new"]


def test_profile_updates_may_come_as_a_form(mixpanel: httpx.Client, addresses: InThread) -> None:
    update = {"$token": addresses.credentials.project_token, "$distinct_id": "new", "$set": {"plan": "beta"}}
    assert mixpanel.post("/engage", data={"data": json.dumps(update)}).text == "1"
    assert page_of(mixpanel)["total"] == 2501
    delete = {"$token": addresses.credentials.project_token, "$distinct_id": "new", "$delete": ""}
    mixpanel.post("/engage", json=delete)
    assert page_of(mixpanel)["total"] == 2500


def test_the_simplified_system_has_no_aliases() -> None:
    with in_thread(Settings(members=200, id_merge="simplified")) as addresses:
        credentials = addresses.credentials
        auth = (credentials.service_account, credentials.secret)
        params = {"project_id": credentials.project_id}
        with httpx.Client(base_url=addresses.mixpanel_url, auth=auth, params=params) as client:
            rows = rows_of(client)
            differing = [
                row["$properties"]["$apptimize_user_id"]
                for row in rows
                if row["$properties"].get("$apptimize_user_id", row["$distinct_id"]) != row["$distinct_id"]
            ]
            found = client.post(ENGAGE, data={"distinct_ids": json.dumps([str(one) for one in differing])}).json()
    assert sum(row["$distinct_id"].startswith("$device:") for row in rows) == 18
    assert differing
    assert found["total"] < len(differing)
