"""Where the history lies: refusals that name the place, and scratch space on disk that dies with its process."""

import errno
import fcntl
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cohort_pipelines.core.disk import Kernel, create_private, make_private, opened, sha256, sync_folder, this_kernel
from cohort_pipelines.core.errors import HistoryError, HistoryFileMissing, HistoryNotReadable, HistoryNotWritable

__all__ = [
    "changing",
    "create_private",
    "make_private",
    "reading",
    "scratch",
    "sha256",
    "sync_folder",
    "temporary_folder",
    "writing",
]


_LONGEST_LIFE = 7 * 86_400.0  # seconds; a run lasts a day at most


@contextmanager
def writing(place: Path | str) -> Iterator[None]:
    """Turn the disk's refusals into an error that names the place.

    Raises:
        HistoryNotWritable: the disk is full, read-only, broken, or something else is in the way.
    """
    try:
        yield
    except OSError as error:
        raise HistoryNotWritable(str(place), _cause(error)) from error


@contextmanager
def changing(place: str) -> Iterator[None]:
    """Turn whatever keeps fsspec from storing or removing a file into an error that names the place.

    Raises:
        HistoryNotWritable: the disk or the object store refused, or cannot be reached.
    """
    try:
        yield
    except Exception as error:  # each fsspec driver has errors of its own
        raise HistoryNotWritable(place, _kind(error)) from error


@contextmanager
def reading(place: str) -> Iterator[None]:
    """Turn whatever keeps fsspec from reading a file or a folder into an error that names the place.

    Raises:
        HistoryFileMissing: it is not there.
        HistoryNotReadable: the disk or the object store refused, or cannot be reached.
    """
    try:
        yield
    except HistoryError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise HistoryFileMissing(place) from None
    except Exception as error:  # each fsspec driver has errors of its own
        raise HistoryNotReadable(place, _kind(error)) from error


def temporary_folder() -> Path:
    """Return where scratch space of a history lies that is not on this host's disk.

    Raises:
        HistoryNotWritable: this host has no folder for temporary files that can be written.
    """
    try:
        return Path(tempfile.gettempdir()) / f"cohort-pipelines-{os.getuid()}"
    except FileNotFoundError:
        place, problem = "the folder for temporary files", "none can be written; set TMPDIR to one that can"
        raise HistoryNotWritable(place, problem) from None


@contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """Yield a private folder in ``parent`` that is removed at the end, or by the next process if this one dies.

    Its owner holds a lock on it. The kernel drops the lock with the process, so that a process of the same kernel which
    gets it knows the owner dead. The folder's name says of which host and boot it is: those of other hosts, whose locks
    are not seen here, are left alone.

    Raises:
        HistoryNotWritable: the folder cannot be made.
    """
    with writing(parent):
        make_private(parent)
        if parent.is_symlink() or parent.stat().st_uid != os.getuid():
            raise PermissionError(errno.EPERM, "it belongs to another user")
        with opened(parent) as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)  # no one sweeps between a folder's creation and its lock
            kernel = this_kernel()
            _sweep(parent, kernel)
            folder = parent / f"{uuid.uuid4().hex}~{kernel.name}"
            folder.mkdir(mode=0o700)
            lock = os.open(folder, os.O_RDONLY)
            fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _cause(error: OSError) -> str:
    """Return what the disk said; Arrow says it twice and at length."""
    said = error.strerror or type(error).__name__
    return os.strerror(error.errno) if error.errno and "[errno" in said else said


def _kind(error: Exception) -> str:
    """Return what kind of refusal it is; a driver's own words may hold a credential."""
    return os.strerror(error.errno) if isinstance(error, OSError) and error.errno else type(error).__name__


def _sweep(parent: Path, kernel: Kernel) -> None:
    """Remove what dead processes of this host left, and what is so old that no process of any host can still own it."""
    long_ago = parent.stat().st_mtime - _LONGEST_LIFE
    for folder in parent.iterdir():
        try:
            if not (kernel.sees_locks_of(folder.name.partition("~")[2]) or folder.stat().st_mtime < long_ago):
                continue
            with opened(folder) as descriptor:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except (BlockingIOError, FileNotFoundError):
            continue  # its owner lives, or has just removed it
