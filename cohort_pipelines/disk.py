"""The local disk: private files and folders, names that survive a power cut, and names that are safe in a path."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
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


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def encode_path_name(name: str) -> str:
    """Percent-encode ``name`` into one path component that can neither climb nor hide."""
    encoded = quote(name, safe="")
    return encoded.replace(".", "%2E") if encoded.startswith(".") else encoded
