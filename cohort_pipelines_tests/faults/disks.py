"""A small disk of its own for the tests of full and read-only ones."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest


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
        _mount("-o", "remount,ro", str(self.place))

    def make_writable(self) -> None:
        _mount("-o", "remount,rw", str(self.place))


@contextmanager
def small_disk(place: Path, kilobytes: int) -> Iterator[Disk]:
    """Mount a file system of that size, which needs root; where that is not allowed, skip the test."""
    place.mkdir(parents=True, exist_ok=True)
    mounted = _mount("-t", "tmpfs", "-o", f"size={kilobytes}k,mode=700", "tmpfs", str(place))
    if not mounted:
        pytest.skip("No file system can be mounted here, which takes root: a full or read-only disk cannot be had.")
    try:
        yield Disk(place)
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def _mount(*options: str) -> bool:
    mount = shutil.which("mount")
    return mount is not None and subprocess.run([mount, *options], check=False, capture_output=True).returncode == 0
