from dataclasses import replace
from datetime import timedelta

import msgspec
import pytest

from cohort_pipelines.core.errors import (
    MixpanelAnswerTooLarge,
    MixpanelAnswerUnreadable,
    MixpanelCohortUnknown,
    MixpanelCredentialRefused,
    MixpanelGroupCohort,
    MixpanelNotReached,
    MixpanelPlanWithoutApi,
    MixpanelProjectUnknown,
    NotProjectAdmin,
)
from cohort_pipelines.devtools.standins.faults import Fault
from cohort_pipelines.devtools.standins.server import InThread
from cohort_pipelines.mixpanel import MAX_PAGE_BYTES, CohortInfo, Project, check, check_project_and_cohorts

BETA_USERS = CohortInfo(id=1_478_097, name="Beta Users", count=2500)


@pytest.mark.parametrize("role", ["admin", "Admin", "OWNER"])
def test_an_admin_is_connected(standins: InThread, project: Project, role: str) -> None:
    standins.standins.mixpanel.role = role
    assert check_project_and_cohorts(project).connected == f"Stand-in, as {role}"


def test_any_number_of_cohorts_costs_one_query(standins: InThread, project: Project) -> None:
    checked = check_project_and_cohorts(project)
    assert checked.connected == "Stand-in, as admin"
    assert checked.cohort(1_478_097) == BETA_USERS
    assert checked.cohort(1_478_098).name == "Lapsed Users"
    with pytest.raises(MixpanelCohortUnknown, match="no cohort 5 "):
        checked.cohort(5)
    assert standins.standins.mixpanel.budget.used() == 1


@pytest.mark.parametrize("role", ["analyst", "consumer", "Owner's friend"])
def test_another_role_is_no_admin(standins: InThread, project: Project, role: str) -> None:
    standins.standins.mixpanel.role = role
    with pytest.raises(NotProjectAdmin, match=rf"is .{role}. in Mixpanel project"):
        check_project_and_cohorts(project)
    assert standins.standins.mixpanel.budget.used() == 0


@pytest.mark.parametrize("permission", ["Create and Manage Cohort Syncs", "create_and_manage_cohort_syncs"])
def test_a_custom_role_may_manage_syncs(standins: InThread, project: Project, permission: str) -> None:
    answer_me_with(standins, {"name": "Shop", "role": {"name": "Growth"}, "permissions": ["x", permission, {"id": 1}]})
    assert check_project_and_cohorts(project).connected == "Shop, as Growth"


@pytest.mark.parametrize("membership", [{}, {"role": None, "permissions": None}, {"role": "analyst"}])
def test_an_unusual_membership_is_no_admin(standins: InThread, project: Project, membership: dict[str, object]) -> None:
    answer_me_with(standins, membership)
    with pytest.raises(NotProjectAdmin):
        check_project_and_cohorts(project)


def test_no_access_is_an_unknown_project(standins: InThread, project: Project) -> None:
    standins.standins.mixpanel.role = None
    with pytest.raises(MixpanelProjectUnknown):
        check_project_and_cohorts(project)


def test_a_wrong_secret_is_refused(project: Project) -> None:
    with pytest.raises(MixpanelCredentialRefused):
        check_project_and_cohorts(replace(project, secret="wrong"))


def test_a_plan_without_the_api_shows_in_the_query(standins: InThread, project: Project) -> None:
    standins.standins.mixpanel_faults.add(Fault(kind="status", status=402, match="/api/query"))
    with pytest.raises(MixpanelPlanWithoutApi):
        check_project_and_cohorts(project)


def test_an_answer_of_another_shape_is_not_known(
    standins: InThread, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "PATIENCE", timedelta(seconds=1))
    standins.standins.mixpanel_faults.add(Fault(kind="status", status=200, body='{"results": []}', times=None))
    with pytest.raises(MixpanelAnswerUnreadable, match="the projects of the service account"):
        check_project_and_cohorts(project)


def test_the_app_api_may_redirect(standins: InThread, project: Project) -> None:
    fault = Fault(kind="status", status=301, headers={"Location": "/api/app/me/"}, match="/api/app/me$")
    standins.standins.mixpanel_faults.add(fault)
    assert check_project_and_cohorts(project).connected == "Stand-in, as admin"


@pytest.mark.parametrize("location", ["/api/app/other/", "http://127.0.0.2:1/api/app/me/", "http://["])
def test_no_other_redirect_is_followed(standins: InThread, project: Project, location: str) -> None:
    fault = Fault(kind="status", status=301, headers={"Location": location}, match="/api/app/me$")
    standins.standins.mixpanel_faults.add(fault)
    with pytest.raises(MixpanelNotReached, match="a redirect"):
        check_project_and_cohorts(project)


def test_the_body_of_a_redirect_is_limited_too(standins: InThread, project: Project) -> None:
    faults = standins.standins.mixpanel_faults
    large = "x" * (MAX_PAGE_BYTES + 1)
    faults.add(Fault(kind="status", status=301, headers={"Location": "/api/app/me/"}, body=large, match="/api/app/me$"))
    with pytest.raises(MixpanelAnswerTooLarge):
        check_project_and_cohorts(project)


def test_a_list_of_which_nothing_can_be_read_is_not_blamed_on_the_cohort(standins: InThread, project: Project) -> None:
    body = '[{"id": "5", "name": "Beta"}, {"id": 6.5}]'
    standins.standins.mixpanel_faults.add(Fault(kind="status", status=200, body=body, match="/api/query"))
    with pytest.raises(MixpanelAnswerUnreadable, match="no entry of it can be read"):
        check_project_and_cohorts(project)


@pytest.mark.parametrize(("count", "says"), [(1, "1 sync of its own"), (2, "2 syncs of its own")])
def test_syncs_that_mixpanel_runs_itself_are_warned_of(
    standins: InThread, project: Project, count: int, says: str
) -> None:
    standins.standins.mixpanel.active_integrations = count
    cohort = check_project_and_cohorts(project).cohort(BETA_USERS.id)
    assert cohort.hosted_syncs == count
    assert cohort.warning.startswith(f"Mixpanel still runs {says} for this cohort; turn them off")
    assert standins.standins.mixpanel.budget.used() == 1


def test_without_syncs_of_its_own_there_is_no_warning(standins: InThread, project: Project) -> None:
    assert check_project_and_cohorts(project).cohort(BETA_USERS.id).warning == ""
    assert standins.standins.mixpanel_faults.requests["/api/app/projects/2529987/cohorts", 200] == 1


@pytest.mark.parametrize(
    "fault",
    [
        Fault(kind="status", status=404),
        Fault(kind="status", status=401),
        Fault(kind="status", status=503),
        Fault(kind="status", status=429, headers={"Retry-After": "60"}),
        Fault(kind="status", status=200, body='{"results": {"1478097": {"active_integrations": [1]}}}'),
        Fault(kind="status", status=200, body='{"results": [{"id": 1478097, "active_integrations": 3}]}'),
        Fault(kind="status", status=200, body='{"results": [{"id": 1478097, "active_integrations": null}]}'),
        Fault(kind="status", status=200, body='{"results": [{"id": 1478097}, {"id": 9, "active_integrations": [4]}]}'),
        Fault(kind="cut"),
        Fault(kind="html"),
    ],
)
def test_what_is_not_clearly_said_is_not_known(standins: InThread, project: Project, fault: Fault) -> None:
    standins.standins.mixpanel.active_integrations = 1
    standins.standins.mixpanel_faults.add(msgspec.structs.replace(fault, match="/api/app/projects", times=None))
    assert check_project_and_cohorts(project).cohort(BETA_USERS.id) == BETA_USERS
    asked = {path: count for (path, _), count in standins.standins.mixpanel_faults.requests.items()}
    assert asked.get("/api/app/projects/2529987/cohorts", 1) <= 2  # the client opens a broken connection anew, once


def answer_me_with(standins: InThread, membership: dict[str, object]) -> None:
    me = {"status": "ok", "results": {"projects": {str(standins.credentials.project_id): membership}}}
    body = msgspec.json.encode(me).decode()
    standins.standins.mixpanel_faults.add(Fault(kind="status", status=200, body=body, match="/api/app/me"))


@pytest.mark.parametrize(
    "entry", ['{"id":43,"count":null}', '{"id":43,"name":null}', "null", '{"id":NaN}', '{"id":"x"}']
)
def test_an_unreadable_cohort_keeps_no_other_from_being_checked(
    standins: InThread, project: Project, entry: str
) -> None:
    list_cohorts(standins, f'[{entry},{{"id":1478097,"name":"Beta Users","count":2500}}]')
    assert check_project_and_cohorts(project).cohort(1_478_097) == BETA_USERS


@pytest.mark.parametrize(
    "entry",
    [
        '{"id":1478097,"name":null,"count":null}',
        '{"id":1478097,"name":"half \\ud83d","count":NaN}',
        '{"id":1478097,"name":"\\x","count":2500.5,"active_integrations":{}}',
    ],
)
def test_a_cohort_without_a_readable_name_and_count_is_connected(
    standins: InThread, project: Project, entry: str
) -> None:
    list_cohorts(standins, f"[{entry}]")
    described = "a cohort whose name cannot be read (an unknown number of members)"
    assert check_project_and_cohorts(project).cohort(1_478_097).described == described


def test_control_characters_in_names_are_not_shown(standins: InThread, project: Project) -> None:
    list_cohorts(standins, '[{"id":1478097,"name":"a\\u001b[2Jb\\u202e","count":1}]')
    answer_me_with(standins, {"name": "Shop\x1b[2J", "role": {"name": "admin"}})
    checked = check_project_and_cohorts(project)
    assert checked.cohort(1_478_097).name == "a\ufffd[2Jb\ufffd"
    assert checked.connected == "Shop\ufffd[2J, as admin"


def test_a_group_cohort_is_refused(standins: InThread, project: Project) -> None:
    list_cohorts(standins, '[{"id":1478097,"name":"Companies","count":1,"data_group_id":"7"}]')
    with pytest.raises(MixpanelGroupCohort, match="set cohort_id to a cohort of users"):
        check_project_and_cohorts(project).cohort(1_478_097)


@pytest.mark.parametrize("path", ["/api/app/me", "/api/app/projects"])
def test_a_status_that_is_not_ok_is_a_failed_query(standins: InThread, project: Project, path: str) -> None:
    body = '{"status":"error","results":{"projects":{}}}' if path.endswith("me") else '{"status":"error","results":[]}'
    standins.standins.mixpanel_faults.add(Fault(kind="status", status=200, body=body, match=path))
    if path.endswith("me"):
        with pytest.raises(MixpanelAnswerUnreadable, match="its status is not ok"):
            check_project_and_cohorts(project)
    else:
        assert check_project_and_cohorts(project).cohort(1_478_097) == BETA_USERS


def list_cohorts(standins: InThread, body: str) -> None:
    standins.standins.mixpanel_faults.add(
        Fault(kind="status", status=200, body=body, match="/api/query/cohorts/list", times=None)
    )
