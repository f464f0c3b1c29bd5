"""The terms on which a target is written: what is true of its partner, and of what it held before us."""

from dataclasses import dataclass
from datetime import timedelta

from cohort_pipelines.identity import Equality

NO_FILE = frozenset({"empty", "unknown"})
"""The words for initial members; anything else is the path of a file."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What is true of a target.

    Attributes:
        id_equality: which spellings the partner takes for one id (assumption A4).
        apply_delay: how long the partner may take to apply what it acknowledged (assumption A2); until then a
            delivery is only accepted, and the next one to this target waits.
        reconcile_within: within which time every id is sent again, to undo what others changed; None: never.
        initial_members: what the target held before the first delivery: ``empty``, ``unknown`` (what it held and we
        never
            send stays), or the path of a CSV or Parquet file of the ids.
        initial_members_have_header: whether that file names its columns; one without has the ids and nothing else.
        rejection_tolerance: additions that may be rejected in a delivery that still counts as delivered.
    """

    id_equality: Equality = "exact"
    apply_delay: timedelta = timedelta(0)
    reconcile_within: timedelta | None = None
    initial_members: str = "unknown"
    initial_members_have_header: bool = True
    rejection_tolerance: int = 0
