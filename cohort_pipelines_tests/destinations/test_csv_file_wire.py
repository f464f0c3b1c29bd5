import asyncio
import csv
import errno
import fcntl
import hashlib
import json
import os
import resource
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from cohort_pipelines.core.errors import NewerFilePublished, PartnerFolderNotWritable, PartnerOutcomeUnknown
from cohort_pipelines.destinations.apptimize import apptimize_file
from cohort_pipelines.destinations.csv_file import CsvFile
from cohort_pipelines.destinations.wire import Audience, FileWire, Publication
from cohort_pipelines.devtools.standins.server import InThread
from cohort_pipelines_tests.destinations.odd_server import within

TARGET = "Mixpanel: Beta/Users"
HOME = "Mixpanel%3A%20Beta%2FUsers"


@pytest.fixture
def partner(tmp_path: Path) -> CsvFile:
    return apptimize_file(folder=tmp_path / "imports", region="eu")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "imports" / HOME


@contextmanager
def at_most_in_a_file(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def publish(partner: CsvFile, batches: Iterable[Sequence[str]], generation: int, checksum: str) -> Publication:
    rows = sum(map(len, batches)) if isinstance(batches, list) else 0
    return partner.publish(TARGET, Audience(batches, rows, generation, checksum), within)


def read(file: Path) -> list[list[str]]:
    with file.open(encoding="utf-8", newline="") as text:
        return list(csv.reader(text, strict=True))


def test_a_file_a_manifest_and_a_pointer_are_published(partner: CsvFile, home: Path) -> None:
    published = publish(partner, [["a", "b"], [], ["c"]], 7, "f00d")

    content = b"user_id\r\na\r\nb\r\nc\r\n"
    assert published == Publication()
    assert (home / "current.csv").readlink() == Path("7-f00d.csv")
    assert (home / "current.csv").read_bytes() == content
    manifest = json.loads((home / "7-f00d.json").read_bytes())
    assert manifest.pop("written_at")
    assert manifest == {
        "partner": "Apptimize (EU)",
        "target": TARGET,
        "file": "7-f00d.csv",
        "generation": 7,
        "payload": "f00d",
        "checksum": hashlib.sha256(content).hexdigest(),
        "rows": 3,
        "size": len(content),
    }
    assert isinstance(partner, FileWire)
    assert partner.atomic
    assert (partner.wire, partner.host, partner.account) == ("csv_file", "file", str(home.parent))


def test_ids_come_back_byte_for_byte(partner: CsvFile, home: Path, standins: InThread) -> None:
    ids = [
        "Zoë 🦊",
        "=1+1",
        "+1",
        "@x",
        'say "hi"',
        "a,b",
        "two\nlines",
        "two\r\nlines",
        "nul\0l",
        "\u0130i \u00df ss e\u0301 \u00e9",
        "ABC",
        "abc",
        "\r",
        " padded ",
        "x" * 10_000,
    ]
    publish(partner, [ids], 1, "c")

    assert read(home / "current.csv") == [["user_id"], *([one] for one in ids)]
    text = (home / "current.csv").read_bytes().decode()
    assert standins.standins.apptimize.import_csv("from a file", text) == len(ids)
    assert standins.standins.apptimize.groups["from a file"].ids == set(ids)


def test_an_empty_audience_is_a_header(partner: CsvFile, home: Path) -> None:
    publish(partner, [], 1, "c")

    assert (home / "current.csv").read_bytes() == b"user_id\r\n"


def test_everything_is_private_and_no_part_is_left(partner: CsvFile, home: Path) -> None:
    publish(partner, [["a"]], 1, "c")

    assert {path.name for path in home.iterdir()} == {"1-c.csv", "1-c.json", "current.csv", ".lock"}
    assert [path.stat().st_mode & 0o777 for path in (home.parent, home)] == [0o700, 0o700]
    assert {path.stat().st_mode & 0o777 for path in home.iterdir()} == {0o600}


def test_folders_that_are_made_on_the_way_are_private_too(tmp_path: Path) -> None:
    publish(apptimize_file(folder=tmp_path / "made" / "imports", region="eu"), [["a"]], 1, "c")

    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o700


def test_published_again_the_file_is_not_written_again(partner: CsvFile, home: Path) -> None:
    publish(partner, [["a"]], 1, "c")
    written = (home / "1-c.csv").stat()

    audience = iter([["a"]])

    publish(partner, audience, 1, "c")
    assert next(audience) == ["a"]
    assert (home / "1-c.csv").stat().st_ino == written.st_ino


@pytest.mark.parametrize("damaged", ["1-c.csv", "1-c.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damage_is_seen_and_mended_by_publishing_again(partner: CsvFile, home: Path, damaged: str, damage: str) -> None:
    publish(partner, [["a", "b"]], 1, "c")
    whole = partner.verify(TARGET)
    assert whole is not None
    assert (whole.generation, whole.payload, whole.rows) == (1, "c", 2)
    content = (home / damaged).read_bytes()
    if damage == "remove":
        (home / damaged).unlink()
    else:
        (home / damaged).write_bytes(content[:-3] if damage == "truncate" else b"U" + content[1:])

    assert partner.verify(TARGET) is None
    publish(partner, [["a", "b"]], 1, "c")
    assert partner.verify(TARGET) is not None
    assert read(home / "current.csv") == [["user_id"], ["a"], ["b"]]


def test_a_pointer_that_somebody_removed_or_replaced_is_seen_and_mended(partner: CsvFile, home: Path) -> None:
    assert partner.verify(TARGET) is None
    publish(partner, [["a"]], 1, "c")
    (home / "current.csv").unlink()
    assert partner.verify(TARGET) is None
    (home / "current.csv").write_text("user_id\nsomebody\n", encoding="utf-8")
    assert partner.verify(TARGET) is None

    publish(partner, [["a"]], 1, "c")

    assert partner.verify(TARGET) is not None


@pytest.mark.parametrize("points_at", ["1-c.csv", "mine.csv", "../elsewhere/2-d.csv", "9-gone", "/etc/hostname"])
def test_a_pointer_that_somebody_moved_is_seen_and_mended(partner: CsvFile, home: Path, points_at: str) -> None:
    publish(partner, [["a"]], 1, "c")
    publish(partner, [["b"]], 2, "d")
    assert partner.holds(TARGET, "d")
    (home / "current.csv").unlink()
    (home / "current.csv").symlink_to(points_at)

    assert not partner.holds(TARGET, "d")
    publish(partner, [["b"]], 3, "d")
    assert partner.holds(TARGET, "d")
    assert read(home / "current.csv") == [["user_id"], ["b"]]


def test_rows_added_by_hand_are_seen_and_mended(partner: CsvFile, home: Path) -> None:
    publish(partner, [["a"]], 1, "c")
    with (home / "1-c.csv").open("a", encoding="utf-8") as file:
        file.write("somebody\r\n")

    assert not partner.holds(TARGET, "c")
    publish(partner, [["a"]], 2, "c")
    assert read(home / "current.csv") == [["user_id"], ["a"]]


def test_a_pointer_that_cannot_be_mended_is_said(partner: CsvFile, home: Path) -> None:
    publish(partner, [["a"]], 1, "c")
    (home / "current.csv").unlink()
    (home / "current.csv").mkdir()

    assert not partner.holds(TARGET, "c")
    with pytest.raises(PartnerFolderNotWritable, match=os.strerror(errno.EISDIR)):
        publish(partner, [["a"]], 2, "c")


def test_without_a_permit_the_pointer_stays(partner: CsvFile, home: Path) -> None:
    publish(partner, [["a"]], 1, "c")
    later = Audience([["b"]], 1, 2, "d")

    assert partner.publish(TARGET, later, lambda: None) == Publication(reached="none")
    assert read(home / "current.csv") == [["user_id"], ["a"]]
    assert partner.publish(TARGET, later, within) == Publication()
    assert read(home / "current.csv") == [["user_id"], ["b"]]


def test_what_somebody_else_left_in_the_folder_stays(partner: CsvFile, home: Path) -> None:
    publish(partner, [["a"]], 1, "c")
    (home / ".mine.part").touch()

    publish(partner, [["b"]], 2, "d")

    assert (home / ".mine.part").exists()


def test_the_pointer_never_goes_back(partner: CsvFile, home: Path) -> None:
    publish(partner, [["new"]], 10, "c")

    with pytest.raises(NewerFilePublished, match="10"):
        publish(partner, [["old"]], 9, "b")

    assert read(home / "current.csv") == [["user_id"], ["new"]]


def test_a_reader_never_finds_the_pointer_missing_or_half_written(partner: CsvFile, home: Path) -> None:
    publish(partner, [["0"] * 500], 0, "c")
    stop = threading.Event()
    seen: set[tuple[int, str]] = set()
    failures: list[Exception] = []

    def keep_reading() -> None:
        while not stop.is_set():
            try:
                rows = read(home / "current.csv")
                seen.add((len(rows), rows[-1][0]))
            except Exception as error:  # noqa: BLE001  whatever a reader might meet
                failures.append(error)

    reader = threading.Thread(target=keep_reading)
    reader.start()
    for generation in range(1, 30):
        publish(partner, [[str(generation)] * 500], generation, "c")
    stop.set()
    reader.join()

    assert failures == []
    assert {count for count, _ in seen} == {501}


def test_a_batch_that_cannot_be_had_leaves_the_pointer_and_no_part(partner: CsvFile, home: Path) -> None:
    publish(partner, [["a"]], 1, "c")

    def torn() -> Iterator[Sequence[str]]:
        yield ["b"]
        raise LookupError

    with pytest.raises(LookupError):
        publish(partner, torn(), 2, "d")

    assert read(home / "current.csv") == [["user_id"], ["a"]]
    assert not list(home.glob("*2-d*")) + list(home.glob(".*.part"))


def test_parts_of_writers_that_died_are_removed_once_they_can_no_longer_publish(partner: CsvFile, home: Path) -> None:
    publish(partner, [["a"]], 1, "c")
    (home / ".1-dead.part").touch()
    (home / ".3-later.part").touch()

    publish(partner, [["a"]], 2, "d")

    assert [path.name for path in home.glob(".*.part")] == [".3-later.part"]


def test_a_writer_that_is_stopped_in_the_flip_does_not_stop_the_next_one_for_ever(partner: CsvFile, home: Path) -> None:
    publish(partner, [["a"]], 1, "c")
    with (home / ".lock").open("a", encoding="utf-8") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(PartnerFolderNotWritable, match="another process publishes there this moment;"):
            publish(partner, [["b"]], 2, "d")

    publish(partner, [["b"]], 2, "d")
    assert partner.holds(TARGET, "d")


def test_a_folder_that_refuses_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    partner = apptimize_file(folder=tmp_path / "file" / "imports", region="na")

    with pytest.raises(PartnerFolderNotWritable, match=str(tmp_path)):
        publish(partner, [["a"]], 1, "c")
    with pytest.raises(PartnerOutcomeUnknown, match="permissions"):
        asyncio.run(partner.check(None))


def test_a_disk_that_takes_no_more_leaves_the_pointer(home: Path, partner: CsvFile) -> None:
    publish(partner, [["a"]], 1, "c")

    with at_most_in_a_file(65_536), pytest.raises(PartnerFolderNotWritable, match=os.strerror(errno.EFBIG)):
        publish(partner, [["b" * 1_000] * 100], 2, "d")

    assert read(home / "current.csv") == [["user_id"], ["a"]]
    assert not list(home.glob(".*.part"))


def test_check_leaves_nothing_behind(partner: CsvFile, home: Path) -> None:
    assert asyncio.run(partner.check(TARGET)).startswith("Connected")
    assert list(home.parent.iterdir()) == []
