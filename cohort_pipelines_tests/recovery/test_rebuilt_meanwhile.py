"""The ledger is lost and rebuilt while a delivery goes on with the file that was lost: two would send at once."""

import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import msgspec
import pytest
from sqlalchemy import select

from cohort_pipelines.core.errors import DeliveryStopped, IdsForgotten, LedgerUnpaired
from cohort_pipelines.core.files import Stage
from cohort_pipelines.history import History
from cohort_pipelines.ledger import schema
from cohort_pipelines.ledger.ledger import Ledger
from cohort_pipelines.recovery import pairing, recovering
from cohort_pipelines.recovery import rebuilding as rebuilding_module
from cohort_pipelines.recovery.rebuilding import rebuild
from cohort_pipelines.recovery.recovering import FoundReceipt, Gathered
from cohort_pipelines_tests.delivery.world import SYNC, World, dropped, users


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
    [looking] = [thread for thread in threading.enumerate() if thread.name == "pairing"]
    looking.join(30)
    assert not looking.is_alive()


def test_whoever_still_writes_the_lost_ledger_starts_no_further_request(world: World) -> None:
    world.overwrite(users(*range(5)))
    world.next_window()
    world.partner.workers, before = 1, len(world.partner.requests)
    rebuilding(world, before + 2, until_the_lease_is_looked_at)

    payload, seq = world.seal(users(*range(60)))
    with pytest.raises(DeliveryStopped, match="the history became another ledger's meanwhile"):
        world.deliver(payload, seq, lease_seconds=0.3)

    assert len(world.partner.requests) == before + 2


def test_it_leaves_no_receipt_however_it_ends(world: World) -> None:
    world.overwrite(users(*range(5)))
    world.next_window()
    ledger = rebuilding(world, len(world.partner.requests) + 1, lambda: None)
    world.partner.always = dropped
    with pytest.raises(DeliveryStopped):
        world.overwrite(users(*range(6)))
    assert not world.history.versions(SYNC, Stage.RECEIPT, world.window.key)
    pairing.require_paired(ledger, world.history)


def test_what_begins_while_files_are_gathered_is_not_sent(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.overwrite(users(*range(5)))
    world.next_window()
    payload, seq = world.seal({*users(*range(5)), "late"})
    ledger, found, before = Ledger(f"sqlite:///{world.folder}/rebuilt.sqlite"), [], len(world.partner.requests)

    def late(
        files: History, syncs: Iterable[str], receipts: Sequence[FoundReceipt]
    ) -> AbstractContextManager[Gathered]:
        with pytest.raises(LedgerUnpaired) as refused:
            world.deliver(payload, seq)
        found.append(str(refused.value))
        return recovering.gathered(files, syncs, receipts)

    monkeypatch.setattr(rebuilding_module, "gathered", late)
    rebuild(ledger, world.history)
    assert len(found) == 1
    assert len(world.partner.requests) == before


def test_a_rebuilding_that_is_refused_leaves_the_history_to_whom_it_was(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forgotten(*_: object, **__: object) -> NoReturn:
        raise IdsForgotten(SYNC, 5, 0, "there")

    world.overwrite(users(1))
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(rebuilding_module, "_recover", forgotten)
        with pytest.raises(IdsForgotten):
            rebuild(world.ledger, world.history)
    world.next_window()
    assert world.overwrite(users(1, 2)).in_doubt == 0


@pytest.mark.parametrize("behind", [True, False])
def test_of_two_marks_the_one_that_has_come_further_counts(world: World, behind: bool) -> None:
    world.overwrite(users(1))
    world.next_window()
    world.overwrite(users(1, 2))
    [(name, content)] = [(name, each) for name, each in world.history.read_marks().items() if name != "id.json"]
    mark = pairing.read_mark(pairing.Mirror, content)
    assert mark is not None
    older = replace(mark, target_generation=1, run="somebody, another")
    first, second = (f"doubled-{name}", "zz.json") if behind else ("0.json", f"doubled-{name}")
    world.history.write_mark(first, msgspec.json.encode(older))
    world.history.write_mark(second, msgspec.json.encode(older))
    fresh = Ledger(f"sqlite:///{world.folder}/fresh.sqlite")
    rebuild(fresh, world.history)
    with fresh.read() as connection:
        assert connection.execute(select(schema.target.c.generation)).scalar_one() > 2


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
    assert after.overwrite(users(*range(3, 9))).in_doubt
    assert world.partner.members == users(*range(3, 9))
