"""Windows and attempts as they stand in a ledger once they are over, without a delivery."""

from datetime import datetime, timedelta

from sqlalchemy import insert

from cohort_pipelines.core import clock
from cohort_pipelines.core.files import Stage, StoredFile
from cohort_pipelines.core.windows import Cadence
from cohort_pipelines.ledger import schema
from cohort_pipelines.ledger.ledger import Ledger
from cohort_pipelines.ledger.schema import AttemptState
from cohort_pipelines_tests.delivery.world import SYNC

HOUR = timedelta(hours=1)
QUARTER = timedelta(minutes=15)


def key(back: int = 0) -> str:
    return Cadence.QUARTER_HOUR.window_at(clock.now() - back * QUARTER).key


def delivered(ledger: Ledger, back: int = 0, ago: timedelta = timedelta(0)) -> None:
    """Record that the window so many windows back was delivered so long ago."""
    with clock.shifted(-ago):
        _deliver(ledger, key(back), clock.now())
        ledger.note_window(SYNC, key(back), "delivered")


def _deliver(ledger: Ledger, window: str, at: datetime) -> None:
    file = StoredFile(SYNC, Stage.COHORT_SNAPSHOT, window, "c" * 64, rows=3, size=99)
    seq = ledger.record_snapshot(SYNC, window, file, at, 3, 3, project=1, cohort_id=2)
    target = {"wire": "memory", "host": "h", "account": "", "name": window, "owner": SYNC, "generation": 1}
    rest = {"head_seq": seq, "established": True, "in_doubt": 0, "held": 0}
    made = {"generation": 1, "token": 1, "payload_checksum": "p", "users": 3, "run_id": "run", "started": at}
    with ledger.write() as connection:
        inserted = insert(schema.target).values(**target, **rest).returning(schema.target.c.id)
        number = connection.execute(inserted).scalar_one()
        row = {"target": number, "state": AttemptState.DELIVERED, "sync": SYNC, "window": window, "snapshot": seq}
        connection.execute(insert(schema.attempt).values(**row, **made, ended=at, deadline=at))
