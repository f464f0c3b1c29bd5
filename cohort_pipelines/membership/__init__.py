"""What a target is known to hold, id by id, and the plan from there to the payload."""

from cohort_pipelines.membership.initial_members import started_from
from cohort_pipelines.membership.plan import PlanCounts, make_plan, seal_plan
from cohort_pipelines.membership.reconciliation import SLICES, Slices, due, oldest
from cohort_pipelines.membership.state import (
    CHUNK_SCHEMA,
    MEMBERSHIP_SCHEMA,
    SETTLES_AFTER,
    Membership,
    fold,
    mark_all_unknown,
    seal_membership,
)
from cohort_pipelines.membership.terms import NO_FILE, Terms

__all__ = [
    "CHUNK_SCHEMA",
    "MEMBERSHIP_SCHEMA",
    "NO_FILE",
    "SETTLES_AFTER",
    "SLICES",
    "Membership",
    "PlanCounts",
    "Slices",
    "Terms",
    "due",
    "fold",
    "make_plan",
    "mark_all_unknown",
    "oldest",
    "seal_membership",
    "seal_plan",
    "started_from",
]
