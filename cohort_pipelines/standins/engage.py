"""The engage query: who is asked for, frozen at page 0, and then page after page of it.

Facts: docs/reference/engage-query.mdx and openapi/query; ``page_size`` and ``limit`` are undocumented, but clients send
them (singer tap-mixpanel, airbyte). How long a session lives is published nowhere; here the newest 32 are kept.
"""

import random
import string
from array import array
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from cohort_pipelines import clock
from cohort_pipelines.standins.mixpanel_answers import bad_request
from cohort_pipelines.standins.parameters import Parameters, decoded, whole_number
from cohort_pipelines.standins.project import Cohort, Project

SESSIONS_KEPT = 32
_UNCACHED = "request for page in uncached query for params"  # docs, of paging without a cached query


@dataclass(frozen=True, slots=True)
class Session:
    """What page 0 froze: the numbers of the users, and the length of a page."""

    numbers: "array[int]"
    page_size: int


class Engage:
    """Answers engage queries over a project; pages hold at most ``page_size`` users."""

    def __init__(self, project: Project, page_size: int) -> None:
        self.project = project
        self.page_size = page_size
        self._sessions: OrderedDict[str, Session] = OrderedDict()

    def page(self, parameters: Parameters, where: str, twist: str = "") -> dict[str, Any]:
        """Return the page that is asked for, or with ``twist`` a wrong one (see :mod:`.faults`).

        ``where`` is the path with its query, for refusals.

        Raises:
            Answer: 400, the query makes no sense or its session is not known.
        """
        page = whole_number(parameters.get("page"), 0, where)
        session_id = str(parameters.get("session_id") or "")
        if not session_id and page == 0:
            session_id = self._begin(self._query(parameters, where))
        session = self._sessions.get(session_id)
        if session is None or page < 0:
            raise bad_request(where, _UNCACHED)
        start = max(0, page + {"repeat_page": -1, "skip_page": 1}.get(twist, 0)) * session.page_size
        numbers = session.numbers[start : start + session.page_size]
        if twist == "short_page":
            numbers = numbers[: len(numbers) // 2]
        return {
            "page": page,
            "page_size": session.page_size,
            "session_id": f"{session_id}X" if twist == "session_changes" else session_id,
            "status": "ok",
            "computed_at": clock.now().isoformat(),
            "total": len(session.numbers) + (twist == "total_changes"),
            "results": _results(self.project, numbers, _wanted(parameters, where)),
        }

    def _begin(self, session: Session) -> str:
        letters = "".join(random.choices(string.ascii_uppercase, k=8))
        session_id = f"{int(clock.now().timestamp())}-{letters}"
        self._sessions[session_id] = session
        while len(self._sessions) > SESSIONS_KEPT:
            self._sessions.popitem(last=False)
        return session_id

    def _query(self, parameters: Parameters, where: str) -> Session:
        for unsupported in ("where", "behaviors"):
            if parameters.get(unsupported):
                raise bad_request(where, f"{unsupported} is not supported by this stand-in")
        page_size = min(whole_number(parameters.get("page_size"), self.page_size, where), self.page_size)
        numbers = _selected(self.project, parameters, where)
        limit = whole_number(parameters.get("limit"), len(numbers), where)  # cuts the whole result, not a page
        return Session(numbers=numbers[:limit], page_size=max(1, page_size))


def _selected(project: Project, parameters: Parameters, where: str) -> "array[int]":
    if parameters.get("data_group_id"):
        return array("I")  # there are no groups here
    ids = list(decoded(parameters.get("distinct_ids") or "[]", where))
    if parameters.get("distinct_id"):
        ids.append(parameters["distinct_id"])
    if ids:
        found = dict.fromkeys(project.find(str(some_id)) for some_id in ids)
        return array("I", [number for number in found if number is not None and project.with_profile[number]])
    by_cohort = parameters.get("filter_by_cohort")
    if not by_cohort:
        return project.members(None, only_with_profile=True)
    everybody = str(parameters.get("include_all_users", "true")).lower() not in ("false", "0")
    return project.members(_cohort(project, decoded(by_cohort, where), where), only_with_profile=not everybody)


def _cohort(project: Project, named: Any, where: str) -> Cohort:  # noqa: ANN401  what a client sent
    wanted = named.get("id") if isinstance(named, dict) else named
    cohort = project.cohorts.get(whole_number(wanted, -1, where))
    if cohort is None:
        raise bad_request(where, f"cohort {wanted} does not exist")
    return cohort


def _wanted(parameters: Parameters, where: str) -> frozenset[str] | None:
    named = parameters.get("output_properties")
    return frozenset(map(str, decoded(named, where))) if named else None


def _results(project: Project, numbers: "array[int]", wanted: frozenset[str] | None) -> list[dict[str, Any]]:
    distinct_id, profile = project.distinct_id, project.profile
    if wanted is None:
        return [{"$distinct_id": distinct_id(number), "$properties": profile(number)} for number in numbers]
    return [
        {
            "$distinct_id": distinct_id(number),
            "$properties": {name: value for name, value in profile(number).items() if name in wanted},
        }
        for number in numbers
    ]
