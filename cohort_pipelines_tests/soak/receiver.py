"""A partner for the soak: whatever a request can meet, somebody who edits by hand, and what is left undone by it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from cohort_pipelines.core import clock
from cohort_pipelines.core.changes import Operation
from cohort_pipelines.core.errors import PartnerKeyRefused, PartnerRequestRejected
from cohort_pipelines.destinations.wire import Answer
from cohort_pipelines_tests.delivery.world import Fault, MemoryPartner, Sent, dropped, late, lost, tried_twice


@dataclass
class Receiver(MemoryPartner):
    """A partner that remembers where it is not as it was told to be.

    Attributes:
        told: ids for which any request ever took effect; any other that is here is a stranger.
        edited: ids that somebody changed by hand, and when, unless a request for them took effect since.
        turned_down: what was refused in this delivery, id by id, unless it was taken after all.
        marked: ids for which the last request was refused.
    """

    chunk_rows: int = 2
    told: set[str] = field(default_factory=set)
    edited: dict[str, datetime] = field(default_factory=dict)
    turned_down: dict[str, Operation] = field(default_factory=dict)
    marked: set[str] = field(default_factory=set)

    def apply(self, sent: Sent) -> None:
        super().apply(sent)
        if self.missing:
            return
        self.told.update(sent.ids)
        self.marked.difference_update(sent.ids)
        for each in sent.ids:
            self.edited.pop(each, None)
            self.turned_down.pop(each, None)

    @property
    def strangers(self) -> set[str]:
        """Whom somebody put here by hand, and nobody of us ever sent."""
        return self.members - self.told

    def edit(self, ids: set[str]) -> None:
        """Let somebody change ids by hand; those that were never sent are nobody's to reconcile."""
        if self.missing:
            return
        self.members ^= ids
        self.edited |= dict.fromkeys(ids & self.told, clock.now())

    def delete(self) -> None:
        self.edited |= dict.fromkeys(self.members & self.told, clock.now())
        super().delete()

    def refuse(self, operation: Operation, ids: Sequence[str]) -> None:
        self.turned_down |= dict.fromkeys(ids, operation)
        self.marked.update(ids)


def refusing(refused: set[str], poison: set[str]) -> Fault | None:
    """Refuse some rows, and some requests as a whole; a partner that judges rows refuses a whole only row by row."""
    if not refused and not poison:
        return None

    def answer(partner: MemoryPartner, operation: Operation, ids: Sequence[str]) -> Answer:
        assert isinstance(partner, Receiver)
        bad = [each for each in ids if each in refused | poison]
        if len(bad) == len(ids) if partner.judges_rows else poison & set(ids):
            partner.refuse(operation, ids)
            raise PartnerRequestRejected(partner.wire, 400)
        partner.refuse(operation, bad)
        partner.apply(Sent(operation, tuple(each for each in ids if each not in bad)))
        return Answer(rejected={row: "HTTP 400" for row, each in enumerate(ids) if each in bad}, requests=1)

    return answer


def key_refused(partner: MemoryPartner, operation: Operation, ids: Sequence[str]) -> Answer:  # noqa: ARG001
    """Take the key for a wrong one."""
    raise PartnerKeyRefused(partner.wire, 401)


def broken(partner: MemoryPartner, operation: Operation, ids: Sequence[str]) -> Answer:
    """Take effect, and let the adapter break over the answer."""
    lost(partner, operation, ids)
    raise ZeroDivisionError


def unreachable(partner: MemoryPartner, operation: Operation, ids: Sequence[str]) -> Answer:  # noqa: ARG001
    """Take no connection."""
    return Answer(not_sent=dict.fromkeys(range(len(ids)), "no connection"), requests=1)


def busy(partner: MemoryPartner, operation: Operation, ids: Sequence[str]) -> Answer:  # noqa: ARG001
    """Turn the request away, for now."""
    return Answer(not_sent=dict.fromkeys(range(len(ids)), "HTTP 429"), again_after=0, requests=1)


def half(partner: MemoryPartner, operation: Operation, ids: Sequence[str]) -> Answer:
    """Take the first row; of the others nothing is known, and they take effect later."""
    partner.apply(Sent(operation, tuple(ids[:1])))
    if ids[1:]:
        late(partner, operation, ids[1:])
    return Answer(unknown=dict.fromkeys(range(1, len(ids)), "time-out"), requests=len(ids))


FAULTS: Mapping[str, Fault] = {
    "broken": broken,
    "busy": busy,
    "dropped": dropped,
    "half": half,
    "key refused": key_refused,
    "late": late,
    "lost": lost,
    "tried twice": tried_twice,
    "unreachable": unreachable,
}
