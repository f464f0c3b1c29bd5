"""Taking a snapshot: every member of a cohort, proven complete, filed under the window that was open."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta

from cohort_pipelines.core import clock, event_loop
from cohort_pipelines.core.errors import MixpanelAnswerUnreadable, SnapshotTorn
from cohort_pipelines.core.files import Stage, StoredFile
from cohort_pipelines.core.windows import Window
from cohort_pipelines.history import History
from cohort_pipelines.mixpanel import (
    AnonymousMembers,
    CohortReader,
    Page,
    Patience,
    Place,
    Project,
    Torn,
    cohort_reader,
    connect,
    noting,
    promise_of,
    require_no_repeats,
    snapshot_schema,
)

logger = logging.getLogger(__name__)

_ONE_TIME_PATIENCE = timedelta(hours=1)  # a one-time export has no window's end to wait for

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A sealed snapshot, and what taking it was like.

    Attributes:
        file: the sealed file; its columns are those of :func:`snapshot_schema`.
        taken_at: when page 0 answered, which is the moment the snapshot shows.
        total: members of the cohort, as Mixpanel counted them on page 0.
        rows: rows of the file; equal to ``total``, or it would not have been sealed.
        anonymous: members without a profile.
        malformed: members that cannot be read.
        pages: pages of the session.
        requests: HTTP requests made, failed ones and a first reading included.
        queries: how many of them counted against the project's queries per hour.
        reread: whether a first reading was torn.
        seconds: from the first request to the sealed file.
    """

    file: StoredFile
    taken_at: datetime
    total: int
    rows: int
    anonymous: int
    malformed: int
    pages: int
    requests: int
    queries: int
    reread: bool
    seconds: float


def take_snapshot(
    project: Project,
    cohort_id: int,
    history: History,
    *,
    sync: str,
    window: Window,
    properties: Sequence[str],
    anonymous_members: AnonymousMembers = "fetch",
    on_progress: Progress | None = None,
    on_taken: Callable[[], None] | None = None,
    deadline: datetime | None = None,
    place: Place = nullcontext,
) -> Snapshot:
    """Read the cohort as it is now and seal it under ``window``; nothing is filed unless it is proven complete.

    A torn reading is repeated once, at the cost of another query. Two callbacks come from another thread than the
    caller's: ``on_taken`` when page 0 has answered, of each reading anew, and ``on_progress`` with the rows that were
    read and the total after each page. No retry waits past ``deadline``, nor past the window's end, which for an export
    is one hour from now. Mixpanel is read only inside of a ``place``, which that thread's event loop enters and leaves.

    Raises:
        WindowClosed, WindowNotOpenYet: a snapshot taken now does not belong to the window.
        ClockSkewed: Mixpanel's clock and this host's differ, so that the window is not certain.
        SnapshotTorn: the pages did not fit together, twice.
        MixpanelError: the refusal or failure that waiting did not cure.
        HistoryNotWritable: the history's disk refused.
    """
    kept = tuple(dict.fromkeys(properties))
    filing = _Filing(history, sync, window, kept, on_progress or _ignore, on_taken or _ignore)
    return event_loop.run(_take(project, cohort_id, anonymous_members, filing=filing, deadline=deadline, place=place))


@dataclass(frozen=True, slots=True)
class _Filing:
    """Where a snapshot goes, what of each member it keeps, and who is told meanwhile."""

    history: History
    sync: str
    window: Window
    properties: tuple[str, ...]
    on_progress: Progress
    on_taken: Callable[[], None]


async def _take(
    project: Project,
    cohort_id: int,
    anonymous_members: AnonymousMembers,
    *,
    filing: _Filing,
    deadline: datetime | None,
    place: Place,
) -> Snapshot:
    ends = filing.window.closes or clock.now() + _ONE_TIME_PATIENCE
    until = min(ends, deadline or ends)
    async with connect(project) as client, Patience(until, place) as patience:
        began = clock.monotonic()
        reader = cohort_reader(client, cohort_id, filing.properties, anonymous_members, patience)
        try:
            return await _read(reader, filing, began=began, reread=False)
        except (Torn, MixpanelAnswerUnreadable) as defect:
            logger.warning("The reading of cohort %d failed: %s. It is read again.", cohort_id, defect)
        try:
            return await _read(reader, filing, began=began, reread=True)
        except Torn as torn:
            raise SnapshotTorn(str(torn)) from None


async def _read(reader: CohortReader, filing: _Filing, *, began: float, reread: bool) -> Snapshot:
    """Read the cohort once, prove it and seal it.

    Raises:
        Torn: it is not complete; nothing was filed.
    """
    history, window = filing.history, filing.window
    schema = snapshot_schema(filing.properties)
    window.require_open()
    with history.scratch() as scratch, history.writer(filing.sync, Stage.COHORT_SNAPSHOT, window.key, schema) as writer:
        first = await reader.first()
        taken_at = clock.now()
        window.require_open()
        await asyncio.to_thread(filing.on_taken)  # it may have to wait for the ledger
        promise = promise_of(first)
        places = scratch / "places.arrow"
        anonymous = malformed = 0
        with noting(places) as note:

            def take(number: int, page: Page) -> None:
                nonlocal anonymous, malformed
                promise.require_kept(number, page)
                writer.write(page.members)
                note(page)
                anonymous += page.anonymous
                malformed += page.malformed
                filing.on_progress(writer.rows, promise.total)

            take(0, first)
            await reader.each_later(promise.session, range(1, promise.pages), take)
        require_no_repeats(places)
        await asyncio.sleep(0)  # a cancel that came meanwhile ends it here, with nothing filed
    return Snapshot(
        file=writer.stored,
        taken_at=taken_at,
        total=promise.total,
        rows=writer.rows,
        anonymous=anonymous,
        malformed=malformed,
        pages=promise.pages,
        requests=reader.client.requests,
        queries=reader.client.queries,
        reread=reread,
        seconds=clock.monotonic() - began,
    )


def _ignore(*_told: int) -> None:
    """Do nothing: the default for progress."""
