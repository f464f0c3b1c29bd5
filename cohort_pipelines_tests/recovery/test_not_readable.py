"""A history that cannot be read for now: every command says so, and what was sent is known afterwards."""

import errno
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from unittest.mock import patch

import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from cohort_pipelines.core import clock
from cohort_pipelines.core.errors import DeliveryStopped, HistoryFileDamaged, HistoryNotReadable, LedgerUnpaired
from cohort_pipelines.history import History
from cohort_pipelines.ledger.lease import Lease
from cohort_pipelines.recovery import pairing
from cohort_pipelines.recovery.rebuilding import rebuild
from cohort_pipelines_tests.delivery.world import SYNC, World, users

LEASE_IS_OVER = timedelta(minutes=2)
DENIED = PermissionError(errno.EACCES, "Permission denied")


class EndpointConnectionError(Exception):
    """An error of a driver's own."""


@contextmanager
def refusing(
    files: type, method: str, error: Exception, when: Callable[[str], bool] = lambda _path: True
) -> Iterator[None]:
    """Let ``method`` of a file system raise ``error`` of each path that ``when`` is true of."""
    answers = getattr(files, method)

    def answer(self: object, path: str, *arguments: object, **options: object) -> object:
        if when(path):
            raise error
        return answers(self, path, *arguments, **options)

    with patch.object(files, method, answer):
        yield


@pytest.fixture
def remote(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Return a world whose history lies on an object store."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    world.history = History(f"memory://{tmp_path.name}/history")
    return world


def test_a_history_that_cannot_be_listed_is_refused_by_whoever_opens_a_ledger(remote: World) -> None:
    remote.overwrite(users(1))

    with refusing(MemoryFileSystem, "ls", DENIED), pytest.raises(HistoryNotReadable, match="Permission denied"):
        pairing.require_fitting(remote.ledger, remote.history)


@pytest.mark.parametrize("asked", [pairing.require_fitting, pairing.require_own])
def test_a_mark_that_we_may_not_read_is_not_taken_for_a_damaged_one(
    remote: World, asked: Callable[..., object]
) -> None:
    remote.overwrite(users(1))

    with refusing(MemoryFileSystem, "cat_file", DENIED), pytest.raises(HistoryNotReadable, match=r"\.ledger/"):
        asked(remote.ledger, remote.history)
    with refusing(MemoryFileSystem, "cat_file", DENIED), pytest.raises(HistoryNotReadable, match=r"\.ledger/"):
        pairing.require_unused(remote.history, "nowhere")


@pytest.mark.parametrize("answered", [1, 2])
def test_a_store_that_falls_silent_after_something_was_sent_is_made_up_for(remote: World, answered: int) -> None:
    remote.overwrite(users(1))
    remote.next_window()
    before = len(remote.partner.requests)
    payload, seq = remote.seal(users(2))

    with (
        refusing(
            MemoryFileSystem,
            "get_file",
            EndpointConnectionError(),
            when=lambda _: len(remote.partner.requests) == before + answered,
        ),
        pytest.raises(DeliveryStopped, match=f"{answered} of 2 changes: The history could not be read at .*Endpoint"),
    ):
        remote.deliver(payload, seq)

    [noted, _] = remote.ledger.windows(SYNC)
    assert (noted.state, "EndpointConnectionError" in noted.reason) == ("failed", True)
    assert "Nothing was sent" not in noted.reason
    remote.next_window()
    with clock.shifted(LEASE_IS_OVER):
        remote.overwrite(users(2, 3))
    assert remote.partner.members == users(2, 3)


@pytest.mark.parametrize(
    ("error", "expected"),
    [(DENIED, HistoryNotReadable), (OSError(errno.EIO, "Input/output error"), HistoryFileDamaged)],
)
def test_a_membership_that_cannot_be_read_ends_the_attempt_before_anything_is_sent(
    world: World, error: OSError, expected: type[Exception]
) -> None:
    world.overwrite(users(1))
    world.next_window()
    before = len(world.partner.requests)
    payload, seq = world.seal(users(2))

    with (
        refusing(LocalFileSystem, "open", error, when=lambda path: "stage=membership" in path),
        pytest.raises(expected, match="stage=membership") as refused,
    ):
        world.deliver(payload, seq)

    assert len(world.partner.requests) == before
    noted = world.ledger.windows(SYNC)[0]
    assert (noted.key, noted.state, noted.reason) == (world.window.key, "failed", str(refused.value))
    assert not world.ledger.is_delivering(SYNC)
    world.next_window()
    world.overwrite(users(2))
    assert world.partner.members == users(2)


def test_a_rebuilding_leaves_nothing_out_that_only_cannot_be_read_for_now(remote: World) -> None:
    remote.overwrite(users(1))

    for method in ("cat_file", "get_file"):
        with (
            refusing(MemoryFileSystem, method, DENIED, when=lambda path: "id.json" not in path),
            pytest.raises(HistoryNotReadable),
        ):
            rebuild(remote.ledger, remote.history)

    assert pairing.require_fitting(remote.ledger, remote.history)  # as it was
    assert rebuild(remote.ledger, remote.history).left_out == 0


def test_a_look_at_the_history_that_fails_is_no_end_of_a_turn() -> None:
    looked = threading.Event()
    answers = iter([HistoryNotReadable("there", "Permission denied"), LedgerUnpaired("here", "there", "another")])

    class Ledgerless(Lease):
        def _renew(self) -> None:
            """Stand for a ledger that is there."""

    lease = Ledgerless(None, 1, "Beta", 1, seconds=0.03, renewed=clock.monotonic())  # type: ignore[arg-type]

    def look() -> None:
        answer = next(answers)
        if isinstance(answer, LedgerUnpaired):
            looked.set()
        raise answer

    with patch.object(Ledgerless, "fenced", side_effect=LedgerUnpaired("here", "there", "x")), lease.heartbeat(look):
        assert looked.wait(timeout=10)
    assert isinstance(lease.lost, LedgerUnpaired)
