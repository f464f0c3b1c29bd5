"""What a target is known to hold, id by id, and the plan from there to the payload."""

from cohort_pipelines.membership.baseline import started_from
from cohort_pipelines.membership.belief import (
    BELIEF_SCHEMA,
    CHUNK_SCHEMA,
    SETTLES_AFTER,
    Belief,
    doubt_all,
    fold,
    seal_belief,
)
from cohort_pipelines.membership.healing import SLICES, Slices, due, oldest
from cohort_pipelines.membership.plan import PlanCounts, make_plan, seal_plan
from cohort_pipelines.membership.terms import NO_FILE, Terms

__all__ = [
    "BELIEF_SCHEMA",
    "CHUNK_SCHEMA",
    "NO_FILE",
    "SETTLES_AFTER",
    "SLICES",
    "Belief",
    "PlanCounts",
    "Slices",
    "Terms",
    "doubt_all",
    "due",
    "fold",
    "make_plan",
    "oldest",
    "seal_belief",
    "seal_plan",
    "started_from",
]
