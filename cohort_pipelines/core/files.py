"""Where a file lies: ``sync=<name>/stage=<stage>/window=<start>/<sha256>.parquet``, as Hive readers expect it.

The name of a file is the SHA-256 of its bytes, so a file is never changed in place and a copy proves itself.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import unquote

from cohort_pipelines.core.disk import encode_path_name

_FILE_NAME = re.compile(r"([0-9a-f]{64})\.parquet")


class Stage(StrEnum):
    """What a file holds; one folder for each under its sync."""

    COHORT_SNAPSHOT = "cohort_snapshot"
    IDENTIFIED_USERS = "identified_users"
    PARTNER_PAYLOAD = "partner_payload"
    EXCLUDED = "excluded"
    PLAN = "plan"
    MEMBERSHIP = "membership"
    RECEIPT = "receipt"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A sealed file of the history.

    Attributes:
        sync: the sync's name.
        stage: what the file holds.
        window: the window's key, or the name of a one-time export.
        checksum: SHA-256 of the file's bytes, in hex.
        rows: how many rows it holds.
        size: how many bytes it has.
    """

    sync: str
    stage: Stage
    window: str
    checksum: str
    rows: int
    size: int

    @property
    def path(self) -> str:
        """Where the file lies, relative to the history's root, with forward slashes."""
        return file_path(self.sync, self.stage, self.window, self.checksum)


def stage_folder(sync: str, stage: Stage) -> str:
    """Return the folder of a sync's stage, relative to the root."""
    return f"sync={encode_path_name(sync)}/stage={stage.value}"


def window_folder(sync: str, stage: Stage, window: str) -> str:
    """Return the folder of one window of a stage, relative to the root."""
    return f"{stage_folder(sync, stage)}/window={encode_path_name(window)}"


def file_path(sync: str, stage: Stage, window: str, checksum: str) -> str:
    """Return where the file of that checksum lies, relative to the root."""
    return f"{window_folder(sync, stage, window)}/{checksum}.parquet"


def value_in(path: str, key: str) -> str | None:
    """Return what ``key`` is in the folder ``.../key=value``, or None when ``path`` is something else."""
    name, _, value = path.rstrip("/").rpartition("/")[2].partition("=")
    return unquote(value) if name == key else None


def checksum_in(path: str) -> str | None:
    """Return the checksum that a history file is named by, or None when ``path`` is something else."""
    match = _FILE_NAME.fullmatch(path.rpartition("/")[2])
    return match[1] if match else None
