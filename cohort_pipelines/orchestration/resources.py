"""Where history and ledger lie: the same two resources for every sync."""

import dagster as dg

from cohort_pipelines import settings
from cohort_pipelines.delivery import Ledger
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
