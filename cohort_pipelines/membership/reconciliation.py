"""Reconciliation: membership is sent again slice by slice, to undo what others changed at the partner.

Time is cut into turns of a fixed length, and each turn belongs to one slice of the ids, round and round. A window sends
the slices whose turns have ended since the last one that reconciled, so a window that was missed loses no turn. At
every window each slice was therefore sent within the time of one round, whenever the windows before it were; unless
more were due than a window has time for (:func:`oldest`).
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

SLICES = 1024
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Slices:
    """``count`` of the :data:`SLICES` slices of ids, from ``first`` on and round."""

    first: int
    count: int

    def holding(self, key: str) -> str:
        """Return the SQL condition that the id whose key is ``key`` lies in one of these slices.

        The slice of an id is what MD5 makes of its key, so that it stays the same with every version of DuckDB, whose
        own hash may change. It costs 0.15 s for a million ids (hash: 0.01 s).
        """
        slice_of_id = f"('0x' || md5({key})[:3])::INTEGER % {SLICES}"  # 12 bits: each slice gets four of their values
        return f"({slice_of_id} + {SLICES - self.first}) % {SLICES} < {self.count}"


def due(
    reconciled_until: datetime | None, now: datetime, within: timedelta | None, *, whole: bool = False
) -> Slices | None:
    """Return which slices are to be sent again ``now``, so that each comes round in the time ``within``.

    Args:
        reconciled_until: what ``now`` was at the last delivery that sent the slices due then, or when the very first
        began
            to send; None before that one, which sends everybody anyway.
        now: the moment of this delivery.
        within: the time of one round; None: nothing is ever sent again.
        whole: the wire sends all ids or none; all are due when a round is over.

    Returns:
        The slices; None where none is due.
    """
    if reconciled_until is None or within is None:
        return None
    turn = _turn(now, within)
    count = min(turn - _turn(reconciled_until, within), SLICES)
    return Slices((turn - count) % SLICES, count) if count >= (SLICES if whole else 1) else None


def oldest(slices: Slices, at_most: int, now: datetime, within: timedelta) -> tuple[Slices, datetime]:
    """Return what a window that has time for ``at_most`` of the ``slices`` due ``now`` sends, at least one.

    The others stay due: beside them comes up to when a delivery of these has reconciled.
    """
    count = min(slices.count, max(at_most, 1))
    if count == slices.count:
        return slices, now
    sent = _turn(now, within) - slices.count + count
    return Slices(slices.first, count), _EPOCH - (-within * sent) // SLICES  # rounded up to where that turn has ended


def _turn(moment: datetime, within: timedelta) -> int:
    """Return how many turns have ended by ``moment``; the slice of the turn `n` is `n` modulo :data:`SLICES`."""
    return (moment - _EPOCH) * SLICES // within
