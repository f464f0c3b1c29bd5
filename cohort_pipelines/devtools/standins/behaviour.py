"""How a partner treats what it is sent: late, asynchronously, out of order, under another spelling, or not at all.

A partner that applies everything at once and in order, and that is empty at the start, would let a delivery pass that
no real partner would. All of it is repeatable by ``seed``, for requests that come one after the other.
"""

import asyncio
import random
import unicodedata
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

MembersMode: TypeAlias = Literal["add", "replace"]
KnownBy: TypeAlias = Literal["name", "cohort_id"]
IdEquality: TypeAlias = Literal["exact", "casefold", "nfc"]
Effect: TypeAlias = Callable[[], Awaitable[None]]


@dataclass(kw_only=True)
class Behaviour:
    """What a partner does with a request.

    The first ``late_after`` requests pass, the next ``late`` (None: all) are late, and of the others the share
    ``late_share``: they get no answer (with ``late_status`` that one, as from a gateway) and arrive when they land.
    With ``asynchronous`` a request is judged and acknowledged at once, and takes effect when it lands.

    What is pending lands when it is told to, and by itself ``apply_after`` seconds after it came (None: only when told
    to), in the order in which it came. With ``reordered`` the order is drawn, and so are the seconds, up to that many.

    With ``trims`` white space at the ends of an id does not count, as Flagsmith has it (Django's text fields strip it).
    With ``id_equality`` two spellings are one user, under the spelling that came first. ``refuse`` are ids that a
    request must not name (400), ``ignore`` ids that are accepted and not stored. ``members`` (Apptimize only): whether
    ``members`` messages add to a group or, all pages of a session together, replace it; ``known_by``: whether a group
    is told by the cohort's name, which may be that of another cohort, or by the cohort's id, which is its name then.
    """

    late: int | None = 0
    late_after: int = 0
    late_share: float = 0.0
    late_status: int | None = None
    asynchronous: bool = False
    apply_after: float | None = None
    reordered: bool = False
    trims: bool = False
    id_equality: IdEquality = "exact"
    refuse: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    members: MembersMode = "add"
    known_by: KnownBy = "name"
    seed: int = 1


class Reception:
    """A partner's behaviour, and the effects that are pending by it.

    What is pending when the stand-in ends never lands.
    """

    def __init__(self, behaviour: Behaviour) -> None:
        self._at_start = behaviour
        self._pending: dict[int, Effect] = {}
        self._held = 0
        self._timers: set[asyncio.Task[None]] = set()
        self.reset(())

    def reset(self, ids: Iterable[str]) -> None:
        """Behave as at the start; what is pending stays so."""
        self.behave(replace(self._at_start), ids)

    def behave(self, behaviour: Behaviour, ids: Iterable[str]) -> None:
        """Behave like that from now on; ``ids`` are those that the partner knows.

        Of ids that were told apart so far and are not any more, all stay, and the first is the one that is written to.
        """
        self.behaviour = behaviour
        self._luck = random.Random(behaviour.seed)
        self._refuse, self._ignore = frozenset(behaviour.refuse), frozenset(behaviour.ignore)
        self._spellings: dict[str, str] = {}
        if behaviour.id_equality != "exact":
            for some_id in ids:
                self.spelled(some_id)

    @property
    def pending(self) -> int:
        """How many effects have not landed yet."""
        return len(self._pending)

    def spelled(self, some_id: str) -> str:
        """Return the spelling under which the partner knows a user."""
        some_id = some_id.strip() if self.behaviour.trims else some_id
        match self.behaviour.id_equality:
            case "casefold":
                return self._spellings.setdefault(some_id.casefold(), some_id)
            case "nfc":
                return self._spellings.setdefault(unicodedata.normalize("NFC", some_id), some_id)
            case _:
                return some_id

    def refuses(self, ids: Iterable[str]) -> bool:
        """Tell whether one of ``ids`` must not be named."""
        return not self._refuse.isdisjoint(ids)

    def stores(self, some_id: str) -> bool:
        """Tell whether the partner stores what it accepts for this id."""
        return some_id not in self._ignore

    def is_late(self) -> bool:
        """Tell whether the request that now comes is late, and count it."""
        behaviour = self.behaviour
        if behaviour.late_after:
            behaviour.late_after -= 1
            return False
        if behaviour.late is None:
            return True
        if behaviour.late:
            behaviour.late -= 1
            return True
        return self._luck.random() < behaviour.late_share

    def apply(self, effect: Callable[[], None], *, landing: bool) -> None:
        """Let an accepted request take effect: now, if the partner is synchronous or the request is just landing."""

        async def later() -> None:
            effect()

        if self.behaviour.asynchronous and not landing:
            self.hold(later)
        else:
            effect()

    def hold(self, effect: Effect) -> None:
        """Let ``effect`` be pending; must be called where the server runs."""
        self._held += 1
        self._pending[self._held] = effect
        seconds = self.behaviour.apply_after
        if seconds is not None:
            seconds = self._luck.uniform(0, seconds) if self.behaviour.reordered else seconds
            timer = asyncio.get_running_loop().create_task(self._land_later(self._held, seconds))
            self._timers.add(timer)
            timer.add_done_callback(self._timers.discard)

    async def land(self, count: int | None = None) -> int:
        """Let so many pending effects land (None: all); return how many did."""
        numbers = list(self._pending)
        if self.behaviour.reordered:
            self._luck.shuffle(numbers)
        return sum([await self._land(number) for number in numbers[:count]])

    async def _land(self, number: int) -> bool:
        effect = self._pending.pop(number, None)
        if effect is not None:
            await effect()
        return effect is not None

    async def _land_later(self, number: int, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._land(number)
