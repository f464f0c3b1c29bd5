import asyncio
import json
from datetime import timedelta

import httpx
import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.devtools.standins.budget import QueryBudget
from cohort_pipelines.devtools.standins.faults import Fault, Kind
from cohort_pipelines.devtools.standins.project import BETA_USERS
from cohort_pipelines.devtools.standins.server import InThread
from cohort_pipelines.devtools.standins.services import StandIns

ENGAGE = "/api/query/engage"
COHORT = {"filter_by_cohort": json.dumps({"id": BETA_USERS}), "page_size": 10}


def used(client: httpx.Client) -> int:
    count: int = client.get("/standin/queries").json()["used"]
    return count


def test_the_hour_rolls() -> None:
    budget = QueryBudget(per_hour=2)
    assert [budget.count(), budget.count(), budget.count()] == [True, True, False]
    with clock.shifted(timedelta(minutes=59)):
        assert not budget.count()
        assert 0 < budget.seconds_left() <= 60
    with clock.shifted(timedelta(minutes=60, seconds=1)):
        assert budget.count()


def test_only_first_pages_and_lists_count(mixpanel: httpx.Client) -> None:
    session = mixpanel.post(ENGAGE, data=COHORT).json()["session_id"]
    for page in range(1, 10):
        assert mixpanel.post(ENGAGE, data=COHORT | {"session_id": session, "page": page}).status_code == 200
    assert used(mixpanel) == 1
    mixpanel.post("/api/query/cohorts/list")
    assert used(mixpanel) == 2
    mixpanel.get("/api/app/me")
    assert used(mixpanel) == 2


def test_a_query_that_fails_counts_but_not_one_that_is_not_let_in(mixpanel: httpx.Client) -> None:
    mixpanel.post(ENGAGE, data={"filter_by_cohort": '{"id": 5}'})
    assert used(mixpanel) == 1
    mixpanel.post(ENGAGE, data=COHORT, auth=("nobody", "x"))
    mixpanel.post(ENGAGE, data=COHORT, params={"project_id": 1})
    assert used(mixpanel) == 1


def test_a_used_up_hour_says_so(mixpanel: httpx.Client) -> None:
    first = mixpanel.post(ENGAGE, data=COHORT).json()
    for _ in range(59):
        assert mixpanel.post("/api/query/cohorts/list").status_code == 200
    refused = mixpanel.post(ENGAGE, data=COHORT)
    assert refused.status_code == 429
    assert "This request exceeded the rate limit (61/60 queries running in the last hour)." in refused.json()["error"]
    assert refused.json()["request"] == f"{ENGAGE}?project_id=2529987"
    assert (
        refused.headers["RateLimit-Policy"]
        == '"project";q=60;w=3600, "project-concurrency";q=5;qu="concurrent-requests"'
    )
    seconds = refused.headers["Retry-After"]
    assert refused.headers["RateLimit"] == f'"project";r=0;t={seconds}, "project-concurrency";r=5'
    assert 3500 < int(seconds) <= 3600
    assert used(mixpanel) == 60
    free = mixpanel.post(ENGAGE, data=COHORT | {"session_id": first["session_id"], "page": 1})
    assert free.status_code == 200
    mixpanel.delete("/standin/queries")
    assert mixpanel.post(ENGAGE, data=COHORT).status_code == 200


def test_five_run_at_once_and_a_sixth_is_refused(addresses: InThread, standins: StandIns) -> None:
    credentials = addresses.credentials
    standins.mixpanel_faults.add(Fault(kind="delay", match=ENGAGE, seconds=0.3, times=None))

    async def ask() -> list[httpx.Response]:
        auth = (credentials.service_account, credentials.secret)
        params = {"project_id": credentials.project_id}
        async with httpx.AsyncClient(base_url=addresses.mixpanel_url, auth=auth, params=params) as client:
            return await asyncio.gather(*(client.post(ENGAGE, data=COHORT) for _ in range(6)))

    answers = asyncio.run(ask())
    assert sorted(answer.status_code for answer in answers) == [200] * 5 + [429]
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert "This request exceeded the concurrency limit (6/5 queries running concurrently)." in refused.json()["error"]
    assert refused.headers["RateLimit"].endswith('"project-concurrency";r=0;t=10')
    assert "Retry-After" not in refused.headers
    assert standins.mixpanel.budget.used() == 5
    assert standins.mixpanel.budget.running == 0


@pytest.mark.parametrize(
    ("kind", "status", "error"),
    [
        ("plan_without_api", 402, "Your plan does not allow API calls"),
        ("timed_out", 400, "Timeout Error."),
        ("load_shed", 429, "Query rate limit exceeded for project_id: 2529987 For more information"),
    ],
)
def test_other_refusals_can_be_switched_on(
    mixpanel: httpx.Client, standins: StandIns, kind: Kind, status: int, error: str
) -> None:
    standins.mixpanel_faults.add(Fault(kind=kind, match="/api/query"))
    answer = mixpanel.post(ENGAGE, data=COHORT)
    assert answer.status_code == status
    assert error in answer.json()["error"]
    assert not {"ratelimit", "ratelimit-policy", "retry-after"} & set(answer.headers)
    assert mixpanel.post(ENGAGE, data=COHORT).status_code == 200
