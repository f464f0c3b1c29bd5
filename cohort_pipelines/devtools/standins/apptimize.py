"""Apptimize: a receiver of Mixpanel's cohort messages, the dashboard's CSV import, and its Groups page."""

from html import escape

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from cohort_pipelines.devtools.standins.behaving import LANDING
from cohort_pipelines.devtools.standins.groups import ApptimizeState, Group, Refused, read_message
from cohort_pipelines.devtools.standins.html import page
from cohort_pipelines.devtools.standins.streaming import ids_response

COHORTS = "/cohorts"
TOKEN_HEADER = "ApptimizeApiToken"  # noqa: S105  a header's name (apptimize.com/docs/apis/rest-api.html)


def apptimize_app(state: ApptimizeState) -> Starlette:
    """Return the stand-in as an ASGI application."""
    app = Starlette(
        routes=[
            Route(COHORTS, _receive, methods=["POST"]),
            Route("/groups", _groups),
            Route("/groups/import", _import_csv, methods=["POST"]),
            Route("/", _home),
            Route("/standin/state", _tell),
            Route("/standin/messages", _messages, methods=["GET", "DELETE"]),
            Route("/standin/groups", _delete, methods=["DELETE"]),
        ]
    )
    app.state.apptimize = state
    return app


async def _receive(request: Request) -> Response:
    state = _state(request)
    if request.headers.get(TOKEN_HEADER) != state.token:
        return _failure("", Refused(401, "The token is not valid"))
    action = ""
    try:
        message = read_message(await request.body())
        action = message.action
        state.take(message, landing=LANDING in request.scope)
    except Refused as refusal:
        return _failure(action, refusal)
    return JSONResponse({"action": action, "status": "success"})


async def _import_csv(request: Request) -> Response:
    try:
        text = (await request.body()).decode("utf-8-sig")
        users = _state(request).import_csv(request.query_params["name"], text)
    except (KeyError, UnicodeDecodeError):
        return JSONResponse({"error": "A name and a UTF-8 file are required"}, 400)
    except Refused as refusal:
        return JSONResponse({"error": str(refusal)}, refusal.code)
    return JSONResponse({"users": users})


async def _groups(request: Request) -> Response:
    state = _state(request)
    cards = "".join(_card(group) for _, group in sorted(state.groups.items()))
    note = f'<p class="note">Datacenter: {escape(state.region.upper())}</p>'
    return HTMLResponse(page("Apptimize", "Groups", note + (cards or '<p class="note">No groups yet.</p>')))


async def _home(_request: Request) -> Response:
    return RedirectResponse("/groups")


async def _tell(request: Request) -> Response:
    state = _state(request)
    groups = state.groups
    if (name := request.query_params.get("group")) is not None:
        return ids_response(groups[name].ids if name in groups else ())
    sizes = {name: len(group.ids) for name, group in groups.items()}
    return JSONResponse({"groups": sizes, "pending": state.reception.pending})


async def _messages(request: Request) -> Response:
    messages = _state(request).messages
    if request.method == "DELETE":
        messages.clear()
    return JSONResponse(list(messages))


async def _delete(request: Request) -> Response:
    return JSONResponse({"users": _state(request).delete(request.query_params["name"])})


def _failure(action: str, refusal: Refused) -> Response:
    error = {"message": str(refusal), "code": refusal.code}
    return JSONResponse({"action": action, "status": "failure", "error": error}, refusal.code)


def _card(group: Group) -> str:
    return (
        f'<section class="card"><h2>{escape(group.name)}</h2>'
        f'<p data-users="{len(group.ids)}">{len(group.ids):,} users</p>'
        f'<p class="note">{escape(group.source)}, created {group.created:%b %-d, %Y}</p></section>'
    )


def _state(request: Request) -> ApptimizeState:
    state: ApptimizeState = request.app.state.apptimize
    return state
