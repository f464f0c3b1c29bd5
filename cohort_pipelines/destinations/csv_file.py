"""The file wire: a one-column CSV for each overwrite, and `current.csv`, which names the newest.

`current.csv` is a symbolic link, because a person who imports by hand can pick it in any file dialog and uploads the
newest audience without reading a pointer first, while `ls -l` still tells which overwrite it is.
"""

import csv
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from io import StringIO, TextIOWrapper
from itertools import chain
from pathlib import Path
from typing import TextIO
from uuid import uuid4

import msgspec

from cohort_pipelines.core import clock, disk
from cohort_pipelines.core.changes import NamedCohort
from cohort_pipelines.core.errors import NewerFilePublished, PartnerFolderNotWritable
from cohort_pipelines.destinations.wire import Audience, Permit, Publication

CSV_HEADER = "user_id"  # the one column that Apptimize's import documents
CURRENT = "current.csv"
LOCK = ".lock"
FLIP_SECONDS = 60.0  # after which a host that began to move the pointer is taken for gone
_OURS = re.compile(r"(\d+)-\w+\.csv")
_PART = re.compile(r"\.(\d+)-.*\.part")


class Manifest(msgspec.Struct, frozen=True):
    """What lies beside each CSV, as JSON.

    ``checksum`` is the SHA-256 of the CSV itself; ``payload`` is that of the audience it was written from.
    """

    partner: str
    target: str
    file: str
    generation: int
    payload: str
    checksum: str
    rows: int
    size: int
    written_at: datetime


class CsvFile:
    """A private folder that holds one folder for each target.

    Args:
        partner: what errors and manifests call it.
        folder: where the targets' folders lie; made when first used.
    """

    wire: str = "csv_file"
    cohort: NamedCohort | None = None
    host: str = "file"
    atomic: bool = True
    assumed_per_second: float = 100_000.0  # lines written to a disk
    findable: bool = False

    def __init__(self, *, partner: str, folder: Path) -> None:
        self._partner = partner
        self._folder = folder.absolute()
        self.account = str(self._folder)

    def count_requests(self, rows: int) -> int:  # noqa: ARG002  the interface's argument
        """Count none: no service is asked."""
        return 0

    def publish(self, target: str, audience: Audience, permit: Permit) -> Publication:
        """Write `<generation>-<checksum>.csv` unless it is there and whole, then let `current.csv` name it.

        The CSV is RFC 4180's: ids byte for byte, in quotes where they hold a comma, a quote or a line break. Writing it
        changes nothing that anybody reads, so that ``permit`` is asked only for the pointer.

        Raises:
            PartnerFolderNotWritable: `current.csv` names the earlier file or already the new one; also where a file
                cannot be read back as it was written, and then it names the earlier one.
            NewerFilePublished: `current.csv` names a later generation and was left alone.
        """
        with self._home(target) as home:
            disk.make_private(home)
            file = home / f"{audience.generation}-{audience.checksum}.csv"
            if _intact(file) is None:
                checksum = _write_csv(file, audience.ids)
                manifest = Manifest(
                    partner=self._partner,
                    target=target,
                    file=file.name,
                    generation=audience.generation,
                    payload=audience.checksum,
                    checksum=checksum,
                    rows=audience.rows,
                    size=file.stat().st_size,
                    written_at=clock.now(),
                )
                with _new_file(file.with_suffix(".json")) as out:
                    out.write(msgspec.json.format(msgspec.json.encode(manifest)).decode())
                if _intact(file) is None:
                    raise PartnerFolderNotWritable(self._partner, home, "a file lacks what was just written to it")
            if permit() is None:
                return Publication(reached="none")
            self._flip(home, file)
        return Publication()

    def verify(self, target: str) -> Manifest | None:
        """Return the manifest of what `current.csv` names, or None when it names nothing that is whole.

        Raises:
            PartnerFolderNotWritable: the folder cannot be read.
        """
        with self._home(target) as home:
            named = _named(home)
            return _intact(home / named) if named else None

    async def check(self, target: str | None) -> str:  # noqa: ARG002  a target's folder is made when it is published
        """Write a file into the folder and remove it.

        Raises:
            PartnerFolderNotWritable: why it could not be written.
        """
        with self._disk(self._folder):
            disk.make_private(self._folder)
            probe = self._folder / f".{uuid4()}.part"
            disk.create_private(probe).close()
            probe.unlink()
        return "Connected; a person has to import current.csv after each overwrite"

    def find(self, target: str, permit: Permit) -> int:  # noqa: ARG002  the interface's arguments
        """Make no request: whether the file is there is read in every window."""
        return 0

    def holds(self, target: str, checksum: str) -> bool:
        """Say whether `current.csv` names a whole file of the audience called ``checksum``.

        Raises:
            PartnerFolderNotWritable: the folder cannot be read.
        """
        current = self.verify(target)
        return current is not None and current.payload == checksum

    @contextmanager
    def _home(self, target: str) -> Iterator[Path]:
        home = self._folder / disk.encode_path_name(target)
        with self._disk(home):
            yield home

    @contextmanager
    def _disk(self, folder: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise PartnerFolderNotWritable(self._partner, folder, error.strerror or type(error).__name__) from error
        except disk.Held as error:
            problem = f"another process publishes there this moment{': ' * bool(error.host)}{error}"
            raise PartnerFolderNotWritable(self._partner, folder, problem) from None

    def _flip(self, home: Path, file: Path) -> None:
        generation = _generation(file.name)
        # who holds it flips the pointer this very moment, or is stopped
        with disk.only_holder(home / LOCK, at_most=FLIP_SECONDS):
            named = _named(home)
            if named and _generation(named) > generation:
                raise NewerFilePublished(self._partner, _generation(named), generation)
            link = _part(file)
            link.symlink_to(file.name)
            link.replace(home / CURRENT)
            disk.sync_folder(home)
            for left in home.glob(".*.part"):
                part = _PART.fullmatch(left.name)
                if part and int(part[1]) < generation:
                    left.unlink(missing_ok=True)  # a writer that died, or one that can no longer publish


def _write_csv(file: Path, ids: Iterable[Sequence[str]]) -> str:
    """Write the CSV, and return the SHA-256 that its bytes must have."""
    written = hashlib.sha256()
    with _new_file(file) as out:
        for batch in chain([[CSV_HEADER]], ids):
            rows = StringIO(newline="")
            csv.writer(rows).writerows(zip(batch))
            out.write(rows.getvalue())
            written.update(rows.getvalue().encode())
    return written.hexdigest()


@contextmanager
def _new_file(file: Path) -> Iterator[TextIO]:
    """Write a private file under another name; it gets its own once it is whole and on the disk."""
    part = _part(file)
    try:
        with TextIOWrapper(disk.create_private(part), encoding="utf-8", newline="") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
    disk.sync_folder(file.parent)


def _part(file: Path) -> Path:
    return file.with_name(f".{_generation(file.name)}-{uuid4()}.part")


def _generation(name: str) -> int:
    return int(name.partition("-")[0])


def _named(home: Path) -> str | None:
    """Return the file of ours that `current.csv` names, whether it is there or not; None where it was replaced."""
    current = home / CURRENT
    named = str(current.readlink()) if current.is_symlink() else ""
    return named if _OURS.fullmatch(named) else None


def _intact(file: Path) -> Manifest | None:
    """Return the manifest of ``file`` if both are there and agree."""
    manifest_file = file.with_suffix(".json")
    if not (file.is_file() and manifest_file.is_file()):
        return None
    try:
        manifest = msgspec.json.decode(manifest_file.read_bytes(), type=Manifest)
    except msgspec.DecodeError:
        return None
    whole = manifest.size == file.stat().st_size and manifest.checksum == disk.sha256(file)
    return manifest if whole else None
