"""Ledger and history belong together: how a copy is told from the original, and how a lost ledger is rebuilt."""

from cohort_pipelines.recovery import pairing
from cohort_pipelines.recovery.pairing import require_paired
from cohort_pipelines.recovery.rebuilding import rebuild

__all__ = ["pairing", "rebuild", "require_paired"]
