"""Taplytics: the documented per-user write of custom data, and a page that shows a segment.

``POST /v2/users/`` creates or updates one user and merges ``custom_data`` into what is there
(docs.taplytics.com/reference/create-or-update-a-user-1). That path is plain ASGI: a first fill calls it often.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from html import escape
from typing import Any, TypeAlias
from urllib.parse import parse_qs, quote

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from cohort_pipelines.devtools.standins.asgi import answer_json, read_body
from cohort_pipelines.devtools.standins.behaving import LANDING
from cohort_pipelines.devtools.standins.behaviour import Behaviour, Reception
from cohort_pipelines.devtools.standins.html import page
from cohort_pipelines.devtools.standins.streaming import ids_response

CustomData: TypeAlias = dict[str, Any]
WRITES_KEPT = 100_000
USERS = "/v2/users"


class UserUpdate(msgspec.Struct):
    """The part of a request's body that is kept."""

    user_id: str | None = None
    email: str | None = None
    api_token: str | None = None
    custom_data: CustomData = {}


class TaplyticsState:
    """The users' custom data, by user id (by email, where there is no id).

    ``knows`` tells who has sent events from the app; other users that are written to are created by the API. Equal
    custom data of many users is one object, so that a million users of a segment fit into memory.
    """

    def __init__(self, key: str, knows: Callable[[str], bool], behaviour: Behaviour | None = None) -> None:
        self.key = key
        self.knows = knows
        self.reception = Reception(behaviour or Behaviour())
        self.users: dict[str, CustomData] = {}
        self.created: set[str] = set()
        self.writes: deque[tuple[str, CustomData]] = deque(maxlen=WRITES_KEPT)
        self._shared: dict[bytes, CustomData] = {}

    def take(self, user: str, posted: CustomData, *, landing: bool) -> CustomData:
        """Accept a write; return the user's custom data as it is or will be."""
        self.writes.append((user, posted))
        known = self.reception.spelled(user)
        held = self.users.get(known, {})
        if not self.reception.stores(user):
            return held
        self.reception.apply(lambda: self.merge(known, posted), landing=landing)
        return {**held, **posted}

    def merge(self, user: str, posted: CustomData) -> None:
        """Merge ``posted`` into the user's custom data, creating the user if need be."""
        if user not in self.users and not self.knows(user):
            self.created.add(user)
        self._store(user, posted)

    def edit(self, target: str, add: Iterable[str], remove: Iterable[str]) -> int:
        """Set the field ``target`` by hand, to true and to false; return for how many it then is true."""
        for ids, value in ((add, True), (remove, False)):
            for user in ids:
                self._store(self.reception.spelled(user), {target: value})
        return sum(1 for _ in self.members(target))

    def ids(self) -> Iterable[str]:
        """Return the users."""
        return self.users

    def _store(self, user: str, posted: CustomData) -> None:
        merged = {**self.users.get(user, {}), **posted}
        self.users[user] = self._shared.setdefault(msgspec.json.encode(merged, order="sorted"), merged)

    def members(self, field: str) -> Iterator[str]:
        """Yield the users whose ``field`` is true."""
        return (user for user, custom_data in self.users.items() if custom_data.get(field) is True)

    def fields(self) -> dict[str, int]:
        """Return every field that a user has, with the number of users for whom it is true."""
        counts: dict[str, int] = {}
        for custom_data in self.users.values():
            for field, value in custom_data.items():
                counts[field] = counts.get(field, 0) + (value is True)
        return counts

    def dump(self) -> dict[str, Any]:
        """Return everything that was written, to be kept in a file."""
        return {"users": self.users, "created": sorted(self.created)}

    def load(self, dumped: dict[str, Any]) -> None:
        """Take up what :meth:`dump` returned."""
        for user, custom_data in dumped["users"].items():
            self._store(self.reception.spelled(user), custom_data)
        self.created = set(dumped["created"])


def taplytics_app(state: TaplyticsState) -> ASGIApp:
    """Return the stand-in as an ASGI application."""
    pages = Starlette(
        routes=[
            Route("/", _index),
            Route("/segments/{field:path}", _segment),
            Route("/standin/state", _tell),
            Route("/standin/writes", _writes, methods=["GET", "DELETE"]),
        ]
    )
    pages.state.taplytics = state

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"].startswith(USERS):
            status, content = _write(state, scope, await read_body(receive))
            await answer_json(send, status, content)
        else:
            await pages(scope, receive, send)

    return app


async def _index(request: Request) -> Response:
    cards = "".join(
        f'<section class="card"><h2><a href="/segments/{quote(field, safe="")}">{escape(field)}</a></h2>'
        f"<p>{count:,} users</p></section>"
        for field, count in sorted(_state(request).fields().items())
    )
    return HTMLResponse(page("Taplytics", "Segments", cards or '<p class="note">No custom data yet.</p>'))


async def _segment(request: Request) -> Response:
    field = request.path_params["field"]
    count = sum(1 for _ in _state(request).members(field))
    body = (
        '<section class="card"><h2>Filters</h2><p>Users who match all of these</p>'
        f'<p class="row"><span>Custom Data</span><span class="name">{escape(field)}</span>'
        "<span>is</span><span>true</span></p></section>"
        f'<p><span class="count" data-users="{count}">{count:,}</span> users</p>'
    )
    return HTMLResponse(page("Taplytics", "Segment editor", body))


async def _tell(request: Request) -> Response:
    state = _state(request)
    if (field := request.query_params.get("field")) is not None:
        return ids_response(state.members(field))
    summary = {"users": len(state.users), "created": len(state.created), "fields": state.fields()}
    return JSONResponse(summary | {"pending": state.reception.pending})


async def _writes(request: Request) -> Response:
    writes = _state(request).writes
    if request.method == "DELETE":
        writes.clear()
    return Response(msgspec.json.encode(list(writes)), media_type="application/json")


def _state(request: Request) -> TaplyticsState:
    state: TaplyticsState = request.app.state.taplytics
    return state


def _write(state: TaplyticsState, scope: Scope, body: bytes) -> tuple[int, dict[str, Any]]:
    query = parse_qs(scope["query_string"].decode("latin-1")) if scope["query_string"] else {}
    try:
        update = msgspec.json.decode(body or b"{}", type=UserUpdate)
    except msgspec.MsgspecError:
        return 400, {"error": "The body is not a JSON object of the expected form"}
    header = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"x-access-token"), None)
    if state.key not in (header, update.api_token, *query.get("api_token", ())):
        return 401, {"error": "Invalid API token"}
    path_id = scope["path"][len(USERS) :].strip("/")
    if path_id and path_id not in state.users:
        return 404, {"error": "User not found"}
    user = path_id or update.user_id or update.email or next(iter(query.get("user_id", ())), "")
    if not user:
        return 400, {"error": "One of id, user_id or email is required"}
    if state.reception.refuses([user]):
        return 400, {"error": "This user is not accepted"}
    return 200, {"user_id": user, "custom_data": state.take(user, update.custom_data, landing=LANDING in scope)}
