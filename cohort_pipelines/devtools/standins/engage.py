"""The engage queries: who is asked for, frozen at page 0, and then page after page of it; how many; their properties.

Facts: docs/reference/engage-query.mdx and openapi/query; ``page_size`` and ``limit`` are undocumented, but clients send
them (singer tap-mixpanel, airbyte, mixpanel-headless). ``limit`` cuts the results and leaves ``total`` as it is
(mixpanel-headless, workspace.py). How long a session lives is published nowhere; here the newest 32 are kept.
What is not implemented is refused, because an ignored filter would be a wrong audience.
"""

import random
import string
from array import array
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cohort_pipelines.core import clock
from cohort_pipelines.devtools.standins.expressions import ExpressionRefused, as_datetime, selector, type_of
from cohort_pipelines.devtools.standins.mixpanel_answers import Answer, bad_request
from cohort_pipelines.devtools.standins.parameters import (
    Parameters,
    boolean,
    decoded,
    require_known,
    strings,
    whole_number,
)
from cohort_pipelines.devtools.standins.project import Cohort, Project

SESSIONS_KEPT = 32
_UNCACHED = "request for page in uncached query for params"  # docs, of paging without a cached query
_FROZEN = frozenset(
    {"filter_by_cohort", "include_all_users", "where", "distinct_id", "distinct_ids", "page_size", "limit"}
)
_PAGE = _FROZEN | {"page", "session_id", "output_properties"}
_STATS = frozenset({"action", "selector", "filter_by_cohort", "include_all_users"})  # "selector" is where's name here


@dataclass(frozen=True, slots=True)
class Session:
    """What page 0 froze: what was asked, the users' numbers, how many there are without ``limit``, a page's length."""

    asked: Parameters
    numbers: "array[int]"
    total: int
    page_size: int


class Engage:
    """Answers engage queries over a project; pages hold at most ``page_size`` users.

    In all of them ``where`` is the path with its query, for refusals. ``unknown_cohort``: what is answered for a cohort
    that does not exist, status and body, since no source has it; None: 400 with a sentence.
    """

    def __init__(self, project: Project, page_size: int) -> None:
        self.project = project
        self.page_size = page_size
        self.unknown_cohort: tuple[int, str] | None = None
        self._sessions: OrderedDict[str, Session] = OrderedDict()

    def page(self, parameters: Parameters, where: str, twist: str = "") -> dict[str, Any]:
        """Return the page that is asked for, or with ``twist`` a wrong one (see :mod:`.faults`).

        Raises:
            Answer: 400, the query makes no sense, is not supported, or its session is not known.
        """
        require_known(parameters, _PAGE, where)
        page = whole_number(parameters.get("page"), 0, where)
        wanted = strings(parameters.get("output_properties"), where)
        session_id = str(parameters.get("session_id") or "")
        if not session_id and page == 0:
            session_id = self._begin(self._query(parameters, where))
        session = self._sessions.get(session_id)
        if session is None or page < 0:
            raise bad_request(where, _UNCACHED)
        for name in _FROZEN & parameters.keys():
            if parameters[name] != session.asked.get(name):
                raise bad_request(where, f"{name} is not what the first page of the session was asked with")
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
            "total": session.total + (twist == "total_changes"),
            "results": _results(self.project, numbers, wanted),
        }

    def stats(self, parameters: Parameters, where: str) -> dict[str, Any]:
        """Return how many users a query has (mixpanel-headless, engage_stats; other actions are refused).

        Raises:
            Answer: 400, the query makes no sense or is not supported.
        """
        require_known(parameters, _STATS, where)
        if parameters.get("action") != "count()":
            raise bad_request(where, "only the action count() is supported by this stand-in")
        asked = {name: value for name, value in parameters.items() if name not in ("action", "selector")}
        selected = self._selected(asked | {"where": parameters.get("selector")}, where)
        return {"results": len(selected), "status": "ok", "computed_at": clock.now().isoformat()}

    def properties(self, parameters: Parameters, where: str) -> dict[str, Any]:
        """Return the profile properties, the most frequent first, with counts and types (airbyte, streams/engage.py).

        Raises:
            Answer: 400, the query is not supported.
        """
        require_known(parameters, {"limit"}, where)
        types: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for number in self.project.members(None, only_with_profile=True):
            for name, value in self.project.profile(number).items():
                types[name][_property_type(value)] += 1
        by_count = sorted(types.items(), key=lambda item: -item[1].total())
        limit = _positive(parameters.get("limit"), len(by_count), where)
        results = {name: {"count": seen.total(), "type": seen.most_common(1)[0][0]} for name, seen in by_count[:limit]}
        return {"results": results, "status": "ok", "computed_at": clock.now().isoformat()}

    def no_such_cohort(self, default: Answer) -> Answer:
        """Return the answer to a question about a cohort that does not exist."""
        return default if self.unknown_cohort is None else Answer(*self.unknown_cohort)

    def _begin(self, session: Session) -> str:
        letters = "".join(random.choices(string.ascii_uppercase, k=8))
        session_id = f"{int(clock.now().timestamp())}-{letters}"
        self._sessions[session_id] = session
        while len(self._sessions) > SESSIONS_KEPT:
            self._sessions.popitem(last=False)
        return session_id

    def _query(self, parameters: Parameters, where: str) -> Session:
        page_size = min(_positive(parameters.get("page_size"), self.page_size, where), self.page_size)
        numbers = self._selected(parameters, where)
        limit = _positive(parameters.get("limit"), len(numbers), where)
        asked = {name: parameters[name] for name in _FROZEN & parameters.keys()}
        return Session(asked, numbers[:limit], len(numbers), page_size)

    def _selected(self, parameters: Parameters, where: str) -> "array[int]":
        project, cohort, everybody = self.project, None, False
        if by_cohort := parameters.get("filter_by_cohort"):
            cohort = self._cohort(decoded(by_cohort, where), where)
            everybody = boolean(parameters.get("include_all_users", True), where)
        elif "include_all_users" in parameters:
            raise bad_request(where, "include_all_users goes with filter_by_cohort only")
        ids = _ids(parameters, where)
        if ids is None:
            numbers = project.members(cohort, only_with_profile=not everybody)
        else:
            found = dict.fromkeys(number for number in map(project.find, ids) if number is not None)
            numbers = array("I", [number for number in found if project.has(number, cohort, profile=not everybody)])
        if expression := parameters.get("where"):
            numbers = _filtered(numbers, str(expression), project.profile, where)
        return numbers

    def _cohort(self, named: Any, where: str) -> Cohort:  # noqa: ANN401  what a client sent
        if not isinstance(named, dict) or named.keys() != {"id"}:
            raise bad_request(where, 'filter_by_cohort must be {"id": a number}; this stand-in supports no other')
        cohort = self.project.cohorts.get(whole_number(named["id"], -1, where))
        if cohort is None:
            raise self.no_such_cohort(bad_request(where, f"cohort {named['id']} does not exist"))
        return cohort


def _ids(parameters: Parameters, where: str) -> list[str] | None:
    one, several = parameters.get("distinct_id"), strings(parameters.get("distinct_ids"), where)
    if one and several:
        raise bad_request(where, "distinct_id and distinct_ids exclude each other")
    if several == []:
        raise bad_request(where, "distinct_ids is empty")
    return [str(one)] if one else several


def _filtered(
    numbers: "array[int]", expression: str, profile: Callable[[int], dict[str, Any]], where: str
) -> "array[int]":
    try:
        test = selector(expression)
        return array("I", [number for number in numbers if test(profile(number))])
    except ExpressionRefused as refused:
        raise bad_request(where, f"where: {refused}") from None


def _positive(value: Any, default: int, where: str) -> int:  # noqa: ANN401  a number or its text
    number = whole_number(value, default, where)
    if number < min(1, default):
        raise bad_request(where, "a parameter is not a positive number")
    return number


def _property_type(value: object) -> str:
    named = type_of(value)
    return "datetime" if named == "string" and as_datetime(value) else named


def _results(project: Project, numbers: "array[int]", wanted: list[str] | None) -> list[dict[str, Any]]:
    distinct_id, profile = project.distinct_id, project.profile
    if wanted is None:
        return [{"$distinct_id": distinct_id(number), "$properties": profile(number)} for number in numbers]
    names = frozenset(wanted)
    return [
        {
            "$distinct_id": distinct_id(number),
            "$properties": {name: value for name, value in profile(number).items() if name in names},
        }
        for number in numbers
    ]
