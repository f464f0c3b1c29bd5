"""The proof that pages make up one whole cohort: without it, an overwrite would remove real users.

The end rule is the documentation's own (reference/engage-query): the last page is the one that is not full, so a
cohort of exactly one page size has an empty page after it. Asking for that page also settles what ``total`` means,
which the documentation calls the number of users of the page, while every client takes it for that of the cohort.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from cohort_pipelines.core.engine import engine
from cohort_pipelines.core.storage import writing
from cohort_pipelines.mixpanel.pages import Page, snapshot_schema

_PLACES = pa.schema([pa.field("came", pa.binary()), snapshot_schema(()).field("page")])
_REPEATED = "SELECT 1 FROM places WHERE came IS NOT NULL GROUP BY came HAVING min(page) <> max(page) LIMIT 1"


class Torn(Exception):
    """The pages do not fit together; the text says how, without an id."""


@dataclass(frozen=True, slots=True)
class Promise:
    """What page 0 said about the cohort, which every page has to keep."""

    session: str
    size: int
    total: int

    @property
    def pages(self) -> int:
        """How many pages there are, the last of which is not full."""
        return self.total // self.size + 1

    def require_kept(self, number: int, page: Page) -> None:
        """Refuse a page that is not page ``number`` of this session, or not as long as it must be.

        Raises:
            Torn: it is not.
        """
        if page.number != number:
            raise _torn(number, f"came back as page {page.number}")
        if page.session != self.session:
            raise _torn(number, "belongs to another session")
        if page.size != self.size:
            raise _torn(number, f"is cut to {page.size:,} members, page 0 to {self.size:,}")
        rows = page.members.num_rows
        expected = min(self.size, max(0, self.total - number * self.size))
        if rows != expected:
            raise _torn(number, f"holds {rows:,} members instead of {expected:,}")
        if page.total not in {None, rows, self.total}:
            raise _torn(number, f"counts {page.total:,} members in the cohort, page 0 {self.total:,}")


def promise_of(first: Page) -> Promise:
    """Return what page 0 promises.

    Raises:
        Torn: it names no total or no session, so that nothing can be proven.
    """
    if first.total is None:
        raise _torn(0, "names no total")
    if first.session is None:
        raise _torn(0, "names no session")
    return Promise(first.session, first.size, first.total)


@contextmanager
def noting(path: Path) -> Iterator[Callable[[Page], None]]:
    """Yield a function that notes, in a new file at ``path``, who stands on which page.

    Raises:
        HistoryNotWritable: the disk refused, then or when the file is closed.
    """
    with ExitStack() as opened:
        with writing(path):
            places = opened.enter_context(pa.ipc.new_stream(opened.enter_context(pa.OSFile(str(path), "wb")), _PLACES))

        def note(page: Page) -> None:
            with writing(path):
                places.write_batch(pa.record_batch([page.came, page.members["page"]], schema=_PLACES))

        try:
            yield note
        finally:
            with writing(path):  # what waited to be written meets a full disk here, once more
                opened.close()


def require_no_repeats(path: Path) -> None:
    """Refuse if anybody noted at ``path`` stands on two pages; twice on one page is for identity to judge.

    Members are told apart by their distinct_ids as they came, and those without one are passed over.

    Raises:
        Torn: a member does, so another may stand on none.
    """
    with pa.OSFile(str(path), "rb") as file, pa.ipc.open_stream(file) as places, engine(path.parent) as connection:
        connection.register("places", places)
        if connection.execute(_REPEATED).fetchone() is not None:
            message = "a member stands on two pages"
            raise Torn(message)


def _torn(number: int, how: str) -> Torn:
    return Torn(f"page {number} {how}")
