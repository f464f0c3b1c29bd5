"""Where history and ledger lie: the same two resources for every sync."""

import dagster as dg

from cohort_pipelines.core import settings
from cohort_pipelines.core.errors import LedgerUnusable, NoLedgerYet
from cohort_pipelines.history import History
from cohort_pipelines.ledger import Ledger, parse, shown
from cohort_pipelines.orchestration.dead_runs import end_with_worker, tag_with_worker
from cohort_pipelines.recovery import pairing


class Records(dg.ConfigurableResource):  # type: ignore[type-arg]  # it yields itself
    """The history's root and the ledger's URL; empty means the environment's, or the embedded default."""

    history_root: str = ""
    ledger_url: str = ""

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Let the run name the process that works on it: every run of ours needs these records."""
        if context.instance is not None and context.run is not None:
            end_with_worker(tag_with_worker(context.instance, context.run))

    def history(self) -> History:
        """Open the history."""
        return History(self.history_root or settings.history_root())

    def ledger(self) -> Ledger:
        """Open the history's ledger, creating it at first use.

        Raises:
            LedgerUnpaired: it does not fit the history, or is gone; none is made in its place.
            LedgerUnusable: it cannot be opened or written.
            HistoryNotReadable: whether it fits cannot be told.
        """
        return own_ledger(self.ledger_url or settings.ledger_url(), self.history())


def own_ledger(url: str = "", history: History | None = None) -> Ledger:
    """Open the ledger that belongs to ``history``, for who writes to it; it is created at first use.

    Without arguments both are those of the environment. Only a delivery leaves a mark of it in the history.

    Raises:
        LedgerUnpaired: it does not fit the history, or is gone; none is made in its place.
        LedgerUnusable: it cannot be opened or written.
        HistoryNotReadable: whether it fits cannot be told.
    """
    url, history = url or settings.ledger_url(), history or History(settings.history_root())
    try:
        ledger = Ledger(url, create=False)
    except LedgerUnusable as error:
        if isinstance(error, NoLedgerYet):
            pairing.require_unused(history, shown(parse(url)))
        ledger = Ledger(url)  # which makes it, brings it up to date, or says once more why not
    pairing.require_fitting(ledger, history)
    return ledger


def fitting_ledger() -> Ledger | None:
    """Open the ledger as it is, or return None where there is none yet, and nothing was delivered either.

    Raises:
        LedgerUnusable: it cannot be read, another version of this project made it, or it does not fit the history.
        HistoryNotReadable: whether it fits cannot be told.
    """
    url, history = settings.ledger_url(), History(settings.history_root())
    try:
        ledger = Ledger(url, create=False)
    except NoLedgerYet:
        pairing.require_unused(history, shown(parse(url)))
        return None
    pairing.require_fitting(ledger, history)
    return ledger
