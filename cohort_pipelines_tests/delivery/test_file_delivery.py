import csv
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.core.changes import NamedCohort
from cohort_pipelines.core.errors import (
    DeliveryDeferred,
    DeliveryStopped,
    NewerFilePublished,
    PartnerFolderNotWritable,
    PartnerOutcomeUnknown,
    SyncPaused,
)
from cohort_pipelines.core.files import Stage
from cohort_pipelines.destinations.csv_file import CsvFile
from cohort_pipelines.destinations.wire import Audience, Permit, Publication
from cohort_pipelines.ledger.pauses import pause, resume
from cohort_pipelines.ledger.schema import AttemptState
from cohort_pipelines_tests.delivery.world import SYNC, World, users


@dataclass
class MemoryFiles:
    """Takes the whole audience at once, as a file wire does."""

    wire: str = "files"
    host: str = ""
    account: str = ""
    cohort: NamedCohort | None = None
    atomic: bool = True
    assumed_per_second: float = 1_000.0
    findable: bool = False
    current: set[str] = field(default_factory=set)
    published: list[tuple[int, str]] = field(default_factory=list)
    fails: bool = False
    newer: bool = False
    meanwhile: Callable[[], None] = lambda: None  # while the file is written

    def count_requests(self, rows: int) -> int:
        return 1 + rows // 1_000

    def publish(self, target: str, audience: Audience, permit: Permit) -> Publication:
        assert target == "Beta"
        self.meanwhile()
        if permit() is None:
            return Publication(reached="none")
        if self.newer:
            raise NewerFilePublished(self.wire, audience.generation + 1, audience.generation)
        self.current = {each for batch in audience.ids for each in batch}
        if self.fails:
            raise PartnerOutcomeUnknown(self.wire, "disk full")
        self.published.append((audience.generation, audience.checksum))
        return Publication()

    def find(self, target: str, permit: Permit) -> int:  # noqa: ARG002
        raise AssertionError(target)

    def holds(self, target: str, checksum: str) -> bool:
        assert target == "Beta"
        return bool(self.published) and self.published[-1][1] == checksum


def test_the_whole_audience_is_published_and_membership_follows(world: World) -> None:
    files = MemoryFiles()
    payload, seq = world.seal(users(1, 2, 3))
    first = world.deliver(payload, seq, partner=files)
    world.next_window()
    payload, seq = world.seal(users(2, 3, 4, 5))
    second = world.deliver(payload, seq, partner=files)

    assert files.current == users(2, 3, 4, 5)
    assert files.published == [(1, first.payload_checksum), (2, second.payload_checksum)]
    assert (second.joiners, second.leavers, second.unchanged, second.acknowledged) == (2, 1, 2, 3)
    assert second.state is AttemptState.DELIVERED


@pytest.mark.parametrize("audience", [set(), users(1, 2)])
def test_an_unchanged_audience_is_published_once(world: World, audience: set[str]) -> None:
    files = MemoryFiles()
    for _ in range(2):
        payload, seq = world.seal(audience)
        world.deliver(payload, seq, partner=files)
        world.next_window()
    assert len(files.published) == 1


@pytest.mark.parametrize("audience", [set(), users(1, 2)])
def test_a_file_that_is_gone_is_published_again_though_the_audience_is_the_same(
    world: World, audience: set[str]
) -> None:
    files = MemoryFiles()
    for _ in range(3):
        payload, seq = world.seal(audience)
        assert world.deliver(payload, seq, partner=files).state is AttemptState.DELIVERED
        world.next_window()
        files.published.clear()
        files.current = set()
    payload, seq = world.seal(audience)
    world.deliver(payload, seq, partner=files)
    assert files.published == [(4, payload.checksum)]
    assert files.current == audience


def test_an_unchanged_audience_is_not_read_to_be_published(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    files = MemoryFiles()
    world.overwrite(users(1, 2), partner=files)
    monkeypatch.delattr("cohort_pipelines.delivery.publishing._bare")
    world.next_window()
    assert world.overwrite(users(1, 2), partner=files).state is AttemptState.DELIVERED


def test_a_newer_file_stops_and_nothing_is_known_to_have_changed(world: World) -> None:
    files = MemoryFiles(newer=True)
    payload, seq = world.seal(users(1, 2))
    with pytest.raises(DeliveryStopped, match="newer than 1"):
        world.deliver(payload, seq, partner=files)
    assert world.history.versions(SYNC, Stage.MEMBERSHIP, world.window.key) == []  # not even that it may have changed


def test_a_file_that_may_not_be_there_is_published_again(world: World) -> None:
    files = MemoryFiles(fails=True)
    payload, seq = world.seal(users(1, 2))
    with pytest.raises(DeliveryStopped, match="disk full"):
        world.deliver(payload, seq, partner=files)
    assert world.ledger.newest_delivered(SYNC) is None

    files.fails = False
    assert world.deliver(payload, seq, partner=files).acknowledged == 2
    assert files.published == [(2, payload.checksum)]


def test_a_folder_that_refuses_before_the_pointer_changes_no_membership(world: World, tmp_path: Path) -> None:
    (tmp_path / "in_the_way").touch()
    files = CsvFile(partner="Apptimize", folder=tmp_path / "in_the_way")
    payload, seq = world.seal(users(1, 2))
    with pytest.raises(DeliveryStopped, match="in_the_way"):
        world.deliver(payload, seq, partner=files)
    assert world.history.versions(SYNC, Stage.MEMBERSHIP, world.window.key) == []


def test_after_the_deadline_nothing_is_published_and_the_next_window_does_it(world: World) -> None:
    files = MemoryFiles()
    payload, seq = world.seal(users(1, 2))
    with pytest.raises(DeliveryDeferred):
        world.deliver(payload, seq, partner=files, deadline=clock.now() - timedelta(seconds=1))
    assert files.published == []

    assert world.deliver(payload, seq, partner=files).acknowledged == 2


def test_a_folder_that_outlives_ledger_and_history_says_how_it_is_published_to_again(
    world: World, tmp_path: Path
) -> None:
    files = CsvFile(partner="Apptimize", folder=tmp_path / "imports")
    for numbers in ((1, 2), (2, 3)):
        world.next_window()
        payload, seq = world.seal(users(*numbers))
        world.deliver(payload, seq, partner=files)
    (tmp_path / "anew").mkdir()
    anew = World(tmp_path / "anew")
    payload, seq = anew.seal(users(3, 4))
    with pytest.raises(
        DeliveryStopped, match=r"generation 2, which is newer than 1.* remove the target's current\.csv"
    ):
        anew.deliver(payload, seq, partner=files)

    [current] = (tmp_path / "imports").rglob("current.csv")
    current.unlink()
    anew.next_window()
    payload, seq = anew.seal(users(3, 4))
    anew.deliver(payload, seq, partner=files)
    assert current.read_text(encoding="utf-8").split() == ["user_id", *sorted(users(3, 4))]


@dataclass
class FullAtLast(MemoryFiles):
    """Runs into a full disk after an hour of writing."""

    def publish(self, target: str, audience: Audience, permit: Permit) -> Publication:
        assert permit() is not None
        self.meanwhile()
        raise PartnerFolderNotWritable(self.wire, Path(target), f"no space for {audience.rows} ids")


def test_a_disk_that_refuses_after_the_deadline_is_no_want_of_time(world: World) -> None:
    with ExitStack() as later:
        files = FullAtLast(meanwhile=lambda: later.enter_context(clock.shifted(timedelta(hours=2))))
        payload, seq = world.seal(users(1, 2))
        with pytest.raises(DeliveryStopped, match="no space for 2 ids"):
            world.deliver(payload, seq, partner=files)


def test_a_pause_comes_before_the_pointer(world: World) -> None:
    files = MemoryFiles(meanwhile=lambda: pause(world.ledger, SYNC, who="ann", why="a campaign"))
    payload, seq = world.seal(users(1, 2))
    with pytest.raises(SyncPaused, match="a campaign"):
        world.deliver(payload, seq, partner=files)
    assert files.published == []

    resume(world.ledger, SYNC)
    assert world.deliver(payload, seq, partner=MemoryFiles()).acknowledged == 2


@pytest.mark.parametrize("harm", ["truncated", "edited", "pointer moved", "pointer removed", "manifest gone"])
def test_a_published_file_that_somebody_harmed_is_published_again(world: World, tmp_path: Path, harm: str) -> None:
    files = CsvFile(partner="Apptimize", folder=tmp_path / "imports")
    for audience in (users(1, 2), users(2, 3)):
        payload, seq = world.seal(audience)
        world.deliver(payload, seq, partner=files)
        world.next_window()
    current = tmp_path / "imports" / "Beta" / "current.csv"
    named = current.resolve()
    if harm == "truncated":
        named.write_bytes(named.read_bytes()[:-4])
    elif harm == "edited":
        named.write_bytes(named.read_bytes().replace(b"user-0003", b"user-0009"))
    elif harm == "manifest gone":
        named.with_suffix(".json").unlink()
    else:
        current.unlink()
    if harm == "pointer moved":
        (older,) = (file for file in named.parent.glob("*.csv") if not file.is_symlink() and file != named)
        current.symlink_to(older.name)

    payload, seq = world.seal(users(2, 3))
    receipt = world.deliver(payload, seq, partner=files)

    assert (receipt.state, receipt.planned) == (AttemptState.DELIVERED, 0)
    with current.open(encoding="utf-8", newline="") as file:
        assert {row[0] for row in csv.reader(file)} == {"user_id", *users(2, 3)}


def test_a_harmed_pointer_that_cannot_be_put_right_is_red(world: World, tmp_path: Path) -> None:
    files = CsvFile(partner="Apptimize", folder=tmp_path / "imports")
    payload, seq = world.seal(users(1, 2))
    world.deliver(payload, seq, partner=files)
    current = tmp_path / "imports" / "Beta" / "current.csv"
    current.unlink()
    current.mkdir()

    world.next_window()
    payload, seq = world.seal(users(1, 2))
    with pytest.raises(DeliveryStopped, match="imports/Beta"):
        world.deliver(payload, seq, partner=files)
