"""The history as pandas DataFrames, for notebooks and scripts: any stage of any window in one line."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from cohort_pipelines.core import settings
from cohort_pipelines.core.errors import NotInHistory
from cohort_pipelines.core.files import Stage, StoredFile
from cohort_pipelines.core.windows import KEY_FORMAT
from cohort_pipelines.history.store import History, open_parquet

if TYPE_CHECKING:  # pandas takes long to import, and runs of the daemon do without
    import pandas as pd

LATEST = "latest"
_LISTED = 5
_GREEN = ("delivered", "accepted")  # as delivery writes them into receipts, which is not known here
_OVERWRITE = "overwrite"  # the kind of a window's own attempts


def read(
    sync: str, stage: str, window: str = LATEST, *, version: str | None = None, root: str | Path | None = None
) -> "pd.DataFrame":
    """Return one stage of one window: ``read("beta_users", "partner_payload")`` is the newest audience.

    Args:
        sync: the sync's name.
        stage: ``cohort_snapshot``, ``identified_users``, ``partner_payload``, ``excluded``, ``plan``, ``membership`` or
            ``receipt``.
        window: its start in UTC, such as ``2026-11-22T1215Z``, the name of a one-time export, or ``latest``.
        version: the checksum of one of several versions; by default the delivered payload, else the newest version.
        root: the history's root; by default that of the environment.

    Raises:
        NotInHistory: there is nothing of that name; the message says what there is.
        HistoryFileDamaged: the file's bytes are not those that were sealed.
        HistoryNotReadable: the disk or the object store refused.
    """
    history = _history(root)
    wanted = _stage(stage)
    known = _known_windows(history, sync, wanted)
    key = _latest(history, sync, wanted, known) if window == LATEST else window
    if key not in known:
        raise NotInHistory(key, "window", known[-_LISTED:])
    versions = history.versions(sync, wanted, key)
    named = version or _delivered(history, sync, wanted, key)
    chosen = next((stored for stored in versions if stored.checksum == named), None)
    if version and chosen is None:
        raise NotInHistory(version, "version", (stored.checksum for stored in versions))
    if not versions:
        raise NotInHistory(key, f"file of {stage} in", (each for each in known if each != key))
    frame: pd.DataFrame = _table(history, chosen or versions[-1]).to_pandas()
    return frame


def windows(sync: str, stage: str, root: str | Path | None = None) -> list[str]:
    """Return the windows that have this stage, in order of their names.

    Raises:
        NotInHistory: there is no such sync or stage.
        HistoryNotReadable: the disk or the object store refused.
    """
    return _known_windows(_history(root), sync, _stage(stage))


def receipts(sync: str, root: str | Path | None = None) -> "pd.DataFrame":
    """Return one row for each attempt to overwrite the sync's target, in the order they ended.

    Raises:
        NotInHistory: there is no such sync, or it has no receipt yet.
        HistoryFileDamaged: a receipt's bytes are not those that were sealed.
        HistoryNotReadable: the disk or the object store refused.
    """
    history = _history(root)
    files = [
        stored
        for window in _known_windows(history, sync, Stage.RECEIPT)
        for stored in history.versions(sync, Stage.RECEIPT, window)
    ]
    table = pa.concat_tables([_table(history, stored) for stored in files], promote_options="default")
    frame: pd.DataFrame = table.sort_by("ended").to_pandas()
    return frame


def _history(root: str | Path | None) -> History:
    return History(settings.history_root() if root is None else root)


def _stage(name: str) -> Stage:
    if name not in set(Stage):
        raise NotInHistory(name, "stage", Stage)
    return Stage(name)


def _known_windows(history: History, sync: str, stage: Stage) -> list[str]:
    found = history.windows(sync, stage)
    if not found and sync not in (syncs := history.syncs()):
        raise NotInHistory(sync, "sync", syncs, history.shown)
    if not found:
        raise NotInHistory(stage.value, "stage", (known for known in Stage if history.windows(sync, known)))
    return found


def _latest(history: History, sync: str, stage: Stage, known: list[str]) -> str:
    """Return the newest window: the last of the scheduled ones by name, unless a one-time export is younger."""
    scheduled = [key for key in known if _is_scheduled(key)]
    candidates = scheduled[-1:] + [key for key in known if not _is_scheduled(key)]
    if len(candidates) == 1:
        return candidates[0]
    return max(candidates, key=lambda key: history.modified(history.versions(sync, stage, key)[-1]))


def _is_scheduled(key: str) -> bool:
    try:
        datetime.strptime(key, KEY_FORMAT)  # noqa: DTZ007  only its shape matters
    except ValueError:
        return False
    return True


def _delivered(history: History, sync: str, stage: Stage, window: str) -> str | None:
    """Return the checksum of the payload that the window's own newest delivery sent; a restore puts back another's."""
    if stage is not Stage.PARTNER_PAYLOAD:
        return None
    for stored in reversed(history.versions(sync, Stage.RECEIPT, window)):
        receipt = _table(history, stored).to_pylist()[-1]
        if receipt["state"] in _GREEN and receipt["kind"] == _OVERWRITE:
            return str(receipt["payload_checksum"])
    return None


def _table(history: History, stored: StoredFile) -> pa.Table:
    with history.local_file(stored) as path, open_parquet(path) as file:
        return file.read()
