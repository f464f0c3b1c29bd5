"""Where this deployment keeps its data: two environment variables, both with defaults for one host."""

import os

from fsspec.core import split_protocol

from cohort_pipelines.errors import LedgerUnusable

DATA = "COHORT_PIPELINES_DATA"
LEDGER = "COHORT_PIPELINES_LEDGER"


def data_root() -> str:
    """Return the folder, or the fsspec URL, that everything is kept under: ``COHORT_PIPELINES_DATA`` or ``data``."""
    return (os.environ.get(DATA) or "data").rstrip("/")


def history_root() -> str:
    """Return the history's root, a local folder or an fsspec URL."""
    return f"{data_root()}/history"


def ledger_url() -> str:
    """Return the ledger's SQLAlchemy URL: ``COHORT_PIPELINES_LEDGER``, or a SQLite file beside the history.

    That of PostgreSQL is ``postgresql://user@host/database``; its password is better kept in ``PGPASSWORD`` or a
    `~/.pgpass`, which its driver reads (https://www.postgresql.org/docs/current/libpq-pgpass.html).

    Raises:
        LedgerUnusable: the history is not on this host's disk, and the ledger would be.
    """
    protocol, path = split_protocol(data_root())
    named = os.environ.get(LEDGER)
    url = named or f"sqlite:///{path}/ledger.sqlite"
    if protocol not in {None, "file", "local"} and url.startswith("sqlite"):
        problem = (
            f"it is a file of one host, and the history lies on {protocol}; set {LEDGER} to a PostgreSQL database, "
            f"postgresql://user@host/database, or set {DATA} to a folder of this host"
        )
        raise LedgerUnusable(named or "its default place", problem)
    return url
