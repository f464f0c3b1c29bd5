"""F48: two hosts on one shared disk, of which neither sees the locks of the other: none touches the other's files."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cohort_pipelines.core import clock, disk
from cohort_pipelines.core import storage as history_disk
from cohort_pipelines.core.disk import Kernel
from cohort_pipelines.core.errors import PartnerFolderNotWritable, ProjectFolderInvalid
from cohort_pipelines.destinations.apptimize import apptimize_file
from cohort_pipelines.destinations.csv_file import CsvFile
from cohort_pipelines.destinations.wire import Audience, Publication
from cohort_pipelines.devtools import processes
from cohort_pipelines.history import History

HERE = Kernel("here", "m1", "b1")
HERE_AFTER_A_RESTART = Kernel("here", "m1", "b2")
IN_A_CONTAINER_HERE = Kernel("3f0c1d", "", "b1")
THERE = Kernel("there", "m2", "b3")
THERE_AND_CALLED_ALIKE = Kernel("here", "m2", "b4")
THERE_WITHOUT_A_NUMBER = Kernel("here", "", "b5")
OTHERS = [THERE, THERE_AND_CALLED_ALIKE, THERE_WITHOUT_A_NUMBER]

SwitchTo = Callable[[Kernel], None]


@pytest.fixture
def switch_to(monkeypatch: pytest.MonkeyPatch) -> SwitchTo:
    """Return what lets the test go on under a kernel; one that is not the first sees none of the first one's locks."""

    def switch_to(kernel: Kernel) -> None:
        for module in (disk, history_disk):
            monkeypatch.setattr(module, "this_kernel", lambda: kernel)
        if kernel.boot != HERE.boot:
            monkeypatch.setattr(fcntl, "flock", lambda *_: None)

    switch_to(HERE)
    return switch_to


@pytest.fixture
def partner(tmp_path: Path) -> CsvFile:
    return apptimize_file(folder=tmp_path / "imports", region="na")


def publish(partner: CsvFile, generation: int) -> Publication:
    return partner.publish("Beta", Audience([["a"]], 1, generation, f"c{generation}"), clock.now)


@pytest.mark.parametrize("other", OTHERS)
def test_f48_scratch_of_another_host_stays(tmp_path: Path, switch_to: SwitchTo, other: Kernel) -> None:
    history = History(tmp_path / "history")
    with history.scratch() as theirs:
        (theirs / "spill").touch()
        switch_to(other)
        with history.scratch() as ours:
            assert (theirs / "spill").exists()
            assert ours.parent == theirs.parent


@pytest.mark.parametrize("ours", [HERE, HERE_AFTER_A_RESTART, IN_A_CONTAINER_HERE])
def test_f48_scratch_that_a_dead_process_of_this_host_left_goes(
    tmp_path: Path, switch_to: SwitchTo, ours: Kernel
) -> None:
    history = History(tmp_path / "history")
    with history.scratch() as theirs:
        left = theirs.with_name(f"0{theirs.name[1:]}")
    left.mkdir()
    switch_to(ours)

    with history.scratch():
        assert not left.exists()


def test_f48_containers_that_no_number_tells_apart_leave_each_others_scratch(
    tmp_path: Path, switch_to: SwitchTo
) -> None:
    history = History(tmp_path / "history")
    switch_to(Kernel("app", "", "b6"))
    with history.scratch() as theirs:
        switch_to(Kernel("app", "", "b7"))
        with history.scratch():
            assert theirs.exists()


def test_f48_scratch_that_no_process_can_own_any_more_goes(tmp_path: Path, switch_to: SwitchTo) -> None:
    history = History(tmp_path / "history")
    with history.scratch() as theirs:
        left = theirs.with_name(f"0{theirs.name[1:]}")
    left.mkdir()
    switch_to(THERE)
    with history.scratch():
        assert left.exists()
    eight_days_ago = left.parent.stat().st_mtime - 8 * 86_400
    os.utime(left, (eight_days_ago, eight_days_ago))

    with history.scratch():
        assert not left.exists()


def test_f48_a_host_that_went_while_it_published_holds_up_nobody_for_long(
    tmp_path: Path, partner: CsvFile, switch_to: SwitchTo
) -> None:
    assert publish(partner, 1) == Publication()
    owner = tmp_path / "imports" / "Beta" / ".lock.owner"
    owner.symlink_to(HERE.name)
    long_ago = owner.lstat().st_mtime - 61
    os.utime(owner, (long_ago, long_ago), follow_symlinks=False)
    switch_to(THERE)

    assert publish(partner, 2) == Publication()
    assert partner.holds("Beta", "c2")
    assert not owner.is_symlink()


@pytest.mark.parametrize("other", OTHERS)
def test_f48_a_file_is_not_published_while_another_host_publishes(
    tmp_path: Path, partner: CsvFile, switch_to: SwitchTo, other: Kernel
) -> None:
    assert publish(partner, 1) == Publication()
    lock = tmp_path / "imports" / "Beta" / ".lock"
    with disk.only_holder(lock):
        switch_to(other)
        with pytest.raises(
            PartnerFolderNotWritable, match=r"host here has it, .* remove .*/\.lock\.owner if it is gone"
        ):
            publish(partner, 2)
    assert partner.holds("Beta", "c1")

    assert publish(partner, 2) == Publication()
    assert partner.holds("Beta", "c2")


@pytest.mark.parametrize("other", OTHERS)
def test_f48_a_project_is_not_served_by_two_hosts(tmp_path: Path, switch_to: SwitchTo, other: Kernel) -> None:
    with processes.only_one(tmp_path):
        switch_to(other)
        with pytest.raises(ProjectFolderInvalid, match="served already on another host: host here has it"):
            processes.only_one(tmp_path).__enter__()
    with processes.only_one(tmp_path) as lock:
        assert lock > 0


@pytest.mark.parametrize("ours", [HERE, HERE_AFTER_A_RESTART, IN_A_CONTAINER_HERE])
def test_f48_what_a_dead_process_of_this_host_held_is_free(tmp_path: Path, switch_to: SwitchTo, ours: Kernel) -> None:
    path = tmp_path / "lock"
    path.with_name("lock.owner").symlink_to(HERE.name)
    switch_to(ours)

    with disk.only_holder(path) as lock:
        assert lock > 0
    assert not path.with_name("lock.owner").is_symlink()
