"""A disk of this host, or one that hosts share: private files and folders, names that last, and locks.

A lock of the kernel's is seen by the processes of this kernel alone, and a shared disk has more than one: what is held
or in use says by whom, and another host's is left alone.
"""

import fcntl
import hashlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote


def make_private(folder: Path) -> None:
    """Create ``folder`` and its missing parents, for this user only (0700), and make their names durable."""
    if folder.is_dir():
        return
    make_private(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    sync_folder(folder.parent)


def take_rights_of_others(path: Path) -> None:
    """Let ``path``, where it is there and this user's, be for this user only (0700, a file 0600)."""
    with suppress(OSError):  # who writes there says why it cannot be used
        status = path.stat()
        if status.st_uid == os.getuid() and status.st_mode & 0o077:
            path.chmod(status.st_mode & 0o700)


def create_private(path: Path) -> BinaryIO:
    """Open a new file for writing, for this user only (0600)."""
    return os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb")


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable; a rename is not, until its folder is."""
    with opened(folder) as descriptor:
        os.fsync(descriptor)


@contextmanager
def opened(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    """Yield a descriptor of ``path``; a file that ``flags`` create is for this user only (0600)."""
    descriptor = os.open(path, flags, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class Held(Exception):
    """A process of this host holds a lock; or one of the ``host`` that ``owner``, a file, names."""

    def __init__(self, host: str | None, owner: Path) -> None:
        super().__init__(f"host {host} has it, or had it when it went; remove {owner} if it is gone" if host else "")
        self.host = host


@dataclass(frozen=True, slots=True)
class Kernel:
    """Which running kernel a process belongs to: its locks end with it, and no other one sees them."""

    host: str
    machine: str
    boot: str

    @property
    def name(self) -> str:
        """The kernel's name, which can be part of a file's."""
        return f"{self.host}~{self.machine}~{self.boot}"

    def sees_locks_of(self, name: str) -> bool:
        """Tell whether a lock of the kernel called ``name`` would be seen here, or has ended: it is this host's own."""
        machine, _, boot = name.rpartition("~")
        return boot == self.boot or (self.machine != "" and machine == f"{self.host}~{self.machine}")


def this_kernel() -> Kernel:
    """Return the kernel that runs this process; where boots cannot be told apart, the host stands for them."""
    host = encode_path_name(socket.gethostname())
    return Kernel(host, _first_line("/etc/machine-id"), _first_line("/proc/sys/kernel/random/boot_id") or host)


def _first_line(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except OSError:
        return ""


@contextmanager
def only_holder(path: Path, *, at_most: float | None = None) -> Iterator[int]:
    """Hold the lock at ``path``, and yield its descriptor: it lasts while any process that inherits it lives.

    Another host that holds it for longer than ``at_most`` seconds is taken for gone; None: it may for ever.

    Raises:
        Held: a process of this host has it, or one of another host, which may be gone.
        OSError: the files cannot be written.
    """
    owner = path.with_name(f"{path.name}.owner")
    with opened(path, os.O_CREAT | os.O_RDWR) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Held(None, owner) from None
        os.utime(lock)  # so that the disk's own clock tells how old the owner's file is
        _own(owner, lock, at_most)
        try:
            yield lock
        finally:
            owner.unlink(missing_ok=True)


def _own(owner: Path, lock: int, at_most: float | None) -> None:
    """Write down which kernel holds the ``lock``, for those that do not see it.

    Raises:
        Held: another one, whose locks are not seen here, has written it down.
    """
    kernel = this_kernel()
    while True:
        try:
            owner.symlink_to(kernel.name)  # made with what it says in one step
        except FileExistsError:
            try:
                held_by, since = str(owner.readlink()), owner.lstat().st_mtime
            except FileNotFoundError:  # it was given back this moment
                continue
        else:
            return
        gone = at_most is not None and os.fstat(lock).st_mtime - since > at_most
        if not (gone or kernel.sees_locks_of(held_by)):
            raise Held(held_by.partition("~")[0], owner)
        owner.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def encode_path_name(name: str) -> str:
    """Percent-encode ``name`` into one path component that can neither climb nor hide."""
    encoded = quote(name, safe="")
    return encoded.replace(".", "%2E") if encoded.startswith(".") else encoded
