"""The ledger is lost and rebuilt while a delivery goes on with the file that was lost: two would send at once."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from cohort_pipelines.delivery import Ledger, pairing
from cohort_pipelines.delivery.rebuilding import rebuild
from cohort_pipelines.errors import DeliveryStopped
from cohort_pipelines.history import Stage
from cohort_pipelines_tests.delivery.world import SYNC, World, users


def rebuilding(world: World, at: int, then: Callable[[], None]) -> Ledger:
    """Let another ledger be made of the history amid request number ``at``."""
    ledger = Ledger(f"sqlite:///{world.folder}/rebuilt.sqlite")

    def rebuilt(number: int) -> None:
        if number == at:
            world.partner.on_request = None
            rebuild(ledger, world.history)
            then()

    world.partner.on_request = rebuilt
    return ledger


def until_the_lease_is_looked_at() -> None:
    [renewing] = [thread for thread in threading.enumerate() if thread.name == "lease"]
    renewing.join(30)
    assert not renewing.is_alive()


def test_whoever_still_writes_the_lost_ledger_starts_no_further_request(world: World) -> None:
    world.overwrite(users(*range(5)))
    world.next_window()
    world.partner.workers, before = 1, len(world.partner.requests)
    rebuilding(world, before + 2, until_the_lease_is_looked_at)

    payload, seq = world.seal(users(*range(60)))
    with pytest.raises(DeliveryStopped, match="the history became another ledger's meanwhile"):
        world.deliver(payload, seq, lease_seconds=0.3)

    assert len(world.partner.requests) == before + 2


def test_it_does_not_end_green_either_and_the_rebuilt_ledger_goes_on(world: World, tmp_path: Path) -> None:
    world.overwrite(users(*range(5)))
    world.next_window()
    ledger = rebuilding(world, len(world.partner.requests) + 1, lambda: None)

    with pytest.raises(DeliveryStopped, match="the history became another ledger's meanwhile"):
        world.overwrite(users(*range(6)))

    assert not world.history.versions(SYNC, Stage.RECEIPT, world.window.key)
    pairing.require_paired(ledger, world.history)
    after = World(tmp_path, world.partner, ledger=ledger)
    after.history, after.window = world.history, world.next_window()
    assert after.overwrite(users(*range(3, 9))).unsettled
    assert world.partner.members == users(*range(3, 9))
