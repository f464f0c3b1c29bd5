"""The SQL: what was taken, planned, sent and acknowledged, and whose turn it is. It never holds a user id."""

from cohort_pipelines.ledger import approvals, cohorts, lease, pauses, schema, targets
from cohort_pipelines.ledger.approvals import Approval, HeldAttempt, Verdict, note_spent
from cohort_pipelines.ledger.cohorts import is_anew, require_its_cohort, require_of_cohort, require_sent_once
from cohort_pipelines.ledger.connecting import parse, shown
from cohort_pipelines.ledger.database import Database, said_by
from cohort_pipelines.ledger.lease import GIVEN_BACK, LEASE_SECONDS, Lease, is_live, live
from cohort_pipelines.ledger.ledger import DeliveredSnapshot, Ledger, SealedSnapshot, Target, next_generation, next_seq
from cohort_pipelines.ledger.pauses import (
    Pause,
    pause,
    pause_within,
    paused,
    paused_within,
    require_not_paused,
    resumed_within,
)
from cohort_pipelines.ledger.permits import Share, permit
from cohort_pipelines.ledger.schema import (
    GREEN_STATES,
    OPEN_STATES,
    REJECTED_STATES,
    WINDOW_STATES,
    AttemptKind,
    AttemptState,
    ChunkState,
    WindowState,
)
from cohort_pipelines.ledger.targets import TargetRecord, is_anothers, owned_elsewhere, written
from cohort_pipelines.ledger.windows import NEVER_BEGUN, NEVER_ENDED, WindowRecord, note_window, opening_of

__all__ = [
    "GIVEN_BACK",
    "GREEN_STATES",
    "LEASE_SECONDS",
    "NEVER_BEGUN",
    "NEVER_ENDED",
    "OPEN_STATES",
    "REJECTED_STATES",
    "WINDOW_STATES",
    "Approval",
    "AttemptKind",
    "AttemptState",
    "ChunkState",
    "Database",
    "DeliveredSnapshot",
    "HeldAttempt",
    "Lease",
    "Ledger",
    "Pause",
    "SealedSnapshot",
    "Share",
    "Target",
    "TargetRecord",
    "Verdict",
    "WindowRecord",
    "WindowState",
    "approvals",
    "cohorts",
    "is_anew",
    "is_anothers",
    "is_live",
    "lease",
    "live",
    "next_generation",
    "next_seq",
    "note_spent",
    "note_window",
    "opening_of",
    "owned_elsewhere",
    "parse",
    "pause",
    "pause_within",
    "paused",
    "paused_within",
    "pauses",
    "permit",
    "require_its_cohort",
    "require_not_paused",
    "require_of_cohort",
    "require_sent_once",
    "resumed_within",
    "said_by",
    "schema",
    "shown",
    "targets",
    "written",
]
