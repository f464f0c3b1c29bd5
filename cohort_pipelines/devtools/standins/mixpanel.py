"""Mixpanel: cohorts/list, the engage queries, app/me, the App API's cohorts and profile updates.

As lenient as the real one towards clients that we did not write: GET or POST, ``/api/query`` or ``/api/2.0``, with or
without a slash at the end, parameters anywhere (see :mod:`.parameters`).
"""

import base64
import binascii
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from cohort_pipelines.devtools.standins import mixpanel_answers as answers
from cohort_pipelines.devtools.standins.budget import QueryBudget
from cohort_pipelines.devtools.standins.engage import Engage
from cohort_pipelines.devtools.standins.faults import TWIST
from cohort_pipelines.devtools.standins.parameters import Parameters, asked, read_parameters, require_known
from cohort_pipelines.devtools.standins.profile_updates import apply_update, profile_updates
from cohort_pipelines.devtools.standins.project import Cohort, Project

ROLES = ("owner", "admin", "analyst", "consumer")
_OVER = "standin.over_concurrency"  # key of the scope


@dataclass
class MixpanelState:
    """A project, who may read it, and how much.

    ``role`` is the service account's role in the project; None: it has no access. ``project_secret`` is the older
    credential, retired in March 2027 (docs, project-secret.mdx): a client that has it need not name the project.
    """

    project: Project
    service_account: str
    secret: str
    project_secret: str
    project_id: str
    token: str
    page_size: int = 1000
    budget: QueryBudget = field(default_factory=QueryBudget)
    role: str | None = "admin"
    active_integrations: int = 0  # of each cohort
    engage: Engage = field(init=False)

    def __post_init__(self) -> None:
        self.engage = Engage(self.project, self.page_size)


def mixpanel_app(state: MixpanelState) -> Starlette:
    """Return the stand-in as an ASGI application."""
    routes = [
        Route(f"/api/{version}/{path}{slash}", handler, methods=["GET", "POST"])
        for version in ("query", "2.0")
        for path, handler in _QUERIES.items()
        for slash in ("", "/")
    ]
    routes += [Route(f"/api/app/me{slash}", _me) for slash in ("", "/")]
    routes += [Route(f"/api/app/projects/{{project_id}}/cohorts{slash}", _app_cohorts) for slash in ("", "/")]
    routes += [
        Route(f"/api/app/projects/{{project_id}}/cohorts/{{cohort_id:int}}{slash}", _app_cohort) for slash in ("", "/")
    ]
    routes += [Route(f"/engage{slash}", _ingest, methods=["POST"]) for slash in ("", "/")]
    routes += [
        Route("/standin/churn", _churn, methods=["POST"]),
        Route("/standin/role", _set_role, methods=["POST"]),
        Route("/standin/integrations", _set_integrations, methods=["POST"]),
        Route("/standin/unknown_cohort", _set_unknown_cohort, methods=["POST", "DELETE"]),
        Route("/standin/queries", _queries, methods=["GET", "DELETE"]),
    ]
    app = Starlette(routes=routes, exception_handlers={answers.Answer: _refuse, HTTPException: _refuse_route})
    app.state.mixpanel = state
    return app


class Concurrency:
    """ASGI layer that counts the engage requests under way; outside of the faults, so that delayed ones count."""

    def __init__(self, app: ASGIApp, budget: QueryBudget) -> None:
        self.app = app
        self.budget = budget

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, marked if it is one too many."""
        if scope["type"] != "http" or not scope["path"].startswith(("/api/query/engage", "/api/2.0/engage")):
            await self.app(scope, receive, send)
        elif self.budget.running >= self.budget.at_once:
            await self.app({**scope, _OVER: True}, receive, send)
        else:
            self.budget.running += 1
            try:
                await self.app(scope, receive, send)
            finally:
                self.budget.running -= 1


async def _cohorts_list(request: Request) -> Response:
    state, parameters = _state(request), await read_parameters(request)
    _admit(request, parameters, counted=True)
    require_known(parameters, (), asked(request))
    return _json([_listed(cohort, state.project_id) for cohort in state.project.cohorts.values()])


async def _engage(request: Request) -> Response:
    parameters = await read_parameters(request)
    _admit(request, parameters, counted=not parameters.get("session_id"))
    return _json(_state(request).engage.page(parameters, asked(request), request.scope.get(TWIST, "")))


async def _engage_stats(request: Request) -> Response:
    parameters = await read_parameters(request)
    _admit(request, parameters, counted=True)
    return _json(_state(request).engage.stats(parameters, asked(request)))


async def _engage_properties(request: Request) -> Response:
    parameters = await read_parameters(request)
    _admit(request, parameters, counted=True)
    return _json(_state(request).engage.properties(parameters, asked(request)))


async def _me(request: Request) -> Response:
    _authenticate(request)
    require_known(await read_parameters(request), (), asked(request))
    state = _state(request)
    project = {
        "name": "Stand-in",
        "organization_id": 1,
        "timezone": "UTC",
        "has_workspaces": False,
        "domain": "mixpanel.com",
        "type": "PROJECT",
        "role": {"id": ROLES.index(state.role) if state.role in ROLES else len(ROLES), "name": state.role},
        "permissions": [],
    }
    results = {
        "user_id": 1,
        "user_email": state.service_account,
        "user_name": state.service_account.partition(".")[0],
        "organizations": {"1": {"id": 1, "name": "Stand-ins", "role": "consumer", "permissions": []}},
        "projects": {} if state.role is None else {state.project_id: project},
        "workspaces": {},
    }
    return _json({"status": "ok", "results": results})


async def _app_cohorts(request: Request) -> Response:
    """List the cohorts with their integrations; costs no query (Mixpanel's Terraform provider, client.go)."""
    state = await _admit_to_app(request)
    results = [_listed_by_app(cohort, state.active_integrations) for cohort in state.project.cohorts.values()]
    return _json({"status": "ok", "results": results})


async def _app_cohort(request: Request) -> Response:
    state, cohort_id = await _admit_to_app(request), request.path_params["cohort_id"]
    cohort = state.project.cohorts.get(cohort_id)
    if cohort is None:
        not_found = answers.app_error(asked(request), 404, f"cohort {cohort_id} does not exist")
        raise state.engage.no_such_cohort(not_found)
    return _json({"status": "ok", "results": _listed_by_app(cohort, state.active_integrations)})


async def _ingest(request: Request) -> Response:
    state, parameters, where = _state(request), await read_parameters(request), asked(request)
    for update in profile_updates(parameters, where):
        apply_update(state.project, state.token, update, where)
    if parameters.get("verbose") == "1":
        return _json({"status": 1, "error": None})
    return PlainTextResponse("1")  # 200 whatever the records are worth (docs, profile-set.mdx)


async def _churn(request: Request) -> Response:
    joined, left = _state(request).project.churn((await request.json())["fraction"])
    return _json({"joined": joined, "left": left})


async def _set_role(request: Request) -> Response:
    state = _state(request)
    state.role = (await request.json())["role"]
    return _json({"role": state.role})


async def _set_integrations(request: Request) -> Response:
    state = _state(request)
    state.active_integrations = (await request.json())["count"]
    return _json({"count": state.active_integrations})


async def _set_unknown_cohort(request: Request) -> Response:
    given = await request.json() if request.method == "POST" else None
    _state(request).engage.unknown_cohort = given and (given["status"], given["body"])
    return _json(given)


async def _queries(request: Request) -> Response:
    budget = _state(request).budget
    if request.method == "DELETE":
        budget.reset()
    return _json({"used": budget.used(), "per_hour": budget.per_hour})


async def _refuse(_request: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, answers.Answer)  # noqa: S101  Starlette's handlers are typed for any exception
    return refusal.response()


async def _refuse_route(request: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, HTTPException)  # noqa: S101  as above
    sentence = f"{request.method} of this path is not supported by this stand-in"
    return answers.app_error(asked(request), refusal.status_code, sentence).response()


async def _admit_to_app(request: Request) -> MixpanelState:
    state, where = _state(request), asked(request)
    _authenticate(request)
    _require_access(state, request.path_params["project_id"], where)
    require_known(await read_parameters(request), (), where)
    return state


def _admit(request: Request, parameters: Parameters, *, counted: bool) -> None:
    state, where, twist = _state(request), asked(request), request.scope.get(TWIST, "")
    budget = state.budget
    if _authenticate(request) or parameters.get("project_id"):
        _require_access(state, str(parameters.get("project_id") or ""), where)
    if twist in _REFUSALS:
        raise _REFUSALS[twist](where, state.project_id)
    if request.scope.get(_OVER):
        left = max(0, budget.per_hour - budget.used())
        raise answers.too_many_at_once(where, state.project_id, budget.per_hour, budget.at_once, left)
    if counted and not budget.count():
        seconds = budget.seconds_left()
        raise answers.hour_used_up(where, state.project_id, budget.per_hour, budget.at_once, seconds)


_QUERIES: dict[str, Callable[[Request], Awaitable[Response]]] = {
    "cohorts/list": _cohorts_list,
    "engage": _engage,
    "engage/stats": _engage_stats,
    "engage/properties": _engage_properties,
}
_REFUSALS: dict[str, Callable[[str, str], answers.Answer]] = {
    "plan_without_api": answers.plan_without_api,
    "timed_out": answers.timed_out,
    "load_shed": answers.load_shed,
}


def _authenticate(request: Request) -> bool:
    """Check the credential; tell whether it is a service account, which must name its project."""
    state = _state(request)
    scheme, _, credential = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        raise answers.unable_to_authenticate(asked(request))
    if ":" not in credential:  # the header may also carry plain text (docs, service-accounts.mdx)
        try:
            credential = base64.urlsafe_b64decode(credential).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise answers.unable_to_authenticate(asked(request)) from None
    if credential == f"{state.service_account}:{state.secret}":
        return True
    if credential.removesuffix(":") != state.project_secret:
        raise answers.credential_refused(asked(request))
    return False


def _require_access(state: MixpanelState, project_id: str, where: str) -> None:
    if not project_id:
        raise answers.bad_request(where, "project_id is a required parameter for service accounts")
    if project_id != state.project_id or state.role is None:
        raise answers.no_access(where, project_id)


def _listed(cohort: Cohort, project_id: str) -> dict[str, Any]:
    return {
        "count": cohort.flags.count(1),
        "is_visible": 1,
        "description": cohort.description,
        "created": "2026-10-01 09:00:00",
        "project_id": int(project_id),
        "id": cohort.id,
        "name": cohort.name,
    }


def _listed_by_app(cohort: Cohort, integrations: int) -> dict[str, Any]:
    # cohort_list_data_source.go of that provider; whether is_visible is a number here too is published nowhere
    return {
        "id": cohort.id,
        "name": cohort.name,
        "description": cohort.description,
        "count": cohort.flags.count(1),
        "is_visible": True,
        "is_locked": False,
        "data_group_id": None,
        "active_integrations": list(range(1, integrations + 1)),
    }


def _state(request: Request) -> MixpanelState:
    state: MixpanelState = request.app.state.mixpanel
    return state


def _json(content: Any) -> Response:  # noqa: ANN401  whatever JSON can hold
    return Response(msgspec.json.encode(content), media_type=answers.JSON)
