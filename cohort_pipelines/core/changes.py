"""What every room calls a change of an audience, and the cohort in whose name it is made."""

from enum import StrEnum

NamedCohort = tuple[int, int]
"""The Mixpanel project and cohort in whose name a partner is written to."""


class Operation(StrEnum):
    """What a row of a plan asks for."""

    ADD = "add"
    REMOVE = "remove"
