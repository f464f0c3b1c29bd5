"""What delivery asks of a partner, and nothing else: where it is, how much at once, and what became of each row.

Two kinds of wire exist. A *change* wire takes additions and removals (per-user flags, cohort messages). A *file* wire
takes the whole audience and flips a pointer to it. Partners know nothing of history, windows or belief.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol, runtime_checkable


class Operation(StrEnum):
    """What a row of a plan asks for."""

    ADD = "add"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one chunk, by the index of its rows; a row neither refused nor unknown was acknowledged.

    Attributes:
        refused: rows that the partner will not take, each with its status and reason (no ids in it).
        unknown: rows that may or may not have taken effect, each with what was seen instead of an answer.
        doubtful: rows that were acknowledged after an earlier try of the same call that may still land.
        requests: HTTP requests made, retries included.
    """

    refused: Mapping[int, str] = field(default_factory=dict)
    unknown: Mapping[int, str] = field(default_factory=dict)
    doubtful: frozenset[int] = frozenset()
    requests: int = 0


class Session(Protocol):
    """An open connection to a partner that takes additions and removals."""

    async def establish(self, deadline: datetime) -> int:
        """Make the target exist where nothing was ever sent to it; return the requests made (0: nothing to do).

        Raises:
            PartnerKeyRefused, PartnerRequestRefused, PartnerUnreachable, PartnerOutcomeUnknown: it may not exist.
        """
        ...

    async def send(self, operation: Operation, ids: Sequence[str], page: int, pages: int, deadline: datetime) -> Answer:
        """Add or remove ``ids``; ``page`` (from 1) of ``pages`` places the chunk in its plan.

        Time-outs, cut connections, 429 and 5xx are retried within ``deadline`` and then reported as unknown. Each such
        try but a 429 may still land: rows acknowledged after one are doubtful, rows refused after one are unknown.

        Raises:
            PartnerKeyRefused: the key is refused; nothing more should be sent.
            PartnerRequestRefused: the partner refused the request as a whole; none of its rows took effect.
        """
        ...


@runtime_checkable
class ChangeWire(Protocol):
    """A partner whose audience is changed by additions and removals.

    ``wire``, ``host`` and ``account`` identify the connection's end, without secrets; ``chunk_rows`` is how many ids
    one call of :meth:`Session.send` takes, ``workers`` how many such calls may be under way.
    """

    wire: str
    host: str
    account: str
    chunk_rows: int
    workers: int

    def open(self, target: str) -> AbstractAsyncContextManager[Session]:
        """Open a session for the target called ``target``."""
        ...


@dataclass(frozen=True, slots=True)
class Published:
    """A file that a pointer now names: its path, its size in bytes and how many ids it holds."""

    path: str
    size: int
    rows: int


@runtime_checkable
class FileWire(Protocol):
    """A partner that takes the whole audience as one file."""

    wire: str
    host: str
    account: str

    def publish(self, target: str, ids: Iterable[Sequence[str]], generation: int, checksum: str) -> Published:
        """Write a new file of ``ids`` (in batches), then let the target's pointer name it.

        Raises:
            PartnerOutcomeUnknown: the disk refused; the pointer still names the earlier file or already the new one.
            NewerFilePublished: the pointer names a later generation and was left alone.
        """
        ...

    def holds(self, target: str, checksum: str) -> bool:
        """Say whether the target's pointer names a whole file of the audience called ``checksum``.

        Raises:
            PartnerOutcomeUnknown: the disk refused to tell.
        """
        ...


class Partner(Protocol):
    """What every destination offers beside its wire."""

    wire: str
    host: str
    account: str

    async def check(self, target: str | None) -> str:
        """Return what is connected, in a few words, without changing any audience.

        Raises:
            PartnerKeyRefused, PartnerRequestRefused, PartnerUnreachable, PartnerOutcomeUnknown: why it is not.
        """
        ...
