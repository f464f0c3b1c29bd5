"""How a payload becomes an exact overwrite: belief, plan, gates, one writer, and a ledger that survives any crash."""

from cohort_pipelines.delivery.deadlines import deadline
from cohort_pipelines.delivery.delivering import deliver
from cohort_pipelines.delivery.gates import Gates
from cohort_pipelines.delivery.ledger import DeliveredSnapshot, Ledger, SealedSnapshot, Target
from cohort_pipelines.delivery.ledger_windows import WindowRecord
from cohort_pipelines.delivery.pausing import Pause, pause
from cohort_pipelines.delivery.receipt import Receipt
from cohort_pipelines.delivery.restoring import restore, retire
from cohort_pipelines.delivery.schema import AttemptState, WindowState
from cohort_pipelines.delivery.terms import Terms

__all__ = [
    "AttemptState",
    "DeliveredSnapshot",
    "Gates",
    "Ledger",
    "Pause",
    "Receipt",
    "SealedSnapshot",
    "Target",
    "Terms",
    "WindowRecord",
    "WindowState",
    "deadline",
    "deliver",
    "pause",
    "restore",
    "retire",
]
