"""A small disk of its own for the tests of full and read-only ones, and a refusal, which root never meets."""

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

WITHOUT = (
    "No file system can be mounted here, so a full or read-only disk cannot be had. It takes root; in a container also "
    "the capability SYS_ADMIN."
)


@dataclass(frozen=True)
class Disk:
    """A file system that is mounted at ``place``."""

    place: Path

    @property
    def _filler(self) -> Path:
        return self.place / ".filler"

    def fill(self, but: int) -> None:
        """Leave so many bytes free, in whole pages."""
        free = shutil.disk_usage(self.place).free
        with self._filler.open("ab") as file:
            file.write(b"\0" * max(0, free - but))

    def empty(self) -> None:
        self._filler.unlink()

    def make_read_only(self) -> None:
        assert _mount("-o", "remount,ro", str(self.place))

    def make_writable(self) -> None:
        assert _mount("-o", "remount,rw", str(self.place))


@contextmanager
def small_disk(place: Path, kilobytes: int) -> Iterator[Disk]:
    """Mount a file system of that size; where that is not allowed, skip the test, in CI fail it.

    It takes root. CI, which installs what it needs as root too, may also use sudo.
    """
    place.mkdir(parents=True, exist_ok=True)
    owned = f"mode=700,uid={os.getuid()},gid={os.getgid()}"
    if not _mount("-t", "tmpfs", "-o", f"size={kilobytes}k,{owned}", "tmpfs", str(place)):
        (pytest.fail if os.environ.get("CI") else pytest.skip)(WITHOUT)
    try:
        yield Disk(place)
    finally:
        assert _as_root("umount", "--lazy", str(place))


def denied(*_: object, **__: object) -> None:
    """Stand for a method of a file system that turns us away, as no real one does to root."""
    raise PermissionError(errno.EACCES, "Permission denied")


def _mount(*options: str) -> bool:
    return _as_root("mount", *options)


def _as_root(*command: str) -> bool:
    """Run ``command``, and say whether that went well."""
    by_sudo = ("sudo", "--non-interactive") if os.geteuid() and os.environ.get("CI") else ()
    words = [*by_sudo, *command]
    return (
        shutil.which(words[0]) is not None and subprocess.run(words, check=False, capture_output=True).returncode == 0
    )
