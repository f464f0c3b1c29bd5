"""The layer around a partner that makes its requests late, and the requests that change its behaviour by hand.

``/standin/behaviour``: ``GET`` tells it, ``POST`` changes the fields that it names, ``DELETE`` goes back to the start.
``POST /standin/land`` lets what is pending take effect: all, or the ``{"count": n}`` next.
``POST /standin/edit`` with ``{"target": name, "add": ids, "remove": ids}`` does what somebody does by hand in the
partner's own pages: it acts at once, whatever the behaviour; ``add`` may be a number of ids that nobody ever sent.
"""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict, fields
from http import HTTPStatus
from typing import Any, Protocol

import msgspec
from starlette.types import Receive, Scope, Send

from cohort_pipelines.devtools.standins.asgi import answer, answer_json, hang_up, read_body, replaying, swallow
from cohort_pipelines.devtools.standins.behaviour import Behaviour, Reception
from cohort_pipelines.devtools.standins.faults import Faults

LANDING = "standin.landing"  # key of the scope; the request has waited and takes effect now
_KNOWN = frozenset(field.name for field in fields(Behaviour))


class Partner(Protocol):
    """What the layer has to know of a partner's state."""

    reception: Reception

    def ids(self) -> Iterable[str]:
        """Return every id that the partner knows, in the order in which they came."""
        ...

    def edit(self, target: str, add: Iterable[str], remove: Iterable[str]) -> int:
        """Change who is in ``target``; return how many then are."""
        ...


class Edit(msgspec.Struct, forbid_unknown_fields=True):
    """Who is put into a target, and who is taken out of it, by hand."""

    target: str
    add: int | list[str] = 0
    remove: list[str] = []


class Land(msgspec.Struct, forbid_unknown_fields=True):
    """How many pending effects shall land."""

    count: int | None = None


class Behaving:
    """ASGI layer around the faults of a partner; requests to ``path`` can be late, and meet no fault then."""

    def __init__(self, faults: Faults, partner: Partner, path: str) -> None:
        self._faults = faults
        self._partner = partner
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, unless it is late or is about the behaviour."""
        path, method = scope["path"], scope["method"]
        if path.startswith("/standin/") and (control := self._control(path, method)):
            try:
                content = await control(await read_body(receive) or b"{}")
            except msgspec.MsgspecError as error:
                await answer_json(send, HTTPStatus.BAD_REQUEST, {"error": str(error)})
            else:
                await answer_json(send, HTTPStatus.OK, content)
        elif method == "POST" and path.startswith(self._path) and self._partner.reception.is_late():
            await self._be_late(scope, receive, send)
        else:
            await self._faults(scope, receive, send)

    def _control(self, path: str, method: str) -> Callable[[bytes], Awaitable[dict[str, Any]]] | None:
        return {
            ("/standin/behaviour", "GET"): self._tell,
            ("/standin/behaviour", "POST"): self._change,
            ("/standin/behaviour", "DELETE"): self._reset,
            ("/standin/land", "POST"): self._land,
            ("/standin/edit", "POST"): self._edit,
        }.get((path, method))

    async def _be_late(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_body(receive)
        status = self._partner.reception.behaviour.late_status

        async def arrive() -> None:
            await self._faults.app({**scope, LANDING: True}, replaying(body, receive), swallow)

        self._partner.reception.hold(arrive)
        self._faults.requests[scope["path"], status or 0] += 1
        if status is None:
            await hang_up(receive, send)
        else:
            await answer(send, status, b"", {})

    async def _tell(self, _body: bytes) -> dict[str, Any]:
        reception = self._partner.reception
        return {"behaviour": asdict(reception.behaviour), "pending": reception.pending}

    async def _change(self, body: bytes) -> dict[str, Any]:
        changed = msgspec.json.decode(body, type=dict[str, Any])
        if unknown := changed.keys() - _KNOWN:
            message = f"a behaviour has no {', '.join(sorted(unknown))}"
            raise msgspec.ValidationError(message)
        reception = self._partner.reception
        behaviour = msgspec.convert(asdict(reception.behaviour) | changed, Behaviour)
        reception.behave(behaviour, self._partner.ids())
        return await self._tell(body)

    async def _reset(self, body: bytes) -> dict[str, Any]:
        self._partner.reception.reset(self._partner.ids())
        return await self._tell(body)

    async def _land(self, body: bytes) -> dict[str, Any]:
        landed = await self._partner.reception.land(msgspec.json.decode(body, type=Land).count)
        return {"landed": landed, "pending": self._partner.reception.pending}

    async def _edit(self, body: bytes) -> dict[str, Any]:
        edit = msgspec.json.decode(body, type=Edit)
        add = [f"never-sent-{number}" for number in range(edit.add)] if isinstance(edit.add, int) else edit.add
        return {"users": self._partner.edit(edit.target, add, edit.remove)}
