"""The people of the stand-in project: each one computed from a number, so that a million cost no memory.

Every id carries eight hexadecimal digits that are the number in disguise, so that an id leads back to its number.
"""

import random
import re
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import cycle, islice
from typing import Any, Literal, TypeAlias

IdMerge: TypeAlias = Literal["original", "simplified"]
Properties: TypeAlias = dict[str, Any]

PARTNER_ID = "$apptimize_user_id"
_MASK = 0xFFFFFFFF
_ODD = 0x9E3779B1  # odd, so that multiplying by it modulo 2**32 can be undone
_INVERSE = pow(_ODD, -1, 1 << 32)
_TOKEN = re.compile("[0-9a-f]{8}")
_FIRST_NAMES = ("Ada", "Grace", "Edsger", "Zoë", "Linus", "李雷", "Barbara", "Søren", "Nadia", "Олег", "José", "Amal")
_LAST_NAMES = ("Lovelace", "O'Brien", "Müller", "Tanaka", "Nguyễn", "García", "Smith", "Šimić", "Ünal", "Haddad")
_ODD_IDS = ("Zoë-{}", "李雷-{}", "user+{}@example.com", '=Q("{}")', "🦊{}", "a,b {}", "@{}", "per cent % {}")
_COUNTRIES = ("DE", "US", "IN", "BR", "JP", "FR", "NG")
# What is made up for good, so that a page of 1,000 profiles takes milliseconds.
_PORTRAITS = tuple(
    {
        "$first_name": _FIRST_NAMES[i % len(_FIRST_NAMES)],
        "$last_name": _LAST_NAMES[i % len(_LAST_NAMES)],
        "$country_code": _COUNTRIES[i % len(_COUNTRIES)],
        "$last_seen": f"2026-11-{i % 19 + 1:02d}T{i % 24:02d}:{i % 60:02d}:00",
        "sessions": i,
    }
    for i in range(499)
)


class Kind(IntEnum):
    """What is particular about a user, if anything."""

    REGULAR = 0
    ANONYMOUS = 1
    NO_PARTNER_ID = 2
    MALFORMED_PARTNER_ID = 3
    DUPLICATE_PARTNER_ID = 4
    ODD_ID = 5
    DEVICE_PROFILE = 6  # simplified ID merge: a profile set before login
    DIFFERING_PARTNER_ID = 7  # simplified ID merge


# How many of 200 users are of a kind; the rest is regular.
_SHARES = {
    Kind.ANONYMOUS: 16,
    Kind.NO_PARTNER_ID: 8,
    Kind.MALFORMED_PARTNER_ID: 2,
    Kind.DUPLICATE_PARTNER_ID: 1,
    Kind.ODD_ID: 2,
}
_SIMPLIFIED_SHARES = _SHARES | {Kind.DEVICE_PROFILE: 2, Kind.DIFFERING_PARTNER_ID: 2}
_ROUND = 200


@dataclass(frozen=True)
class Population:
    """``members`` users of the cohort, and a quarter as many (at least 20) outside it, all repeatable by ``seed``."""

    members: int
    id_merge: IdMerge = "original"
    seed: int = 1
    _kinds: tuple[Kind, ...] = field(init=False, repr=False)
    _salt: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        shares = _SHARES if self.id_merge == "original" else _SIMPLIFIED_SHARES
        kinds = [kind for kind, share in shares.items() for _ in range(share)]
        kinds += [Kind.REGULAR] * (_ROUND - len(kinds))
        order = random.Random(self.seed)
        order.shuffle(kinds)
        object.__setattr__(self, "_kinds", tuple(kinds))
        object.__setattr__(self, "_salt", order.getrandbits(32))

    @property
    def size(self) -> int:
        """How many users there are, members and others."""
        return self.members + max(20, self.members // 4)

    def kind(self, number: int) -> Kind:
        """Return what is particular about the user."""
        return self._kinds[number % _ROUND]

    def with_profile(self) -> bytearray:
        """Return a flag for each user: 1 where the user has a profile."""
        flags = (kind is not Kind.ANONYMOUS for kind in self._kinds)
        return bytearray(islice(cycle(bytes(flags)), self.size))

    def distinct_id(self, number: int) -> str:
        """Return Mixpanel's id of the user, as its ID merge system forms it (docs, tracking-methods/id-management)."""
        token = self._token(number)
        kind = self._kinds[number % _ROUND]
        if kind is Kind.ODD_ID:
            return _ODD_IDS[number // _ROUND % len(_ODD_IDS)].format(f"{token:08x}")
        if self.id_merge == "simplified":
            on_device = kind in (Kind.ANONYMOUS, Kind.DEVICE_PROFILE)
            return f"$device:{_uuid(token)}" if on_device else f"user-{token:08x}"
        return _uuid(token) if kind is Kind.ANONYMOUS or token & 1 else f"user-{token:08x}"

    def profile(self, number: int) -> Properties:
        """Return the user's profile; empty for an anonymous user."""
        kind = self._kinds[number % _ROUND]
        if kind is Kind.ANONYMOUS:
            return {}
        token = self._token(number)
        properties = {
            "$email": f"{token:08x}@example.com",
            **_PORTRAITS[token % len(_PORTRAITS)],
            "plan": "beta" if number < self.members else "free",
            "lapsed": is_lapsed(number),
        }
        regular = kind is Kind.REGULAR
        partner_id = self._well_formed(number, token) if regular else self._partner_id(number, token, kind)
        if partner_id is not None:
            properties[PARTNER_ID] = partner_id
        return properties

    def number_of(self, some_id: str) -> int | None:
        """Return the user who has ``some_id`` as distinct_id or, with original ID merge, as ``$apptimize_user_id``."""
        found = _TOKEN.search(some_id)
        if found is None:
            return None
        number = ((int(found[0], 16) ^ self._salt) * _INVERSE) & _MASK
        if number >= self.size:
            return None
        if some_id == self.distinct_id(number):
            return number
        alias = self.profile(number).get(PARTNER_ID) if self.id_merge == "original" else None
        return number if some_id == alias else None

    def _partner_id(self, number: int, token: int, kind: Kind) -> str | int | None:
        match kind:
            case Kind.NO_PARTNER_ID | Kind.DEVICE_PROFILE:
                return None
            case Kind.MALFORMED_PARTNER_ID:
                return token if token & 1 else f"user-{token:08x}"
            case Kind.DUPLICATE_PARTNER_ID:
                twin = number - number % _ROUND + self._kinds.index(Kind.REGULAR)
                return self._well_formed(twin, self._token(twin))
            case Kind.DIFFERING_PARTNER_ID:
                return f"i_other-{token:08x}"
            case _:
                return self._well_formed(number, token)

    def _well_formed(self, number: int, token: int) -> str:
        if self.id_merge == "simplified":
            return self.distinct_id(number)
        if self._kinds[number % _ROUND] is Kind.ODD_ID:
            return f"i_{self.distinct_id(number)}"
        return f"i_user-{token:08x}" if token & 6 else f"a_{_uuid(token)}"

    def _token(self, number: int) -> int:
        return ((number * _ODD) & _MASK) ^ self._salt


def is_lapsed(number: int) -> bool:
    """Tell whether a user starts out lapsed; some of them are also members."""
    return number % 40 == 3  # noqa: PLR2004  one in forty, no matter which


def _uuid(token: int) -> str:
    rest = f"{token * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF:016x}"
    return f"{token:08x}-{rest[:4]}-4{rest[4:7]}-8{rest[7:10]}-{rest[4:16]}"
