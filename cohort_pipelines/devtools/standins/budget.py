"""Mixpanel's rate limit: so many queries in a rolling hour, so many at once, one budget for a project."""

from collections import deque
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cohort_pipelines.core import clock

HOUR = timedelta(hours=1)


@dataclass
class QueryBudget:
    """What a project may ask, and what of it is used.

    A query is counted on arrival. Engage pages that carry a session_id are not counted, nor are requests that end in
    401, 402 or 429, but every engage request takes a place among those running at once (mixpanel-headless,
    docs/guide/request-pacing.md).
    """

    per_hour: int = 60
    at_once: int = 5
    running: int = 0
    _counted: deque[datetime] = field(default_factory=deque)

    def used(self) -> int:
        """Return how many queries were counted in the last hour."""
        now = clock.now()
        while self._counted and self._counted[0] <= now - HOUR:
            self._counted.popleft()
        return len(self._counted)

    def count(self) -> bool:
        """Count a query; False when the hour is used up, which costs nothing."""
        if self.used() >= self.per_hour:
            return False
        self._counted.append(clock.now())
        return True

    def seconds_left(self) -> int:
        """Return the seconds until the oldest counted query leaves the hour."""
        if not self.used():
            return 0
        return max(1, round((self._counted[0] + HOUR - clock.now()).total_seconds()))

    def reset(self) -> None:
        """Begin a new hour."""
        self._counted.clear()
