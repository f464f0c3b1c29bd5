"""Taking a snapshot, and what is derived from it: identified users, payload, excluded members."""

from cohort_pipelines.snapshots import deriving
from cohort_pipelines.snapshots.deriving import Identified, Payload
from cohort_pipelines.snapshots.taking import Snapshot, take_snapshot

__all__ = ["Identified", "Payload", "Snapshot", "deriving", "take_snapshot"]
