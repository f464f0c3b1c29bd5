"""How a payload becomes an exact overwrite: belief, plan, gates, one writer, and a ledger that survives any crash."""

from cohort_pipelines.delivery import judging
from cohort_pipelines.delivery.deadlines import deadline
from cohort_pipelines.delivery.gates import Gates
from cohort_pipelines.delivery.previewing import Preview, Wanted, newest_payload, preview, rejects_of
from cohort_pipelines.delivery.receipt import Receipt
from cohort_pipelines.delivery.restoring import restorable, restore, retire
from cohort_pipelines.delivery.service import deliver

__all__ = [
    "Gates",
    "Preview",
    "Receipt",
    "Wanted",
    "deadline",
    "deliver",
    "judging",
    "newest_payload",
    "preview",
    "rejects_of",
    "restorable",
    "restore",
    "retire",
]
