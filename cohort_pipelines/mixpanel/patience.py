"""When Mixpanel is asked again: later each time, until the deadline, and never in the way of another reading.

A 429 costs no query, and neither does a page of a session, so these are asked for again soon. Page 0 may cost one of
the project's 60 queries an hour even where it fails, so its waits grow until a window spends a dozen of them at most.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from datetime import datetime
from types import TracebackType
from typing import Self

from cohort_pipelines.core import clock
from cohort_pipelines.core.errors import MixpanelBusy, MixpanelError, Transient

Share = Callable[[int], int]
"""Returns how many of so many requests at once are the caller's this moment."""

Place = Callable[[], AbstractAsyncContextManager[Share | None]]
"""Returns a new context, inside of which the caller may read the project; entering it waits for a turn.

Its value is what the caller shares with others who read the project; None: there are no others.
"""

FIRST_WAIT = 0.5  # seconds; the waits after it are twice as long each, where asking again costs nothing
_LONGEST = 30.0
_FIRST_COSTLY, _LONGEST_COSTLY = 1.0, 900.0  # four times as long each, where asking again may cost a query
_SHORT = 5.0  # seconds for which the place is kept

logger = logging.getLogger(__name__)


class Patience:
    """Holds the place of one reading, and waits in its stead; entered before the first request, left after the last.

    Attributes:
        deadline: when it ends.
    """

    def __init__(self, deadline: datetime, place: Place) -> None:
        self.deadline = deadline
        self._until = clock.monotonic() + (deadline - clock.now()).total_seconds()
        self._place = place
        self._held = AsyncExitStack()
        self._share: Share | None = None
        self._failures = 0

    async def __aenter__(self) -> Self:
        """Wait for a place."""
        self._share = await self._held.enter_async_context(self._place())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give the place up."""
        await self._held.__aexit__(kind, error, traceback)

    def share(self, total: int) -> int:
        """Return how many of ``total`` requests at once are this reading's."""
        return total if self._share is None else self._share(total)

    def answered(self) -> None:
        """Take note that Mixpanel answered: the next wait is short again."""
        self._failures = 0

    async def wait(self, error: MixpanelError, *, costly: bool) -> None:
        """Wait until what failed with ``error`` may be asked again; the place is given up for all but a short wait.

        Args:
            error: the failure, which may name a time.
            costly: whether asking may cost a query.

        Raises:
            MixpanelError: it is ``error``: it does not pass, or the deadline would.
        """
        seconds = self._seconds(error, costly=costly and not isinstance(error, MixpanelBusy))
        if clock.monotonic() + seconds >= self._until:
            raise error
        self._failures += 1
        if seconds <= _SHORT:
            await asyncio.sleep(seconds)
            return
        logger.warning("Mixpanel is asked again in %.0f seconds (%s).", seconds, type(error).__name__)
        await self._held.aclose()
        await asyncio.sleep(seconds)
        await self.__aenter__()

    def _seconds(self, error: MixpanelError, *, costly: bool) -> float:
        if not isinstance(error, Transient):
            raise error
        first, factor, longest = (_FIRST_COSTLY, 4.0, _LONGEST_COSTLY) if costly else (FIRST_WAIT, 2.0, _LONGEST)
        least = min(first * factor ** min(self._failures, 20), longest)
        jitter = random.uniform(0.0, least)  # noqa: S311  it keeps readers apart and guards no secret
        return max(error.retry_after or 0.0, least) + jitter
