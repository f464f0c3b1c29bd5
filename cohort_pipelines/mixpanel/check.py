"""Is it connected, and if not, why: the credential, the project, the plan, the role, and the cohorts.

The role is read from ``GET /api/app/me``, which docs.mixpanel.com shows as the way to try a service account
(reference/service-accounts) and which costs no query; the list of cohorts costs one. Syncs of Mixpanel's own are
counted in the App API's list of cohorts, which is not documented: what it does not clearly say is not known.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import msgspec

from cohort_pipelines.core import clock, event_loop
from cohort_pipelines.core.errors import (
    MixpanelCohortUnknown,
    MixpanelError,
    MixpanelGroupCohort,
    MixpanelProjectUnknown,
    NotProjectAdmin,
)
from cohort_pipelines.core.plain_text import shown
from cohort_pipelines.mixpanel.answers import Envelope
from cohort_pipelines.mixpanel.client import WHO_ASKS, Client, Question, connect
from cohort_pipelines.mixpanel.malformed import readable
from cohort_pipelines.mixpanel.project import Project

PATIENCE = timedelta(seconds=15)  # a person is waiting for the answer
_ADMINS = frozenset({"admin", "owner"})
_MANAGES_SYNCS = "create and manage cohort syncs"  # a custom role's permission (docs, roles-and-permissions)


@dataclass(frozen=True, slots=True)
class CohortInfo:
    """A saved cohort.

    Attributes:
        id: its number.
        name: its name; empty where it has none that can be read.
        count: what Mixpanel counted for the list, which may differ from a snapshot's total; None: it does not say.
        hosted_syncs: syncs of Mixpanel's own that run for it, as far as is known.
        group: whether its members are groups, such as companies, as far as is known.
    """

    id: int
    name: str
    count: int | None
    hosted_syncs: int = 0
    group: bool = False

    @property
    def described(self) -> str:
        """Its name and size, in words."""
        members = "an unknown number of" if self.count is None else f"{self.count:,}"
        return f"{self.name or 'a cohort whose name cannot be read'} ({members} members)"

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


class _Listed(msgspec.Struct):
    """A cohort in either list; only its id has to be readable. Each active integration is a sync that Mixpanel runs."""

    id: int
    name: Any = ""
    count: Any = None
    data_group_id: Any = None
    active_integrations: Any = None


class _AppCohorts(Envelope, kw_only=True):
    results: msgspec.Raw


class _Role(msgspec.Struct):
    name: str = ""


class _Membership(msgspec.Struct):
    name: str = ""
    role: _Role | str | None = None
    permissions: list[Any] | None = None


class _Account(msgspec.Struct):
    projects: dict[str, msgspec.Raw] = {}


class _Me(Envelope, kw_only=True):
    results: _Account


_listed = msgspec.json.Decoder(_Listed)
_app_cohorts = msgspec.json.Decoder(_AppCohorts)
_mes = msgspec.json.Decoder(_Me)
_memberships = msgspec.json.Decoder(_Membership)


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
            MixpanelGroupCohort: its members are no users.
        """
        if cohort_id not in self.cohorts:
            raise MixpanelCohortUnknown(cohort_id, self.project_id)
        if self.cohorts[cohort_id].group:
            raise MixpanelGroupCohort(cohort_id, self.project_id)
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
            connected, cohorts = await _connected(client), await list_cohorts(client, clock.now() + PATIENCE)
            for number, cohort in (await _cohorts_of_the_app(client)).items():
                if listed := cohorts.get(number):
                    syncs = cohort.active_integrations if isinstance(cohort.active_integrations, list) else []
                    group = listed.group or cohort.data_group_id is not None
                    cohorts[number] = replace(listed, hosted_syncs=len(syncs), group=group)
            return CheckedProject(project.project_id, connected, cohorts)

    return event_loop.run(ask())


async def _connected(client: Client) -> str:
    project_id = client.project.project_id

    def decode(body: bytes) -> _Membership | None:
        membership = _mes.decode(body).results.projects.get(str(project_id))
        return None if membership is None else _memberships.decode(membership)

    membership = await client.ask(WHO_ASKS, decode, clock.now() + PATIENCE)
    if membership is None:
        raise MixpanelProjectUnknown(project_id)
    role = membership.role.name if isinstance(membership.role, _Role) else membership.role or "without a role"
    if role.lower() not in _ADMINS and not _may_manage_syncs(membership.permissions or []):
        raise NotProjectAdmin(role, project_id)
    return f"{shown(membership.name)}, as {shown(role)}"


async def list_cohorts(client: Client, deadline: datetime) -> dict[int, CohortInfo]:
    """Return the cohorts that the account can see, by id; it costs a query. Those that cannot be read are left out.

    Raises:
        MixpanelError: the refusal or failure.
    """
    question = Question(asked="the list of cohorts", path="/api/query/cohorts/list", form={}, counted=True)
    cohorts = await client.ask(question, lambda body: readable(body, _listed), deadline)
    return {cohort.id: _info(cohort) for cohort in cohorts}


def _info(cohort: _Listed) -> CohortInfo:
    name = shown(cohort.name) if isinstance(cohort.name, str) else ""
    count = cohort.count if isinstance(cohort.count, int) else None
    return CohortInfo(cohort.id, name, count, group=cohort.data_group_id is not None)


async def _cohorts_of_the_app(client: Client) -> dict[int, _Listed]:
    """Return the App API's list, which tells more of each cohort; asked once, and no answer is no failure.

    Source: the response type of Mixpanel's Terraform provider (cohort_list_data_source.go); outside the query budget.
    """
    path = f"/api/app/projects/{client.project.project_id}/cohorts"
    question = Question(asked="the syncs of the cohorts", path=path)
    try:
        cohorts = await client.ask(
            question, lambda body: readable(bytes(_app_cohorts.decode(body).results), _listed), clock.now()
        )
    except MixpanelError:
        return {}
    return {cohort.id: cohort for cohort in cohorts}


def _may_manage_syncs(permissions: Sequence[object]) -> bool:
    """Say whether a custom role's permissions name the one for cohort syncs; how /me spells it is not documented."""
    return any(re.sub(r"[\W_]+", " ", str(permission)).strip().lower() == _MANAGES_SYNCS for permission in permissions)
