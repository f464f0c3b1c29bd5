"""Is it connected, and if not, why: the credential, the project, the plan, the role, and the cohorts.

The role is read from ``GET /api/app/me``, which docs.mixpanel.com shows as the way to try a service account
(reference/service-accounts) and which costs no query; the list of cohorts costs one. Syncs of Mixpanel's own are
counted in the App API's list of cohorts, which is not documented: what it does not clearly say is not known.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import msgspec
from msgspec.structs import replace

from cohort_pipelines import clock, loops
from cohort_pipelines.errors import MixpanelCohortUnknown, MixpanelError, MixpanelProjectUnknown, NotProjectAdmin
from cohort_pipelines.mixpanel.client import Client, Question, connect
from cohort_pipelines.mixpanel.project import Project

PATIENCE = timedelta(seconds=15)  # somebody is waiting for the answer
_ADMINS = frozenset({"admin", "owner"})
_MANAGES_SYNCS = "create and manage cohort syncs"  # a custom role's permission (docs, roles-and-permissions)


class CohortInfo(msgspec.Struct, frozen=True):
    """A saved cohort.

    Attributes:
        id: its number.
        name: its name.
        count: what Mixpanel counted for the list, which may differ from a snapshot's total.
        hosted_syncs: syncs of Mixpanel's own that run for it, as far as is known.
    """

    id: int
    name: str
    count: int
    hosted_syncs: int = 0

    @property
    def warning(self) -> str:
        """What is to be said although it is connected; empty when there is nothing."""
        if not self.hosted_syncs:
            return ""
        syncs = "sync" if self.hosted_syncs == 1 else "syncs"
        return (
            f"Mixpanel still runs {self.hosted_syncs} {syncs} of its own for this cohort; turn them off, or they undo "
            "each other"
        )


class _Integrated(msgspec.Struct):
    """A cohort in the App API's list; each active integration is a sync that Mixpanel runs."""

    id: int
    active_integrations: list[Any] | None = None


class _Integrations(msgspec.Struct):
    results: list[_Integrated]


class _Role(msgspec.Struct):
    name: str = ""


class _Membership(msgspec.Struct):
    name: str = ""
    role: _Role | str | None = None
    permissions: list[Any] | None = None


class _Account(msgspec.Struct):
    projects: dict[str, _Membership] = {}


class _Me(msgspec.Struct):
    results: _Account


@dataclass(frozen=True, slots=True)
class CheckedProject:
    """A project that is connected.

    Attributes:
        project_id: the project's number.
        connected: what is connected and as whom, such as ``Shop, as Admin``.
        cohorts: every cohort that the account can see, by id.
    """

    project_id: int
    connected: str
    cohorts: Mapping[int, CohortInfo]

    def cohort(self, cohort_id: int) -> CohortInfo:
        """Return one of the cohorts.

        Raises:
            MixpanelCohortUnknown: the project has none of that id that the account can see.
        """
        if cohort_id not in self.cohorts:
            raise MixpanelCohortUnknown(cohort_id, self.project_id)
        return self.cohorts[cohort_id]


def check_project_and_cohorts(project: Project) -> CheckedProject:
    """Return what is connected, with the cohorts, so that any number of syncs is checked for one query.

    Raises:
        MixpanelCredentialRefused: the service account or its secret is wrong or expired.
        MixpanelProjectUnknown: the account has no access to the project.
        NotProjectAdmin: its role may not set up a cohort sync.
        MixpanelPlanWithoutApi: the project's plan has no Query API, which only a query shows.
        MixpanelError: another refusal or failure.
    """

    async def ask() -> CheckedProject:
        async with connect(project) as client:
            connected, cohorts = await _connected(client), await _cohorts(client)
            hosted = await _hosted_syncs(client)
            known = {number: replace(each, hosted_syncs=hosted.get(number, 0)) for number, each in cohorts.items()}
            return CheckedProject(project.project_id, connected, known)

    return loops.run(ask())


async def _connected(client: Client) -> str:
    client.connection.follow_redirects = True  # the App API redirects paths without a trailing slash
    question = Question(asked="the projects of the service account", path="/api/app/me")
    me = await client.ask(question, msgspec.json.Decoder(_Me).decode, clock.now() + PATIENCE)
    project_id = client.project.project_id
    membership = me.results.projects.get(str(project_id))
    if membership is None:
        raise MixpanelProjectUnknown(project_id)
    role = membership.role.name if isinstance(membership.role, _Role) else membership.role or "without a role"
    if role.lower() not in _ADMINS and not _may_manage_syncs(membership.permissions or []):
        raise NotProjectAdmin(role, project_id)
    return f"{membership.name}, as {role}"


async def _cohorts(client: Client) -> dict[int, CohortInfo]:
    question = Question(asked="the list of cohorts", path="/api/query/cohorts/list", form={}, counted=True)
    cohorts = await client.ask(question, msgspec.json.Decoder(list[CohortInfo]).decode, clock.now() + PATIENCE)
    return {cohort.id: cohort for cohort in cohorts}


async def _hosted_syncs(client: Client) -> dict[int, int]:
    """Count the syncs that Mixpanel itself runs, by cohort; asked once, and no answer is no failure.

    Source: the response type of Mixpanel's Terraform provider (cohort_list_data_source.go); outside the query budget.
    """
    path = f"/api/app/projects/{client.project.project_id}/cohorts"
    question = Question(asked="the syncs of the cohorts", path=path)
    try:
        listed = await client.ask(question, msgspec.json.Decoder(_Integrations).decode, clock.now())
    except MixpanelError:
        return {}
    return {cohort.id: len(cohort.active_integrations or ()) for cohort in listed.results}


def _may_manage_syncs(permissions: Sequence[object]) -> bool:
    """Say whether a custom role's permissions name the one for cohort syncs; how /me spells it is not documented."""
    return any(re.sub(r"[\W_]+", " ", str(permission)).strip().lower() == _MANAGES_SYNCS for permission in permissions)
