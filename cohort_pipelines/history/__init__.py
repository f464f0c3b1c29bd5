"""The history: every stage of every window, sealed and readable.

For people, three functions: ``history.read("beta_users", "partner_payload")`` is the newest audience as a DataFrame.
For the steps, :class:`History`, which writes and verifies.
"""

from cohort_pipelines.history.layout import Stage, StoredFile
from cohort_pipelines.history.reading import read, receipts, windows
from cohort_pipelines.history.store import History

__all__ = ["History", "Stage", "StoredFile", "read", "receipts", "windows"]
