"""What delivery asks of a partner, and nothing else: where it is, how much at once, and what became of each row.

Two kinds of wire exist. A *change* wire takes additions and removals (per-user flags, cohort messages). A *file* wire
takes the whole audience at once. Partners know nothing of history, windows or membership.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol, runtime_checkable

from cohort_pipelines.core.changes import NamedCohort, Operation


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one chunk, by the index of its rows; a row that is in no mapping was acknowledged.

    Attributes:
        refused: rows that the partner will not take, and that did not take effect, each with the reason (no ids in it).
        unknown: rows that may or may not have taken effect, each with what was seen instead of an answer.
        not_sent: rows that are certain to be as they were, each with the reason: no connection was made for them, they
            were only rate limited (429), or they were not sent at all.
        again_after: seconds after which the rows that were not sent may be sent again; None: the partner cannot be
        reached.
        doubtful: rows that were acknowledged after an earlier try of the same call that may still land.
        requests: HTTP requests made, retries included.
    """

    rejected: Mapping[int, str] = field(default_factory=dict)
    unknown: Mapping[int, str] = field(default_factory=dict)
    not_sent: Mapping[int, str] = field(default_factory=dict)
    again_after: float | None = None
    doubtful: frozenset[int] = frozenset()
    requests: int = 0


class Session(Protocol):
    """An open connection to a partner that takes additions and removals."""

    async def establish(self, deadline: datetime) -> int:
        """Make the target exist where nothing was ever sent to it; return the requests made (0: nothing to do).

        Raises:
            PartnerKeyRefused, PartnerRequestRejected, PartnerUnreachable, PartnerOutcomeUnknown: it may not exist.
        """
        ...

    async def find(self, deadline: datetime) -> int:
        """Ask for the target, changing no id in it; return the requests made (0: such a target cannot go missing).

        Raises:
            PartnerTargetMissing: the partner does not know it.
            PartnerError: the partner would not tell.
        """
        ...

    async def send(self, operation: Operation, ids: Sequence[str], page: int, pages: int, deadline: datetime) -> Answer:
        """Add or remove ``ids``; ``page`` (from 1) of ``pages`` places the chunk in its plan.

        Time-outs, cut connections, 429 and 5xx are retried within ``deadline``. Each such try but a 429, or one without
        a connection, may still land: rows acknowledged after one are doubtful, all others are unknown. Rows of which no
        try may land are in ``not_sent``.

        Raises:
            PartnerKeyRefused: the key is refused; nothing more should be sent.
            PartnerRequestRejected: the partner refused the request as a whole; none of its rows took effect.
        """
        ...


@runtime_checkable
class ChangeWire(Protocol):
    """A partner whose audience is changed by additions and removals.

    ``wire``, ``host`` and ``account`` identify the connection's end, without secrets; ``chunk_rows`` is how many ids
    one call of :meth:`Session.send` takes, ``workers`` how many such calls may be under way. ``judges_rows``: each id
    is a request of its own, so that a rejected chunk holds no id that might have been taken without the others.
    ``assumed_per_second``: additions and removals a second that it is trusted with until a delivery was measured.
    ``cohort``: what the wire names beside the target, and the partner may tell targets by; None: it names none.
    ``findable``: whether :meth:`Session.find` asks the partner; else no target can go missing there.
    """

    wire: str
    host: str
    account: str
    cohort: NamedCohort | None
    chunk_rows: int
    workers: int
    judges_rows: bool
    assumed_per_second: float
    findable: bool

    def count_requests(self, adds: int, removals: int, *, first: bool) -> int:
        """Return how many requests so many additions and removals take, if none has to be repeated.

        ``first``: nothing was ever sent to the target, so that it has to be established too.
        """
        ...

    def open(self, target: str) -> AbstractAsyncContextManager[Session]:
        """Open a session for the target called ``target``."""
        ...


Permit = Callable[[], datetime | None]
"""Asked before each request: until when it may be tried, or None to send no more. What it raises ends everything."""


@dataclass(frozen=True, slots=True)
class Audience:
    """Whom a target shall hold: ``rows`` ids, in batches; ``checksum`` names them, ``generation`` orders audiences."""

    ids: Iterable[Sequence[str]]
    rows: int
    generation: int
    checksum: str


@dataclass(frozen=True, slots=True)
class Publication:
    """What became of an audience that was published as a whole.

    Attributes:
        reached: how much of it the partner acknowledged before no more was permitted; ``none``: it surely has nothing.
        doubtful: whether an earlier try of a request that was acknowledged may still land.
        requests: HTTP requests made, retries included.
    """

    reached: Literal["all", "some", "none"] = "all"
    doubtful: bool = False
    requests: int = 0


@runtime_checkable
class FileWire(Protocol):
    """A partner that takes the whole audience at once: as a file, or as pages that only count together.

    ``atomic``: whether a publishing that failed left the old audience or the new one, and nothing between.
    ``assumed_per_second``: ids a second that it is trusted with until a delivery was measured. ``cohort``: as for a
    change wire. ``findable``: whether :meth:`find` asks the partner; else :meth:`holds` tells by reading the target.
    """

    wire: str
    host: str
    account: str
    cohort: NamedCohort | None
    atomic: bool
    assumed_per_second: float
    findable: bool

    def count_requests(self, rows: int) -> int:
        """Return how many requests an audience of so many ids takes, if none has to be repeated."""
        ...

    def publish(self, target: str, audience: Audience, permit: Permit) -> Publication:
        """Make ``audience`` the target's.

        Raises:
            PartnerOutcomeUnknown, PartnerKeyRefused: the old audience may be there or the new one, or, where the wire
                is not atomic, anything between.
            PartnerRequestRejected, PartnerUnreachable: the request permitted last took no effect.
            NewerFilePublished: a later generation is there and was left alone.
        """
        ...

    def find(self, target: str, permit: Permit) -> int:
        """Ask for the target, changing no id in it; return the requests made (0: :meth:`holds` tells by reading it).

        Raises:
            PartnerTargetMissing: the partner does not know it.
            PartnerRateLimited: nothing else was answered for as long as ``permit`` allowed.
            PartnerError: the partner would not tell.
        """
        ...

    def holds(self, target: str, checksum: str) -> bool:
        """Say whether the target has the audience called ``checksum``; True where the partner cannot be read.

        Raises:
            PartnerOutcomeUnknown: it would not tell.
        """
        ...


def sends_everybody(partner: ChangeWire | FileWire) -> bool:
    """Say whether ``partner`` is sent everybody as soon as anything is to be done, in parts that only count together.

    A part may have come through when the others did not, so that each id is then an operation of its own.
    """
    return isinstance(partner, FileWire) and not partner.atomic


class Partner(Protocol):
    """What every destination offers beside its wire."""

    wire: str
    host: str
    account: str

    async def check(self, target: str | None) -> str:
        """Return what is connected, in a few words, without changing any audience.

        Raises:
            PartnerKeyRefused, PartnerRequestRejected, PartnerUnreachable, PartnerOutcomeUnknown: why it is not.
        """
        ...
