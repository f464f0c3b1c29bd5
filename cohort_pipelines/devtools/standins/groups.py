"""Apptimize's groups, and the two ways by which ids get into them: cohort messages and CSV files.

Apptimize publishes no call that writes a group. The messages are those that Mixpanel documents for partners (docs,
cohort-sync/webhooks.mdx), taken as the readable receivers do it: pages of at most 1,000, ids of at most 1,024 bytes,
``members`` only adds, a difference for an unknown group is a 404 (Flagsmith, api/cohorts).
"""

import csv
import io
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, TypeAlias

import msgspec

from cohort_pipelines.core import clock
from cohort_pipelines.devtools.standins.behaviour import Behaviour, Reception

Action: TypeAlias = Literal["members", "add_members", "remove_members"]
MAX_MEMBERS = 1000
MAX_ID_BYTES = 1024
MESSAGES_KEPT = 10_000


class PageInfo(msgspec.Struct):
    """Which page of how many a message is; ``page_count`` starts at 1. Some senders write the numbers as text."""

    total_pages: int | str
    page_count: int | str


class Parameters(msgspec.Struct):
    """What a cohort message is about; fields that are not used here are left out."""

    mixpanel_cohort_name: str
    mixpanel_cohort_id: str | int
    members: list[dict[str, Any]]
    mixpanel_session_id: str = ""
    page_info: PageInfo | None = None


class CohortMessage(msgspec.Struct):
    """A message of Mixpanel's cohort webhook."""

    action: Action
    parameters: Parameters


class Refused(Exception):
    """A message is not taken; ``code`` is the HTTP status."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class Group:
    """A list of user ids."""

    name: str
    source: str
    created: datetime = field(default_factory=clock.now)
    ids: set[str] = field(default_factory=set)


@dataclass
class ApptimizeState:
    """The groups by name, or by the cohort's id where the receiver tells them by that.

    A receiver that replaces does so when the last page of a session has come, in whatever order they come.
    ``id_key`` is the key of a member that holds its id. ``messages`` are the last ones taken: (action, group, ids).
    """

    token: str
    region: str = "eu"
    id_key: str = "mixpanel_distinct_id"
    reception: Reception = field(default_factory=lambda: Reception(Behaviour()))
    groups: dict[str, Group] = field(default_factory=dict)
    messages: deque[tuple[Action, str, list[str]]] = field(default_factory=lambda: deque(maxlen=MESSAGES_KEPT))
    _sessions: dict[str, dict[int, list[str]]] = field(default_factory=dict)

    def take(self, message: CohortMessage, *, landing: bool = False) -> None:
        """Accept a message: its group is there at once, whoever is in it.

        Raises:
            Refused: the message breaks a rule; nothing of it is applied.
        """
        ids = _ids(message.parameters.members, self.id_key)
        if self.reception.refuses(ids):
            raise Refused(400, "A member is not accepted")
        number, total = _place(message.parameters.page_info)
        by_name = self.reception.behaviour.known_by == "name"
        about = message.parameters
        name = about.mixpanel_cohort_name if by_name else str(about.mixpanel_cohort_id)
        if message.action != "members" and name not in self.groups:
            raise Refused(404, "The cohort is unknown")
        group = self.groups.setdefault(name, Group(name, "Mixpanel cohorts"))
        self.messages.append((message.action, name, ids))
        stored = [self.reception.spelled(some_id) for some_id in ids if self.reception.stores(some_id)]

        def effect() -> None:
            if message.action == "remove_members":
                group.ids.difference_update(stored)
            elif message.action == "members" and self.reception.behaviour.members == "replace":
                self._replace(group, message.parameters.mixpanel_session_id, number, total, stored)
            else:
                group.ids.update(stored)

        self.reception.apply(effect, landing=landing)

    def _replace(self, group: Group, session_id: str, number: int, total: int, ids: list[str]) -> None:
        session = f"{group.name}\n{session_id}"
        pages = self._sessions.setdefault(session, {})
        pages[number] = ids
        if len(pages) == total:
            group.ids = {some_id for page_ids in self._sessions.pop(session).values() for some_id in page_ids}

    def edit(self, target: str, add: Iterable[str], remove: Iterable[str]) -> int:
        """Change the ids of the group ``target`` by hand, making it if need be; return how many it then has."""
        group = self.groups.setdefault(target, Group(target, "By hand"))
        group.ids.update(map(self.reception.spelled, add))
        group.ids.difference_update(map(self.reception.spelled, remove))
        return len(group.ids)

    def delete(self, target: str) -> int:
        """Delete the group ``target`` by hand, with all who are in it; return how many they were."""
        return len(self.groups.pop(target).ids) if target in self.groups else 0

    def ids(self) -> Iterator[str]:
        """Yield the ids of all groups, each group's in their order, since a group keeps none."""
        return (some_id for group in self.groups.values() for some_id in sorted(group.ids))

    def import_csv(self, name: str, text: str) -> int:
        """Make the group's ids those of a CSV file with the single column ``user_id``; return how many.

        Raises:
            Refused: the file has another form (apptimize.com/docs/additional-features/groups/).
        """
        rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        try:
            if next(rows, None) != ["user_id"]:
                raise Refused(400, "The file must begin with a header row: user_id")
            ids = {self.reception.spelled(some_id) for some_id in _only_column(rows)}
        except csv.Error as error:
            raise Refused(400, f"Line {rows.line_num} is not CSV") from error
        self.groups.setdefault(name, Group(name, "CSV")).ids = ids
        return len(ids)

    def dump(self) -> dict[str, Any]:
        """Return the groups, to be kept in a file."""
        return {"groups": [[one.name, one.source, one.created, sorted(one.ids)] for one in self.groups.values()]}

    def load(self, dumped: dict[str, Any]) -> None:
        """Take up what :meth:`dump` returned."""
        for name, source, created, ids in dumped["groups"]:
            self.groups[name] = Group(name, source, created, {self.reception.spelled(some_id) for some_id in ids})


def read_message(body: bytes) -> CohortMessage:
    """Read a message.

    Raises:
        Refused: it is none.
    """
    try:
        return msgspec.json.decode(body, type=CohortMessage)
    except msgspec.MsgspecError as error:
        raise Refused(400, f"Not a cohort message: {error}") from error


def _ids(members: list[dict[str, Any]], key: str) -> list[str]:
    if len(members) > MAX_MEMBERS:
        raise Refused(400, f"More than {MAX_MEMBERS} members in a message")
    ids = [member.get(key) for member in members]
    valid = [some_id for some_id in ids if isinstance(some_id, str) and 0 < len(some_id.encode()) <= MAX_ID_BYTES]
    if len(valid) < len(ids):
        raise Refused(400, f"Each member needs {key}, a text of at most {MAX_ID_BYTES} bytes")
    return valid


def _place(info: PageInfo | None) -> tuple[int, int]:
    if info is None:  # captured messages lack it
        return 1, 1
    try:
        number, total = int(info.page_count), int(info.total_pages)
    except ValueError:
        raise Refused(400, "page_info holds no numbers") from None
    if not 1 <= number <= total:
        raise Refused(400, "page_count must be between 1 and total_pages")
    return number, total


def _only_column(rows: Iterable[list[str]]) -> Iterator[str]:
    for number, row in enumerate(rows, start=2):
        if len(row) != 1 or not row[0]:
            raise Refused(400, f"Row {number} must hold one user id and nothing else")
        yield row[0]
