"""The history: every stage of every window, sealed and readable.

For people, three functions: ``history.read("beta_users", "partner_payload")`` is the newest audience as a DataFrame.
For the steps, :class:`History`, which writes and verifies.
"""

from cohort_pipelines.core.files import Stage, StoredFile
from cohort_pipelines.history.overlay import Overlay, laid_over
from cohort_pipelines.history.reading import read, receipts, windows
from cohort_pipelines.history.store import History, open_parquet
from cohort_pipelines.history.writer import GROUP_BYTES, StageWriter

__all__ = [
    "GROUP_BYTES",
    "History",
    "Overlay",
    "Stage",
    "StageWriter",
    "StoredFile",
    "laid_over",
    "open_parquet",
    "read",
    "receipts",
    "windows",
]
