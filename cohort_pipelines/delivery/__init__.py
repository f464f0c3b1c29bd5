"""How a payload becomes an exact overwrite: claim, plan, gates, requests, receipt."""

from cohort_pipelines.delivery import judging
from cohort_pipelines.delivery.deadlines import deadline
from cohort_pipelines.delivery.gates import Gates
from cohort_pipelines.delivery.previewing import Preview, Wanted, excluded_of, newest_payload, preview
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
    "excluded_of",
    "judging",
    "newest_payload",
    "preview",
    "restorable",
    "restore",
    "retire",
]
