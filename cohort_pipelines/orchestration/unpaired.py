"""What was told while the ledger did not fit its history: a sensor's cursor keeps it, since the ledger cannot."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime

import msgspec

from cohort_pipelines.ledger import Ledger
from cohort_pipelines.reporting import Health, Judgement, Notice, note_told


@dataclass(frozen=True, slots=True)
class Unpaired:
    """Since when the ledger has not fitted, and the syncs that each channel was told of."""

    since: datetime
    told: dict[str, list[str]] = field(default_factory=dict)

    def cursor(self) -> str:
        """Return what :func:`remembered` reads."""
        return msgspec.json.encode(self).decode()

    @contextmanager
    def next_untold(self, channel: str, syncs: Sequence[str], project: str, detail: str) -> Iterator[Notice | None]:
        """Yield the first of ``syncs`` that ``channel`` was not told of as failing, to be told inside the block.

        It counts as told when the block ends, and stays to be told when it raises.
        """
        told = self.told.setdefault(channel, [])
        sync = next((each for each in syncs if each not in told), None)
        if sync is None:
            yield None
            return
        yield Notice(
            id=f"unpaired-{self.since:%Y%m%dT%H%M%SZ}-{project}-{channel}-{sync}",
            project=project,
            sync=sync,
            state=Health.FAILING,
            previous=Health.OK,  # the ledger that would know is not at hand
            detail=detail,
            since=self.since,
        )
        told.append(sync)

    def hand_over(self, ledger: Ledger) -> None:
        """Let ``ledger``, which fits again, know what was told, so that it can tell of the end."""
        for channel, syncs in self.told.items():
            note_told(ledger, channel, dict.fromkeys(syncs, Judgement(Health.FAILING, "", self.since)))


def remembered(cursor: str | None) -> Unpaired | None:
    """Return what a sensor's cursor says; None where it says nothing, or was set by hand."""
    with suppress(msgspec.MsgspecError):
        return msgspec.json.decode(cursor, type=Unpaired) if cursor else None
    return None
