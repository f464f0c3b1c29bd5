"""The terms on which a target is written: what is true of its partner, and of what it held before us."""

from dataclasses import dataclass
from datetime import timedelta

from cohort_pipelines.identity import Equality

NO_FILE = frozenset({"empty", "unknown"})
"""The baselines that are words; any other is the path of a file."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What is true of a target.

    Attributes:
        id_equality: which spellings the partner takes for one id (assumption A4).
        applies_within: how long the partner may take to apply what it acknowledged (assumption A2); until then a
            delivery is only accepted, and the next one to this target waits.
        heal_within: within which time every id is sent again, to undo what somebody else changed; None: never.
        baseline: what the target held before the first delivery: ``empty``, ``unknown`` (what it held and we never
            send stays), or the path of a CSV or Parquet file of the ids.
        baseline_has_header: whether that file names its columns; one without has the ids and nothing else.
        max_refused: additions that may be refused in a delivery that still counts as delivered.
    """

    id_equality: Equality = "exact"
    applies_within: timedelta = timedelta(0)
    heal_within: timedelta | None = None
    baseline: str = "unknown"
    baseline_has_header: bool = True
    max_refused: int = 0
