"""A Mixpanel project: its people, what profile updates made of them, and who is in which cohort right now."""

import random
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain, compress, repeat
from operator import and_
from typing import Any

from cohort_pipelines.devtools.standins.population import PARTNER_ID, Population, Properties, is_lapsed

BETA_USERS = 1_478_097
LAPSED_USERS = 1_478_098


@dataclass
class Cohort:
    """A saved cohort: a rule over profiles; ``flags`` holds 1 for each user in it."""

    id: int
    name: str
    description: str
    rule: Callable[[Properties], bool]
    flags: bytearray
    by_event: Callable[[int], bool] = field(default=lambda _number: False)  # in the cohort whatever the profile says


class Project:
    """All users of a project by number, and the cohorts they are in."""

    def __init__(self, population: Population) -> None:
        self.population = population
        self.with_profile = population.with_profile()
        self._changes: dict[int, Properties] = {}
        self._erased: set[int] = set()
        self._new: list[str] = []  # distinct_ids of users that came by ingestion
        self._ids: dict[str, int] = {}  # of those users, and aliases
        self._churned = 0
        members, size = population.members, population.size
        beta = bytearray(size)
        beta[:members] = b"\x01" * members
        lapsed = bytearray(is_lapsed(number) and flag for number, flag in enumerate(self.with_profile))
        anonymous = bytes(1 - flag for flag in self.with_profile[:members])
        self.cohorts = {
            BETA_USERS: Cohort(
                id=BETA_USERS,
                name="Beta Users",
                description="plan is beta, or tried the beta before login",
                rule=lambda profile: profile.get("plan") == "beta",
                flags=beta,
                by_event=lambda number: number < members and anonymous[number] == 1,
            ),
            LAPSED_USERS: Cohort(
                id=LAPSED_USERS,
                name="Lapsed Users",
                description="has not been back for a month",
                rule=lambda profile: profile.get("lapsed") is True,
                flags=lapsed,
            ),
        }

    @property
    def size(self) -> int:
        """How many users the project knows."""
        return len(self.with_profile)

    def members(self, cohort: Cohort | None, *, only_with_profile: bool) -> "array[int]":
        """Return the numbers of the users in ``cohort`` now (None: of everybody)."""
        flags: Iterable[int] = repeat(1, self.size) if cohort is None else cohort.flags
        if only_with_profile:
            flags = map(and_, flags, self.with_profile)
        return array("I", compress(range(self.size), flags))

    def has(self, number: int, cohort: Cohort | None, *, profile: bool) -> bool:
        """Tell whether the user is in ``cohort`` now (None: anybody is), with ``profile`` one who has a profile."""
        return bool((cohort is None or cohort.flags[number]) and (not profile or self.with_profile[number]))

    def distinct_id(self, number: int) -> str:
        """Return the user's canonical distinct_id."""
        first_new = self.population.size
        return self.population.distinct_id(number) if number < first_new else self._new[number - first_new]

    def profile(self, number: int) -> Properties:
        """Return the user's profile as it is now; empty for a user without one."""
        generated = number < self.population.size and number not in self._erased
        profile = self.population.profile(number) if generated else {}
        changes = self._changes.get(number)
        if changes is None:
            return profile
        return {name: value for name, value in (profile | changes).items() if value is not None}

    def find(self, some_id: str) -> int | None:
        """Return the number of the user with that distinct_id or alias; None when there is none."""
        number = self._ids.get(some_id)
        return self.population.number_of(some_id) if number is None else number

    def set(self, distinct_id: str, properties: Properties, *, seen: bool = True) -> None:
        """Set profile properties, creating the user if need be; None unsets one. ``seen``: the user was there now.

        With original ID merge, setting ``$apptimize_user_id`` also makes its value an alias of the user
        (docs/cohort-sync/integrations/apptimize.mdx); with simplified ID merge aliases do nothing.
        """
        number = self.find(distinct_id)
        if number is None:
            number = self._add(distinct_id)
        last_seen = {"$last_seen": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")} if seen else {}
        self._change(number, last_seen | properties)
        alias = properties.get(PARTNER_ID)
        if isinstance(alias, str) and self.population.id_merge == "original" and self.find(alias) is None:
            self._ids[alias] = number

    def delete(self, distinct_id: str) -> None:
        """Delete a profile; the user stays, and looks anonymous (docs, user-profiles.mdx)."""
        number = self.find(distinct_id)
        if number is not None:
            self._erased.add(number)
            self._changes.pop(number, None)
            self._refresh(number)

    def churn(self, fraction: float) -> tuple[int, int]:
        """Let ``fraction`` of Beta Users leave and as many others join; return (joined, left).

        Done by profile updates (``plan``), so anonymous members stay. Repeatable by the population's seed.
        """
        self._churned += 1
        luck = random.Random(f"{self.population.seed}:{self._churned}")
        flags = self.cohorts[BETA_USERS].flags
        inside = [number for number in compress(range(self.size), flags) if self.with_profile[number]]
        outside = [number for number in compress(range(self.size), self.with_profile) if not flags[number]]
        wanted = round(fraction * flags.count(1))
        leavers = luck.sample(inside, min(wanted, len(inside)))
        joiners = luck.sample(outside, min(wanted, len(outside)))
        for number in leavers:
            self._change(number, {"plan": "free"})
        for number in joiners:
            self._change(number, {"plan": "beta"})
        return len(joiners), len(leavers)

    def dump(self) -> dict[str, Any]:
        """Return what ingestion changed, to be kept in a file."""
        return {
            "changes": list(self._changes.items()),
            "erased": sorted(self._erased),
            "new": self._new,
            "ids": self._ids,
            "churned": self._churned,
        }

    def load(self, dumped: dict[str, Any]) -> None:
        """Take up what :meth:`dump` returned for the same population."""
        for distinct_id in dumped["new"]:
            self._add(distinct_id)
        self._ids |= dumped["ids"]
        self._changes = dict(dumped["changes"])
        self._erased = set(dumped["erased"])
        self._churned = dumped["churned"]
        for number in chain(self._changes, self._erased):
            self._refresh(number)

    def _add(self, distinct_id: str) -> int:
        number = self.size
        self._new.append(distinct_id)
        self._ids[distinct_id] = number
        self.with_profile.append(0)
        for cohort in self.cohorts.values():
            cohort.flags.append(0)
        return number

    def _change(self, number: int, properties: Properties) -> None:
        self._changes[number] = self._changes.get(number, {}) | properties
        self._refresh(number)

    def _refresh(self, number: int) -> None:
        profile = self.profile(number)
        self.with_profile[number] = bool(profile)
        for cohort in self.cohorts.values():
            cohort.flags[number] = cohort.rule(profile) or cohort.by_event(number)
