"""Where history and ledger lie: the same two resources for every sync."""

import dagster as dg

from cohort_pipelines import settings
from cohort_pipelines.delivery import Ledger, pairing
from cohort_pipelines.delivery.connecting import parse, shown
from cohort_pipelines.errors import LedgerUnpaired, NoLedgerYet
from cohort_pipelines.history import History


class Records(dg.ConfigurableResource):  # type: ignore[type-arg]  # it yields itself
    """The history's root and the ledger's URL; empty means the environment's, or the embedded default."""

    history_root: str = ""
    ledger_url: str = ""

    def history(self) -> History:
        """Open the history."""
        return History(self.history_root or settings.history_root())

    def ledger(self) -> Ledger:
        """Open the ledger, creating it at first use."""
        return Ledger(self.ledger_url or settings.ledger_url())


def fitting_ledger() -> Ledger | None:
    """Open the ledger as it is, or return None where there is none yet, and nothing was delivered either.

    Raises:
        LedgerUnusable: it cannot be read, another version of this project made it, or it does not fit the history.
    """
    history, ledger = History(settings.history_root()), ledger_as_it_is()
    if ledger is not None:
        pairing.require_fitting(ledger, history)
    elif pairing.IDENTITY in history.read_marks():
        problem = "it is gone, and the history tells of deliveries"
        raise LedgerUnpaired(shown(parse(settings.ledger_url())), history.root, problem)
    return ledger


def ledger_as_it_is() -> Ledger | None:
    """Open the ledger, or return None where there is none yet; it is neither made nor brought up to date.

    Raises:
        LedgerUnusable: it cannot be read, or another version of this project made it.
    """
    try:
        return Ledger(settings.ledger_url(), create=False)
    except NoLedgerYet:
        return None
