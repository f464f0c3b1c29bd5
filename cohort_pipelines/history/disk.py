"""Local disk: private folders, files that survive a power cut, and scratch space that dies with its process."""

import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from cohort_pipelines.errors import HistoryNotWritable


@contextmanager
def writing(place: Path | str) -> Iterator[None]:
    """Turn the disk's refusals into an error that names the place.

    Raises:
        HistoryNotWritable: the disk is full, read-only, broken, or something else is in the way.
    """
    try:
        yield
    except OSError as error:
        raise HistoryNotWritable(str(place), error.strerror or type(error).__name__) from error


def make_private(folder: Path) -> None:
    """Create ``folder`` and its missing parents, for this user only (0700), and make their names durable."""
    if folder.is_dir():
        return
    make_private(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    sync_folder(folder.parent)


def create_private(path: Path) -> BinaryIO:
    """Open a new file for writing, for this user only (0600)."""
    return os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb")


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable; a rename is not, until its folder is."""
    with _opened(folder) as descriptor:
        os.fsync(descriptor)


@contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """Yield a private folder in ``parent`` that is removed at the end, or by the next process if this one dies.

    Its owner holds a lock on it. The kernel drops the lock with the process, so whoever gets it knows the owner dead.

    Raises:
        HistoryNotWritable: the folder cannot be made.
    """
    with writing(parent):
        make_private(parent)
        if parent.is_symlink() or parent.stat().st_uid != os.getuid():
            raise PermissionError(errno.EPERM, "it belongs to another user")
        with _opened(parent) as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)  # no one sweeps between a folder's creation and its lock
            _sweep(parent)
            folder = parent / uuid.uuid4().hex
            folder.mkdir(mode=0o700)
            lock = os.open(folder, os.O_RDONLY)
            fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _sweep(parent: Path) -> None:
    """Remove what dead processes left."""
    for folder in parent.iterdir():
        try:
            with _opened(folder) as descriptor:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except (BlockingIOError, FileNotFoundError):
            continue  # its owner lives, or has just removed it


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
